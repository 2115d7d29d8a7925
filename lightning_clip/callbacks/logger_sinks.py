"""What loggers take besides scalars: figures and files, TensorBoard's, CSV's, W&B's and MLflow's each in its own way."""

from __future__ import annotations

import io
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import singledispatch
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from lightning_clip.core.atomic import beside, safe_name

__all__ = ["CsvSink", "LoggerSink", "MlflowSink", "TensorBoardSink", "WandbSink", "sink_of"]


class LoggerSink(ABC):
    """One logger of a run, as `LogExamples` sees it.

    Attributes:
        local: whether what it is given stays on this machine.
    """

    local: ClassVar[bool] = False

    @abstractmethod
    def figure(self, name: str, png: bytes, step: int) -> None:
        """Takes a figure.

        Args:
            name: with slashes between its parts.
            png: the file's content.
            step: optimizer steps.
        """

    @abstractmethod
    def file(self, path: Path, step: int) -> None:
        """Takes a copy of a file, such as the report.

        Args:
            path: where it is.
            step: optimizer steps.
        """

    def outcome(self, settings: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:  # noqa: B027
        """Takes the figures at the end beside the hyperparameters, where a logger has a table of them.

        Args:
            settings: name -> number, truth or text.
            metrics: name -> value.
            step: optimizer steps.
        """


@singledispatch
def sink_of(logger: Logger) -> LoggerSink | None:
    """The sink of a logger, None for kinds that take scalars only.

    Another kind is added by `@sink_of.register` on a function of its class.

    Args:
        logger: of the Trainer.
    """
    return None


class TensorBoardSink(LoggerSink):
    """Figures under IMAGES, the outcome under HPARAMS; files are copied to the run's folder.

    Args:
        logger: with a local folder.
    """

    local = True

    def __init__(self, logger: TensorBoardLogger) -> None:
        self.logger = logger

    def figure(self, name: str, png: bytes, step: int) -> None:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))  # (H, W, 3)
        self.logger.experiment.add_image(name, pixels, step, dataformats="HWC")

    def file(self, path: Path, step: int) -> None:
        _copied(path, Path(self.logger.log_dir))
        self.logger.experiment.add_text("report", f"`{Path(self.logger.log_dir) / path.name}`", step)

    def outcome(self, settings: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
        # A session of its own: TensorBoard reads the one that Lightning opened with the run as it was first written.
        add = self.logger.experiment.add_hparams
        name = "run_name" if "run_name" in signature(add).parameters else "name"  # tensorboardX has another word
        add(dict(settings), dict(metrics), global_step=step, **{name: "outcome"})


class CsvSink(LoggerSink):
    """Figures as PNG files in `examples/step-N/` of the run's folder; files are copied beside.

    Args:
        logger: with a local folder.
    """

    local = True

    def __init__(self, logger: CSVLogger) -> None:
        self.folder = Path(logger.log_dir)

    def figure(self, name: str, png: bytes, step: int) -> None:
        with beside(self.folder / "examples" / f"step-{step:06d}" / f"{safe_name(name.replace('/', '_'))}.png") as place:
            place.write_bytes(png)

    def file(self, path: Path, step: int) -> None:
        _copied(path, self.folder)


class WandbSink(LoggerSink):
    """Figures as media of the run, files as an artifact of type "report".

    Args:
        logger: online or offline.
    """

    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    def figure(self, name: str, png: bytes, step: int) -> None:
        self.logger.log_image(name, [Image.open(io.BytesIO(png))], step=step)

    def file(self, path: Path, step: int) -> None:
        import wandb

        artifact = wandb.Artifact(f"report-{self.logger.experiment.id}", type="report", metadata={"step": step})
        artifact.add_file(str(path))
        self.logger.experiment.log_artifact(artifact)


class MlflowSink(LoggerSink):
    """Figures as artifacts in `examples/step-N/`, files in `report/`.

    Args:
        logger: of any tracking address.
    """

    def __init__(self, logger: MLFlowLogger) -> None:
        self.logger = logger

    def figure(self, name: str, png: bytes, step: int) -> None:
        place = f"examples/step-{step:06d}/{safe_name(name.replace('/', '_'))}.png"
        self.logger.experiment.log_image(self.logger.run_id, Image.open(io.BytesIO(png)), place)

    def file(self, path: Path, step: int) -> None:
        self.logger.experiment.log_artifact(self.logger.run_id, str(path), "report")


@sink_of.register
def _(logger: TensorBoardLogger) -> LoggerSink | None:
    return TensorBoardSink(logger) if _is_local(logger.log_dir) else None


@sink_of.register
def _(logger: CSVLogger) -> LoggerSink | None:
    return CsvSink(logger) if _is_local(logger.log_dir) else None


@sink_of.register
def _(logger: WandbLogger) -> LoggerSink | None:
    return WandbSink(logger)


@sink_of.register
def _(logger: MLFlowLogger) -> LoggerSink | None:
    return MlflowSink(logger)


def _is_local(folder: str) -> bool:
    return "://" not in str(folder)


def _copied(path: Path, folder: Path) -> None:
    if path.resolve().parent != folder.resolve():
        with beside(folder / path.name) as place:
            shutil.copyfile(path, place)
