"""JEST: the part of a large batch that is learned from, chosen by a learner and a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import run_ranks
from objectives.published import Captions, batch_of, published
from small import save_checkpoint, small_trainer
from variants.senses import error_of, share

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.data.learnability import learnable_rows, odds
from lightning_clip.training.micro_batches import take


def jest(reference: Any, **settings: Any) -> ClipModule:
    return published("several_texts", objective={"name": "jest", "reference": reference, **settings})


@pytest.fixture(scope="module")
def trained() -> ClipModule:
    """A reference that knows twelve pairs by heart."""
    module = published("several_texts", 3, objective="pairs")
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    batch = batch_of(module, 12)
    for _ in range(100):
        optimizer.zero_grad()
        module.compute_loss(module.encode_batch(batch), batch)["loss"].backward()
        optimizer.step()
    assert module.compute_loss(module.encode_batch(batch), batch)["loss"] < 0.5
    return module.eval()


def test_the_rows_are_those_of_the_formula(trained: ClipModule) -> None:
    module = jest(trained, keep=0.25, chunks=2, slice_size=5).train()
    batch = batch_of(module, 12)
    torch.manual_seed(7)
    found = module.objective.select(module.model, batch)
    with torch.no_grad():
        learner = module.model.scale() * module.encode_image(batch.image) @ module.encode_text(batch.texts).T  # type: ignore[arg-type]
        told = trained.model.scale() * trained.encode_image(batch.image) @ trained.encode_text(batch.texts).T  # type: ignore[arg-type]
    torch.manual_seed(7)
    assert found.index.tolist() == learnable_rows(odds(learner), odds(told), 3, 2).tolist()
    assert found.texts == [batch.texts[row] for row in found.index] and module.model.training  # type: ignore[index]


def test_pairs_that_the_reference_knows_come_before_noise(trained: ClipModule) -> None:
    """Of 24 pairs the reference has learned the first twelve: what is chosen is nearly all of them."""
    module = jest(trained, keep=0.25, chunks=3).train()
    chosen: list[int] = []
    for seed in range(5):
        torch.manual_seed(seed)
        chosen += module.objective.select(module.model, batch_of(module, 24)).index.tolist()
    assert sum(place < 12 for place in chosen) >= 0.8 * len(chosen)


def test_a_resumed_run_ends_as_the_whole_one(trained: ClipModule, tmp_path: Path) -> None:
    """The reference comes from a file, and is in no checkpoint; steps see a quarter of the loader's batch."""
    reference = str(save_checkpoint(tmp_path / "reference.ckpt", trained))
    seen: list[int] = []

    def run(steps: int, seed: int, resume: Path | None = None) -> tuple[Any, dict[str, torch.Tensor]]:
        module = jest(reference, keep=0.25)
        loss = module.compute_loss

        def counted(output: Any, batch: Any) -> Any:
            seen.append(batch.size)
            return loss(output, batch)

        module.compute_loss = counted  # type: ignore[method-assign]
        torch.manual_seed(seed)
        trainer = small_trainer(tmp_path, max_steps=steps)
        trainer.fit(module, ClipDataModule(Captions(), local_batch_size=16), ckpt_path=resume)
        return trainer, {name: value.clone() for name, value in module.state_dict().items()}

    whole = run(3, 0)[1]
    trainer, _ = run(1, 0)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = run(3, 5, tmp_path / "one.ckpt")[1]
    assert set(seen) == {4} and all(torch.equal(again[name], value) for name, value in whole.items())
    stored = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert not [name for name in stored["state_dict"] if "reference" in name]
    assert ClipModule.from_pretrained(str(tmp_path / "one.ckpt")).objective.to_mapping()["name"] == "pairs"


def gradients_of(module: ClipModule, batch: Any, micro_batch_size: int | None = None) -> dict[str, torch.Tensor]:
    """Of a step on what is chosen from a batch; DDP's means where there are ranks."""
    module.zero_grad()
    module.micro_batch_size = micro_batch_size
    module.compute_loss(module.encode_batch(batch), batch)["loss"].backward()
    found = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    if dist.is_initialized():
        for value in found.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
    return found


def chosen_by(rank: int) -> tuple[ClipModule, Any]:
    """A rank's own batch of eight of 16 pairs, of which it keeps four."""
    module = jest(published("several_texts", 3, objective="pairs").eval(), keep=0.5, chunks=2).train()
    torch.manual_seed(rank)
    return module, module.objective.select(module.model, share(batch_of(module, 16), rank, 8))


def _on_rank(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    return gradients_of(*chosen_by(rank), micro_batch_size=2)


def test_ranks_in_slices_learn_from_what_each_has_chosen() -> None:
    """The gradients are those of one process on what both ranks have chosen from their own batches."""
    chosen = [chosen_by(rank)[1].index.tolist() for rank in range(2)]
    assert all(len(rows) == 4 for rows in chosen) and max(chosen[0]) < 8 <= min(chosen[1])
    module = chosen_by(0)[0]
    both = take(batch_of(module, 16), torch.tensor(chosen[0] + chosen[1]))
    expected = gradients_of(module, both)
    assert error_of(gradients_of(module, both, 4), expected) <= 1e-6
    for found in run_ranks(_on_rank, 2):
        assert error_of(found, expected) <= 2e-6


def test_the_loss_falls(trained: ClipModule) -> None:
    module = jest(trained, keep=0.5, chunks=2).train()
    batch = batch_of(module, 16)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    losses = []
    for step in range(25):
        torch.manual_seed(step)
        own = module.objective.select(module.model, batch)
        optimizer.zero_grad()
        loss = module.compute_loss(module.encode_batch(own), own)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, "jest: keep 0.0 must be a number > 0 and <= 1"),
        ({"chunks": 0}, "jest: chunks 0 must be a whole number >= 1"),
        ({"reference": []}, "is empty: give at least one"),
        ({"reference": ["a.ckpt", "b.ckpt"]}, "jest has one reference model, and 2 are named: name one"),
        ({"reference": "stored"}, "jest needs a live reference model: name a checkpoint, open_clip:NAME/TAG or hf:NAME"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        jest(**{"reference": "no.ckpt", **settings})
