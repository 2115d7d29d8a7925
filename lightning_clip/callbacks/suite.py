"""`EvaluationSuite`: a whole suite while training, logged as `val/<protocol>/<set>/<measure>` at a cadence."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_clip.callbacks.zero_shot import ZeroShotClassification
from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.extraction import joined, local_features
from lightning_clip.evaluation.feature_provider import LiveSubject
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.run_suite import Outcome, run_suite
from lightning_clip.evaluation.suite import Suite
from lightning_clip.evaluation.summary import write_summary
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.predictor import predictor_of
from lightning_clip.prompts.evaluation_sets import EvaluationSet

__all__ = ["EvaluationSuite"]

log = logging.getLogger(__name__)


class EvaluationSuite(pl.Callback):
    """The protocols of `lightning-clip evaluate` on the model at work; each rank encodes its share, all see the figures.

    What cannot be measured is logged as a warning; the training continues, and is the same with or without this callback.

    Args:
        suite: path of a YAML file, or its content as a mapping; its Trainer, cache and loader of other runs are not used.
        every_n_steps: optimizer steps between two evaluations; None evaluates at the end of each validation.
        report: also writes the report to the suite's output at the end of training.

    Attributes:
        outcome: the last results.
        page: the report, once it is written.

    Raises:
        InputError: a wrong suite, `every_n_steps` below 1, or, in a run, a set that ZeroShotClassification measures, too.

    Examples:
        >>> scenes = {"name": "synthetic", "held_out": True, "size": 64, "protocols": ["zero_shot", "retrieval"]}
        >>> EvaluationSuite({"sets": {"scenes": scenes}}, every_n_steps=1000).suite.batch_size
        256
    """

    def __init__(self, suite: str | Mapping[str, Any], every_n_steps: int | None = None, report: bool = True) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise InputError(f"every_n_steps {every_n_steps} must be at least 1 step, or None for each validation")
        self.suite = Suite.read(suite) if isinstance(suite, str) else Suite.parse(suite)
        self.every_n_steps, self.report = every_n_steps, report
        self.outcome: Outcome | None = None
        self.page: Path | None = None
        self._last = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Two callbacks cannot log one figure."""
        others = (one for one in trainer.callbacks if isinstance(one, ZeroShotClassification))  # type: ignore[attr-defined]
        for name in (name for other in others for name in other.datasets if name in self.suite.sets):
            asked = self.suite.sets[name]["protocols"]
            if any("zero_shot" in (one, one.get("name") if isinstance(one, Mapping) else None) for one in asked):
                raise InputError(
                    f"set {name!r} is measured by ZeroShotClassification and by protocol zero_shot of EvaluationSuite, which "
                    f"log one key, val/zero_shot/{name}/top1: omit it from one of them, or give it another name there"
                )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        due = self.every_n_steps is not None and step % self.every_n_steps == 0 and step != self._last
        if due:  # under accumulation several batches end at one step
            self._last = step
            trainer.strategy.on_validation_start()  # strategies that shard weights gather them here
            self._evaluate(trainer, pl_module)
            trainer.strategy.on_validation_end()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every_n_steps is None and not trainer.sanity_checking:
            self._evaluate(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.report and self.outcome is not None and trainer.is_global_zero:
            self.page = write_summary(self.outcome, Path(self.suite.output), f"Step {trainer.global_step}")
            print(f"report: {self.page}")

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        model = PredictorModel(predictor_of(module), type(module).__name__)
        with isolate_rng(), evaluating(model):  # loaders draw seeds for their workers
            self.outcome = run_suite(self.suite, [model], subjects=self._subject)
        values = _values(self.outcome)
        for logger in trainer.loggers:  # `log` would skip steps that are not logged
            logger.log_metrics(values, step=trainer.global_step)
        when: dict[str, Any] = {} if self.every_n_steps is None else {"on_step": True, "on_epoch": False}
        for key, value in values.items():  # for checkpoints that monitor a measure
            module.log(key, value, logger=False, **when)
        for failure in self.outcome.failures:
            log.warning("%s on %s could not be measured: %s", failure.protocol, failure.dataset, failure.reason)

    def _subject(self, model: EvaluatedModel, dataset: EvaluationSet, name: str, settings: Any) -> LiveSubject:
        def make(model: EvaluatedModel, images: Images, classes: int | None) -> Features:
            return _everywhere(model, images, self.suite.batch_size, self.suite.num_workers, classes)

        return LiveSubject(model, dataset, name, make)


def _values(outcome: Outcome) -> dict[str, float]:
    """Figures of one model by the keys under which they are logged."""
    return {
        f"val/{label}/{name}/{measure}": value
        for name, of_set in outcome.results.items()
        for label, results in of_set.items()
        for result in results.values()
        for measure, value in result.metrics.items()
    }


def _everywhere(model: EvaluatedModel, images: Images, batch_size: int, workers: int, classes: int | None) -> Features:
    """Features of all ranks' shares on each rank; what fails on one fails on all, so that none waits for another."""
    found: Features | Exception
    try:
        found = local_features(model, images, batch_size, workers, classes)
    except Exception as error:
        found = error
    shares: list[Any] = [found]
    if dist.is_available() and dist.is_initialized():
        shares = [None] * dist.get_world_size()
        dist.all_gather_object(shares, found)
    for share in shares:
        if isinstance(share, Exception):
            raise share
    return joined(shares)
