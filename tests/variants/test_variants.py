"""Variants: towers of any column, one tower for two columns; the same gradients in slices, on ranks and under strategies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from corners import corners
from distributed.ranks import run_ranks
from lightning.pytorch import Callback, LightningModule, Trainer
from small import IMAGE, TEXT, small_trainer
from strategies.ranks import _ranks, _whole
from torch import Tensor
from variants.senses import SETTINGS, VARIANTS, Senses, batch_of, error_of, gradients, module_of, share
from waiting import free_port

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.variants import SimClr

ROOM = Path(__file__).parents[2] / "lightning_clip" / "variants"


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_in_slices_are_those_of_the_batch(variant: str) -> None:
    module = module_of(variant)
    batch = batch_of(module, Senses())
    assert error_of(gradients(module, batch, 4), gradients(module, batch)) <= 1e-5


def _on_rank(rank: int, world_size: int, variant: str) -> dict[str, Tensor]:
    module = module_of(variant)
    return gradients(module, share(batch_of(module, Senses()), rank, 8), 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_on_two_ranks_are_those_of_one_process(variant: str) -> None:
    """Ranks hold 8 and 4 samples, in slices of 4."""
    module = module_of(variant)
    expected = gradients(module, batch_of(module, Senses()))
    for found in run_ranks(_on_rank, 2, variant):
        assert error_of(found, expected) <= 1e-5


class FirstGradients(Callback):
    """Whole gradients of the first optimizer step, as the strategy hands them to the optimizer."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if not self.found:
            named = ((name, value.grad) for name, value in pl_module.named_parameters())
            self.found = {name: _whole(gradient) for name, gradient in named if gradient is not None}


def _fitted(rank: int, world_size: int, port: int, folder: Path, variant: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    if world_size > 1:
        _ranks(rank, world_size, port)
    training = {**SETTINGS["training"], "micro_batch_size": settings.get("micro_batch_size")}
    module = module_of(variant, training=training)
    strategy = settings.get("strategy", "auto")
    gradients = FirstGradients()
    trainer = small_trainer(folder, strategy=strategy, devices=world_size, max_steps=3, callbacks=[gradients])
    trainer.fit(module, ClipDataModule(Senses(), local_batch_size=16 // world_size))
    return {name: _whole(value) for name, value in module.state_dict().items()}, gradients.found


@pytest.mark.parametrize(
    ("variant", "strategy"),
    corners(
        [(variant, strategy) for variant in ("imagebind", "geoclip", "audio", "simclr") for strategy in ("ddp", "clip_fsdp2")],
        ("imagebind", "clip_fsdp2"),
        ("simclr", "ddp"),
    ),
)
def test_trained_on_two_ranks_as_alone(variant: str, strategy: str, tmp_path: Path) -> None:
    """Through loader, Trainer and strategy, with micro-batches: one process's gradients, and its weights after three steps."""
    alone, expected = run_ranks(_fitted, 1, 0, tmp_path, variant, {})[0]
    settings = {"strategy": strategy, "micro_batch_size": 4}
    found, gradients = run_ranks(_fitted, 2, free_port(), tmp_path, variant, settings)[0]
    assert error_of(gradients, expected) <= 1e-5
    start = module_of(variant).state_dict()
    assert set(found) == set(alone)
    for name, value in alone.items():
        assert (found[name] - value).double().norm() <= 1e-5 * max(1e-3, float(value.double().norm())), name
    assert any((value - start[name]).norm() > 1e-3 for name, value in alone.items())  # something was learned


@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpoint_is_enough(variant: str, tmp_path: Path) -> None:
    module = module_of(variant)
    trainer = small_trainer(tmp_path, max_steps=1)
    trainer.fit(module, ClipDataModule(Senses(), local_batch_size=8))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert again.to_mapping() == module.to_mapping() and again.model.columns == module.model.columns
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    if "image" in module.model.columns:
        assert torch.equal(again.encode_image(images), module.encode_image(images))


def test_what_nobody_reads_is_not_built() -> None:
    assert module_of("geoclip").model.columns == ("image", "gps")
    assert module_of("audio").model.columns == ("text", "audio")
    simclr = module_of("simclr")
    assert simclr.model.columns == ("image", "view2") and simclr.tokenizer is None
    assert not any(name.startswith(("text", "view2")) for name in simclr.model.state_dict())


def test_a_column_without_a_tower() -> None:
    with pytest.raises(InputError, match=r"reads column 'sonar', but no tower was built for it: give towers: \{sonar: NAME\}"):
        ClipModule("resnet10t", objective={"name": "pairs", "between": ["image", "sonar"]})


def nt_xent(first: list[list[float]], second: list[list[float]], temperature: float) -> float:
    """Equation 1 and algorithm 1 of the paper in plain loops."""
    views = [row for pair in zip(first, second, strict=True) for row in pair]
    total = 0.0
    for i, own in enumerate(views):
        scores = [math.exp(sum(a * b for a, b in zip(own, other, strict=True)) / temperature) for other in views]
        total -= math.log(scores[i ^ 1] / (sum(scores) - scores[i]))
    return total / len(views)


def test_simclr_is_the_paper_s_equation() -> None:
    torch.manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(5, 7, dtype=torch.float64), dim=1) for _ in range(2))
    from lightning_clip import ClipOutput

    output = ClipOutput({"image": first, "view2": second}, torch.ones(1))
    found = SimClr(0.5)(output, None)["loss"]  # type: ignore[arg-type]
    assert found.item() == pytest.approx(nt_xent(first.tolist(), second.tolist(), 0.5), rel=1e-6)
    with pytest.raises(InputError, match="simclr: temperature 0 must be a number > 0"):
        SimClr(0)


def test_text_finds_depth_through_images() -> None:
    """ImageBind's claim: captions and depth maps were never paired, and come together through images."""
    torch.manual_seed(0)
    module = module_of("imagebind")
    batch = batch_of(module, Senses(), 12)
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        module.compute_loss(module.encoded_rows(batch), batch)["loss"].backward()
        optimizer.step()
    output = module.encode(batch)
    found = (output.features["text"] @ output.features["depth"].T).argmax(dim=1)
    assert (found == torch.arange(12)).float().mean() >= 0.75  # chance 0.08


@pytest.mark.parametrize("file", sorted(path.name for path in ROOM.glob("[a-z]*.py")))
def test_they_are_short(file: str) -> None:
    assert len((ROOM / file).read_text().splitlines()) < 60


def test_a_trainer_builds_the_towers_itself(tmp_path: Path) -> None:
    """They are there as soon as somebody asks, but attaching a Trainer does not ask."""
    module = module_of("imagebind")
    trainer = small_trainer(tmp_path)
    module.trainer = trainer
    assert not module.is_built
    assert any(name.startswith("model.depth_encoder") for name in module_of("imagebind").state_dict())


def test_evaluation_scores_what_it_is_given(tmp_path: Path) -> None:
    """The evaluation transform makes one view, so that validation scores the pairs and not the views."""
    objective = [{"name": "pairs"}, {"name": "simclr", "temperature": 0.2, "weight": 0.5}]
    towers = {"image": {"transform": {"views": 2, "flip": 0.5}}}
    torch.manual_seed(0)
    module = ClipModule(IMAGE, TEXT, **{**SETTINGS, "towers": towers, "objective": objective})
    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.fit(module, ClipDataModule(Senses(), Senses(), local_batch_size=16))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["train/loss"] == pytest.approx(found["train/pairs"] + 0.5 * found["train/simclr"])
    assert found["val/loss"] == found["val/pairs"] and "val/simclr" not in found
