"""The 18 things that people who know Lightning do with a module at once: a table in plain words, each with its right result.

Held elsewhere, and not repeated: copies and pickles, `repr`, an optimizer of one's own and hyperparameters of loggers in
`module/test_use.py`; Datasets and loaders of every form and batch sizes by the Tuner in `data/test_plain_datasets.py`; averages
of weights in `module/test_lightnings_parts.py`; resuming to the very sample in `data/test_resume.py`; compiled blocks in
`training/test_compiling.py`.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from PIL import Image
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_clip import ClipModule, InputError, PairBatch

USES: dict[str, Callable[[Path], None]] = {}
STEADY = {"lr": 1e-3, "warmup_steps": 0, "schedule": "constant"}


def use(words: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Adds a function to the table; its argument is a folder of its own."""

    def add(function: Callable[[Path], None]) -> Callable[[Path], None]:
        USES[words] = function
        return function

    return add


class Pictures(Dataset[Any]):
    """Sixteen plain pictures with texts, as tuples or as mappings."""

    def __init__(self, as_mapping: bool = False) -> None:
        self.as_mapping = as_mapping

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        picture, text = Image.new("RGB", (40, 32), (index * 15, 90, 255 - index * 15)), f"picture {index} of a colour"
        return {"image": picture, "caption": text} if self.as_mapping else (picture, text)


def loader(as_mapping: bool = False) -> DataLoader[Any]:
    return DataLoader(Pictures(as_mapping), batch_size=8, shuffle=True)


def module() -> ClipModule:
    torch.manual_seed(0)
    return small_module(optimizer=STEADY)


def loss_of(trainer: pl.Trainer) -> float:
    return float(trainer.callback_metrics["train/loss"])


@use("a DataLoader of (picture, text) and one of mappings into Trainer.fit")
def loaders(folder: Path) -> None:
    for as_mapping in (False, True):
        trainer = small_trainer(folder, max_steps=-1, max_epochs=2)
        trainer.fit(module(), loader(as_mapping), loader(as_mapping))
        assert trainer.global_step == 4 and {"train/loss", "val/loss"} <= set(trainer.callback_metrics)


@use("Tuner.lr_find with plain loaders")
def learning_rate(folder: Path) -> None:
    found = module()
    trainer = small_trainer(folder, max_steps=20, limit_val_batches=0)
    result = Tuner(trainer).lr_find(found, loader(), num_training=24, min_lr=1e-5, max_lr=1e-1, early_stop_threshold=None)
    assert result is not None and found.lr == result.suggestion() != 1e-3


@use("TensorBoardLogger")
def tensorboard(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(folder, name="runs")
    trainer = small_trainer(folder, logger=logger, max_steps=4, log_every_n_steps=1)
    trainer.fit(module(), small_data(size=32, batch=8))
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [0, 1, 2, 3] and losses[-1].value == pytest.approx(loss_of(trainer), rel=1e-6)
    assert "val/loss" in events.Tags()["scalars"] and "lr: 0.001" in (Path(logger.log_dir) / "hparams.yaml").read_text()


@use("CSVLogger")
def table(folder: Path) -> None:
    logger = CSVLogger(folder, name="runs")
    trainer = small_trainer(folder, logger=logger, max_steps=3, log_every_n_steps=1)
    trainer.fit(module(), small_data(size=32, batch=8))
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(losses) == 3 and losses[-1] == pytest.approx(loss_of(trainer), rel=1e-6)


@use("precision bf16-mixed on a CPU")
def half_the_bits(folder: Path) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        trainer = small_trainer(folder, max_steps=1, precision=precision)
        trainer.fit(module(), small_data(size=16, batch=8, val=None))
        losses.append(loss_of(trainer))
    assert losses[0] != losses[1] == pytest.approx(losses[0], abs=0.03)


@use("precision 16-mixed on a CPU")
def of_graphics_cards(folder: Path) -> None:
    trainer = small_trainer(folder, max_steps=1, precision="16-mixed")
    found = module()
    before = found.encode_text("a dog")
    trainer.fit(found, small_data(size=16, batch=8, val=None))
    assert torch.isfinite(torch.tensor(loss_of(trainer))) and not torch.equal(found.encode_text("a dog"), before)


@use("torch.compile(module) into Trainer.fit")
def compiled(folder: Path) -> None:
    losses = []
    for compile_it in (False, True):
        found: Any = module()
        trainer = small_trainer(folder, max_steps=2, limit_val_batches=0)
        trainer.fit(torch.compile(found, backend="eager") if compile_it else found, small_data(size=16, batch=8))
        losses.append(loss_of(trainer))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@use("module(batch) for a batch of a loader: a mapping, a tuple, a PairBatch")
def called(folder: Path) -> None:
    found = module()
    pictures, texts = zip(*[Pictures()[place] for place in range(3)], strict=True)
    tokens, mask = found.tokenizer(list(texts))  # type: ignore[misc]
    pixels = torch.stack([found.image_transform(train=False)(torch.zeros(3, 40, 32, dtype=torch.uint8))] * 3)
    by_tuple, by_mapping = found((pictures, texts)), found({"image": pictures, "caption": texts})
    torch.testing.assert_close(by_tuple.image_features, found.encode_image(list(pictures)))
    torch.testing.assert_close(by_mapping.text_features, found.encode_text(list(texts)))
    assert torch.equal(by_tuple.image_features, by_mapping.image_features) and by_tuple.image_features.requires_grad
    by_tokens = found({"image": pixels, "tokens": tokens, "mask": mask})
    torch.testing.assert_close(by_tokens.text_features, by_tuple.text_features)
    batch: PairBatch = next(iter(small_data().attach(found).train_dataloader()))
    assert torch.equal(found(batch).image_features, found(batch.image).image_features)
    with pytest.raises(InputError, match="must be a PairBatch, .images, texts. or a mapping with image and caption"):
        found((pictures, texts, texts))


@use("trainer.predict")
def predicted(folder: Path) -> None:
    found = module()
    plain = DataLoader(Pictures(), batch_size=8)
    outputs: Any = small_trainer(folder).predict(found, plain)
    expected = found.encode_image([Pictures()[place][0] for place in range(16)])
    torch.testing.assert_close(torch.cat([output.image_features for output in outputs]), expected)


@use("fast_dev_run")
def first_try(folder: Path) -> None:
    trainer = small_trainer(folder, fast_dev_run=True, enable_checkpointing=True)
    trainer.fit(module(), small_data(size=64, batch=8))
    trainer.test(trainer.lightning_module, small_data(size=64, batch=8), verbose=False)
    assert trainer.global_step == 1 and not list(folder.rglob("*.ckpt"))


class Keys(pl.Callback):
    """Which samples each batch of the training held."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: PairBatch, batch_idx: int) -> None:
        self.seen.append(tuple(sorted(batch.keys)))


@use("overfit_batches")
def overfitted(folder: Path) -> None:
    keys, losses = Keys(), []
    for epochs in (1, 12):
        trainer = small_trainer(folder, overfit_batches=1, max_steps=-1, max_epochs=epochs, callbacks=[keys])
        trainer.fit(module(), small_data(size=64, batch=8))
        losses.append(loss_of(trainer))
    assert len(keys.seen) == 13 and len(set(keys.seen)) == 1  # the very samples, every epoch
    assert losses[1] < losses[0] - 0.3


@use("limit_train_batches and limit_val_batches")
def limited(folder: Path) -> None:
    keys = Keys()
    trainer = small_trainer(folder, max_steps=-1, max_epochs=2, limit_train_batches=3, limit_val_batches=1, callbacks=[keys])
    trainer.fit(module(), small_data(size=64, batch=8))
    assert trainer.global_step == 6 and len(set(keys.seen)) == 6 and "val/loss" in trainer.callback_metrics


class Norms(pl.Callback):
    """Norms of the gradient that the optimizer gets."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [value.grad for value in pl_module.parameters() if value.grad is not None]
        if grads:
            self.seen.append(float(torch.stack([grad.norm() for grad in grads]).norm()))


@use("gradient_clip_val and accumulate_grad_batches")
def clipped_and_accumulated(folder: Path) -> None:
    norms = Norms()
    trainer = small_trainer(
        folder, max_steps=-1, max_epochs=1, gradient_clip_val=0.05, accumulate_grad_batches=2, callbacks=[norms]
    )
    trainer.fit(module(), small_data(size=64, batch=8, val=None))
    assert trainer.global_step == 4 and norms.seen and max(norms.seen) <= 0.05 + 1e-5


@use("EarlyStopping, LearningRateMonitor and ModelCheckpoint by val/loss")
def watched(folder: Path) -> None:
    best = ModelCheckpoint(folder / "best", monitor="val/loss", filename="{step}", auto_insert_metric_name=False)
    rates, stopping = LearningRateMonitor(), EarlyStopping("val/loss", patience=1, min_delta=100.0)
    logger = CSVLogger(folder)
    trainer = small_trainer(
        folder,
        max_steps=-1,
        max_epochs=9,
        callbacks=[best, rates, stopping],
        logger=logger,
        enable_checkpointing=True,
        log_every_n_steps=1,
    )
    trainer.fit(module(), small_data(size=16, batch=8))
    assert trainer.current_epoch == 2 and stopping.stopped_epoch == 1
    assert next(iter(rates.lrs.values())) and best.best_model_score is not None
    again = ClipModule.load_from_checkpoint(best.best_model_path)
    found = small_trainer(folder).validate(again, small_data(size=16, batch=8), verbose=False)[0]["val/loss"]
    assert found == pytest.approx(float(best.best_model_score), abs=1e-5)


@use('trainer.fit(ckpt_path="last")')
def resumed(folder: Path) -> None:
    def run(steps: int, checkpoint: str | None) -> pl.Trainer:
        keep = ModelCheckpoint(folder / "kept", save_last=True, every_n_train_steps=1)
        trainer = small_trainer(folder, max_steps=steps, callbacks=[keep], enable_checkpointing=True)
        trainer.fit(module(), small_data(size=32, batch=8, val=None), ckpt_path=checkpoint)
        return trainer

    run(2, None)
    halves, whole = run(4, "last"), small_trainer(folder, max_steps=4)
    whole.fit(module(), small_data(size=32, batch=8, val=None))
    assert halves.global_step == 4 and loss_of(halves) == pytest.approx(loss_of(whole), rel=1e-6)


@use("module.freeze() and unfreeze()")
def frozen(folder: Path) -> None:
    found = module()
    found.freeze()
    assert not any(value.requires_grad for value in found.parameters()) and not found.training
    found.unfreeze()
    before = copy.deepcopy(found.state_dict())
    small_trainer(folder, max_steps=1).fit(found, small_data(size=16, batch=8, val=None))
    assert any(not torch.equal(value, before[name]) for name, value in found.state_dict().items())


class Mine(ClipModule):
    """A step of one's own, a hyperparameter of one's own, and a rate of one's own."""

    def __init__(self, image_encoder: Any = None, text_encoder: Any = None, *, weight: float = 0.5, **others: Any) -> None:
        super().__init__(image_encoder, text_encoder, **others)
        self.save_hyperparameters("weight")
        self.weight = weight

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        loss = self.weight * super().training_step(batch, batch_idx)
        self.log("train/mine", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@use("a subclass with a training_step, configure_optimizers and save_hyperparameters, loaded from its checkpoint")
def subclassed(folder: Path) -> None:
    torch.manual_seed(0)
    found = Mine(IMAGE, TEXT, embed_dim=16, weight=0.25, tokenizer={"name": "clip", "context_length": 24})
    trainer = small_trainer(folder, max_steps=2)
    trainer.fit(found, small_data(size=16, batch=8, val=None))
    assert isinstance(trainer.optimizers[0], torch.optim.SGD) and found.hparams["weight"] == 0.25
    assert float(trainer.callback_metrics["train/mine"]) == pytest.approx(0.25 * loss_of(trainer), rel=1e-5)
    trainer.save_checkpoint(folder / "mine.ckpt")
    again = Mine.load_from_checkpoint(folder / "mine.ckpt")
    assert again.weight == 0.25 and torch.equal(again.encode_text("a dog"), found.eval().encode_text("a dog"))


class Stop(pl.Callback):
    """Somebody presses the button of the notebook in the second step."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            raise KeyboardInterrupt


@use("a cell of a notebook that is interrupted and run again")
def interrupted(folder: Path) -> None:
    found, data = module(), small_data(size=64, batch=8, val=None)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        small_trainer(folder, max_steps=8, callbacks=[Stop()]).fit(found, data)
    torch.testing.assert_close(found.encode_text("a dog").norm(), torch.tensor(1.0))
    trainer = small_trainer(folder, max_steps=3)
    trainer.fit(found, data)
    assert trainer.global_step == 3 and torch.isfinite(torch.tensor(loss_of(trainer)))


# All of the step is traced, the logging too: half a minute. `execution: {compile: true}` compiles the blocks alone.
SLOW = "torch.compile(module) into Trainer.fit"


@pytest.mark.parametrize("words", [pytest.param(words, marks=[pytest.mark.slow] * (words == SLOW), id=words) for words in USES])
def test_works_as_lightning_s_users_know_it(words: str, tmp_path: Path) -> None:
    USES[words](tmp_path)


def test_there_are_18() -> None:
    assert len(USES) == 18
