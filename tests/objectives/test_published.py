"""Published methods: the same gradients in slices and on ranks, losses that fall, resumed runs, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from corners import corners
from distributed.ranks import run_ranks
from objectives.published import METHODS, Captions, batch_of, published, step_gradients
from small import small_trainer
from torch import Tensor
from variants.senses import error_of

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.training.optim import undecayed_names


def _on_rank(rank: int, world_size: int, method: str) -> dict[str, Tensor]:
    return step_gradients(method, 4, rank)


@pytest.mark.parametrize("method", corners(list(METHODS), "fastclip", "silc", "several_texts"))
def test_gradients_do_not_depend_on_how_it_is_run(method: str) -> None:
    """Slices, and two ranks of 8 and 4 pairs, give those of one process on the whole batch."""
    expected = step_gradients(method)
    assert error_of(step_gradients(method, 4), expected) <= 1e-6
    for found in run_ranks(_on_rank, 2, method):
        assert error_of(found, expected) <= 2e-6


@pytest.mark.parametrize("method", corners(list(METHODS), "fastclip", "flair", "slip", "tips"))
def test_the_loss_falls(method: str) -> None:
    module = published(method)
    batch = batch_of(module)
    optimizer = torch.optim.Adam([weight for weight in module.parameters() if weight.requires_grad], 3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = module.compute_loss(module.encode_batch(batch), batch)["loss"]
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        module.objective.after_step(module.model)
    assert losses[-1] < losses[0] - (0.05 if method == "fastclip" else 0.2)  # which is times the temperature, 0.07


def run(folder: Path, method: str, *, resume: bool = False, save: bool = False) -> dict[str, Tensor]:
    module = published(method, 5 if resume else 0)
    trainer = small_trainer(folder, max_steps=2 if save else 4)
    data = ClipDataModule(Captions(), Captions(8), local_batch_size=8)
    trainer.fit(module, data, ckpt_path=folder / "half.ckpt" if resume else None)
    if save:
        trainer.save_checkpoint(folder / "half.ckpt")
    return {name: value.clone() for name, value in module.state_dict().items()}


QUICK = ("fastclip", "tips")


@pytest.mark.parametrize("method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def test_a_resumed_run_ends_as_the_whole_one(method: str, tmp_path: Path) -> None:
    """With averages and teachers; and the checkpoint is enough to use the model."""
    whole = run(tmp_path, method)
    run(tmp_path, method, save=True)
    again = run(tmp_path, method, resume=True)
    assert set(again) == set(whole)
    different = [name for name, value in whole.items() if not torch.equal(again[name], value)]
    assert not different
    loaded = ClipModule.load_from_checkpoint(tmp_path / "half.ckpt")
    assert loaded.zero_shot_classifier(["cube", "ball"], "simple").shape == (16, 2)


class TestParts:
    def test_what_only_training_needs_stays_out_of_exports(self, tmp_path: Path) -> None:
        from lightning_clip.export.export import export

        module = published("tips")
        names = set(module.model.state_dict())
        assert {"teacher.centres", "teacher.space.image_projection.weight", "prototypes.prototypes.weight"} <= names
        exported = export(module.eval(), "safetensors", tmp_path / "out")
        kept = ClipModule.from_pretrained(str(exported.folder)).model.state_dict()
        assert not [name for name in kept if name.startswith(("teacher", "prototypes"))]

    def test_a_teacher_is_neither_trained_nor_in_the_optimizer(self) -> None:
        from lightning_clip.training.optim import OptimizerSettings, build_optimizer

        module = published("silc").train()
        assert not module.model.teacher.training  # type: ignore[union-attr]
        optimizer = build_optimizer(module.model, OptimizerSettings(), undecayed_names(module.model))
        trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        assert not trained & {id(weight) for weight in module.model.teacher.parameters()}  # type: ignore[union-attr]

    def test_a_checkpoint_without_the_teacher(self, tmp_path: Path) -> None:
        run(tmp_path, "silc", save=True)
        checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if ".teacher." not in key}
        torch.save(checkpoint, tmp_path / "half.ckpt")
        with pytest.raises(InputError, match=r"teacher") as refused:
            run(tmp_path, "silc", resume=True)
        assert "\n" not in str(refused.value)

    def test_sharding(self) -> None:
        from lightning_clip.strategies import ClipFSDP2Strategy

        for method in ("silc", "clip_refine"):
            module = published(method)
            with pytest.raises(InputError, match="has a teacher, which sharding strategies do not support: use strategy 'ddp'"):
                module.objective.check_strategy(ClipFSDP2Strategy(), module.model)

    def test_adapters(self) -> None:
        module = published("silc", training={"adapt": {"image": {"lora": {"rank": 2}}}})
        batch = batch_of(module)
        module.compute_loss(module.encode_batch(batch), batch)
        with pytest.raises(InputError, match="a teacher cannot follow .* which adapters replace"):
            module.objective.after_step(module.model)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"name": "several_texts", "count": 0}, "several_texts: count 0 must be a whole number >= 1"),
        ({"name": "negclip", "count": 0}, "negclip: count 0 must be a whole number >= 1"),
        ({"name": "fastclip", "gamma": 0.0}, "fastclip: gamma 0.0 must be a number > 0 and <= 1"),
        ({"name": "fastclip"}, "fastclip keeps a number for each sample of the training data: give samples"),
        ({"name": "flair", "heads": 3}, "heads 3 must divide the width 16 of the space"),
        ({"name": "tips", "masked": 1.0}, "tips: masked 1.0 must be a number > 0 and < 1"),
        ({"name": "slip", "temperature": 0}, "slip: temperature 0 must be a number > 0"),
        ({"name": "clip_refine", "alpha": 2}, "clip_refine: alpha 2 must be a number >= 0 and <= 1"),
    ],
)
def test_mistakes(objective: dict[str, Any], message: str) -> None:
    from small import small_module

    with pytest.raises(InputError, match=message):
        small_module(objective=objective).configure_model()
