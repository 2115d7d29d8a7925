"""Schedule-free AdamW: the formula, which weights stand in validation, checkpoints and after a fit, resuming, mistakes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from objectives.published import batch_of
from small import small_data, small_module, small_trainer
from strategies import ranks
from torch import Tensor

from lightning_clip import ClipModule, InputError
from lightning_clip.planning import Machines, find_device, make_plan
from lightning_clip.training.averaged import check_averaging, use_averaged, use_trained
from lightning_clip.training.optim import OptimizerSettings, build_optimizer

schedulefree = pytest.importorskip("schedulefree", exc_type=ImportError)
FREE = {"name": "schedulefree_adamw", "lr": 3e-3, "warmup_steps": 2, "schedule": "constant", "weight_decay": 0.0}
WEIGHT = "model.image_projection.weight"


def weights_of(module: ClipModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def averages(trainer: pl.Trainer, module: ClipModule) -> Tensor:
    """x = (y - (1 - beta) z) / beta of one weight, in float64, from the weights that are trained."""
    optimizer: Any = trainer.optimizers[0]
    parameter = module.model.image_projection.weight
    beta, z = optimizer.param_groups[0]["betas"][0], optimizer.state[parameter]["z"].double()
    return (parameter.detach().double() - (1 - beta) * z) / beta


class Watch(pl.Callback):
    """The weight that stands in steps and in validations, beside the average of the trained ones before each validation."""

    def __init__(self) -> None:
        self.expected, self.validated, self.after, self.modes = [], [], [], []  # type: ignore[var-annotated]

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.modes.append(trainer.optimizers[0].param_groups[0]["train_mode"])
        self.expected.append((averages(trainer, module), module.model.image_projection.weight.detach().clone()))

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(module.model.image_projection.weight.detach().clone())

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.after.append(module.model.image_projection.weight.detach().clone())


def run(folder: Path, steps: int, seed: int = 0, resume: Path | None = None, **options: Any) -> tuple[pl.Trainer, ClipModule]:
    torch.manual_seed(seed)
    module = small_module(optimizer=FREE)
    settings = {"max_steps": steps, "num_sanity_val_steps": 1, "val_check_interval": 2, **options}
    trainer = small_trainer(folder, **settings)
    trainer.fit(module, small_data(size=64, batch=16), ckpt_path=resume)
    return trainer, module


def test_the_averages_are_the_formula_s() -> None:
    """z <- z - lr g / (sqrt(v) + eps) at y = (1 - beta) z + beta x, and x_t the mean of z_1 ... z_t; in float64."""
    weight = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    target = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    model = torch.nn.Module()
    model.weight = weight
    settings = OptimizerSettings.of({**FREE, "betas": (0.9, 0.99), "eps": 1e-8, "options": {"foreach": False}})
    optimizer: Any = build_optimizer(model, settings, set())
    use_trained([optimizer])
    x, z, square = weight.detach().clone(), weight.detach().clone(), torch.zeros_like(weight)
    for step in range(1, 8):
        y = 0.1 * z + 0.9 * x
        assert torch.allclose(weight.detach(), y, rtol=0, atol=1e-12)
        optimizer.zero_grad()
        (weight - target).pow(2).sum().backward()
        gradient = 2 * (y - target)
        square = 0.99 * square + 0.01 * gradient**2
        z = z - 3e-3 * gradient / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
        x = x + (z - x) / step
        optimizer.step()
    use_averaged([optimizer])
    assert torch.allclose(weight.detach(), x, rtol=0, atol=1e-12)
    use_averaged([optimizer])  # a second call does nothing
    assert torch.allclose(weight.detach(), x, rtol=0, atol=1e-12)
    use_trained([optimizer])
    assert torch.allclose(weight.detach(), 0.1 * z + 0.9 * x, rtol=0, atol=1e-12)


def test_validation_and_the_end_see_averages_steps_see_what_is_trained(tmp_path: Path) -> None:
    watch = Watch()
    trainer, module = run(tmp_path, 4, callbacks=[watch])
    assert watch.modes == [True] * 4 and len(watch.validated) == 2
    for seen, step in zip(watch.validated, (1, 3), strict=True):
        average, trained = watch.expected[step]
        assert (seen - average).abs().max() <= 1e-6 and not torch.equal(seen, trained)
    trained = watch.expected[1][1]
    assert (watch.after[2] - trained).abs().max() <= 1e-6 < (watch.after[2] - watch.validated[0]).abs().max()
    assert trainer.optimizers[0].param_groups[0]["train_mode"] is False
    assert (module.model.image_projection.weight - watch.expected[3][0]).abs().max() <= 1e-6


def test_two_ranks_end_with_the_averages_of_one_process(tmp_path: Path) -> None:
    optimizer = {**FREE, "eps": 1e-2}
    expected = ranks.alone(tmp_path / "one", optimizer=optimizer)
    found = ranks.fit(tmp_path / "two", strategy="ddp", optimizer=optimizer)["weights"]
    ranks.assert_same(found, expected)
    start = small_module(optimizer=optimizer)
    torch.manual_seed(0)
    start.configure_model()
    assert (expected[WEIGHT] - start.state_dict()[WEIGHT]).norm() > 1e-3 * expected[WEIGHT].norm()


@pytest.mark.parametrize("val_check_interval", [2, 4])
def test_checkpoints_hold_averages_and_go_on_bit_by_bit(tmp_path: Path, val_check_interval: int) -> None:
    """Also one that is written between steps, with a validation before it or without."""

    class Save(pl.Callback):
        def __init__(self) -> None:
            self.average: Any = None

        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            if trainer.global_step == 2:
                self.average = averages(trainer, module)
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                assert trainer.optimizers[0].param_groups[0]["train_mode"] is True

    options: dict[str, Any] = {"val_check_interval": val_check_interval}
    save = Save()
    whole = weights_of(run(tmp_path, 6, callbacks=[save], **options)[1])
    stored = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert (stored["state_dict"][WEIGHT] - save.average).abs().max() <= 1e-6
    assert not any(group["train_mode"] for group in stored["optimizer_states"][0]["param_groups"])
    again = weights_of(run(tmp_path, 6, seed=5, resume=tmp_path / "half.ckpt", **options)[1])
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    loaded = ClipModule.load_from_checkpoint(tmp_path / "half.ckpt")
    assert torch.equal(loaded.state_dict()[WEIGHT], stored["state_dict"][WEIGHT])


def test_the_loss_falls_with_either_weights() -> None:
    torch.manual_seed(0)
    module = small_module()
    module.configure_model()
    batch = batch_of(module, 12)
    optimizer = build_optimizer(module.model, OptimizerSettings.of({**FREE, "lr": 1e-2}), set())
    use_trained([optimizer])
    for _ in range(40):
        optimizer.zero_grad()
        module.compute_loss(module.encode_batch(batch), batch)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        trained = float(module.compute_loss(module.encode_batch(batch), batch)["loss"])
        use_averaged([optimizer])
        averaged = float(module.compute_loss(module.encode_batch(batch), batch)["loss"])
    assert trained < 1.0 and averaged < 1.0 < math.log(12) and trained != averaged


def test_an_object_of_the_package() -> None:
    settings = OptimizerSettings.of(
        {"name": schedulefree.SGDScheduleFree, "schedule": "constant", "options": {"momentum": 0.8}}
    )
    optimizer: Any = build_optimizer(small_module().model, settings, set())
    use_trained([optimizer])
    assert isinstance(optimizer, schedulefree.SGDScheduleFree) and optimizer.param_groups[0]["train_mode"]


def test_its_memory_is_planned() -> None:
    machines = Machines(find_device("cpu", peak_flops=1e11))
    plans = [
        make_plan(small_module(optimizer=optimizer), machines, samples=100, local_batch_size=8)
        for optimizer in (FREE, {"name": "adamw", "schedule": "constant"})
    ]
    assert plans[0].memory.optimizer == pytest.approx(plans[1].memory.optimizer, rel=1e-3)


class TestMistakes:
    def test_a_rate_that_falls(self, tmp_path: Path) -> None:
        module = small_module(optimizer={**FREE, "schedule": "cosine"})
        with pytest.raises(InputError, match="averages in the place of a rate that falls: set optimizer.schedule to"):
            small_trainer(tmp_path).fit(module, small_data())

    def test_sharded_weights(self) -> None:
        optimizer: Any = build_optimizer(small_module().model, OptimizerSettings.of(FREE), set())
        with pytest.raises(InputError, match="AdamWScheduleFree averages whole weights: use strategy 'ddp' or one device"):
            check_averaging(optimizer, object(), "constant")

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "schedulefree", None)
        with pytest.raises(InputError, match="needs the package schedulefree: pip install 'lightning-clip.schedulefree.'"):
            build_optimizer(small_module().model, OptimizerSettings.of(FREE), set())
