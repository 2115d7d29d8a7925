"""What arrives at each logger: TensorBoard's own files, folders beside CSV, W&B offline, MLflow."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml
from corners import corners
from lightning.pytorch import loggers
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from small import small_data, small_module, small_trainer

from lightning_clip import InputError, LogExamples, Report, Retrieval, ZeroShotClassification
from lightning_clip.callbacks.logger_sinks import LoggerSink, sink_of

HELD_OUT = {"name": "synthetic", "held_out": True, "size": 16, "image_size": 32, "templates": ["a {}"]}
CONFUSION = "val/zero-shot/held_out/confusion_matrix"
PICTURES = {"val/zero-shot/held_out/predictions", "val/retrieval/retrieved_images", "val/captions_of_images/retrieved_captions"}


def fitted(folder: Path, logger: Any, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    """LogExamples stands before the others, as a recipe may have it."""
    watching = [*callbacks, ZeroShotClassification({"held_out": HELD_OUT}), Retrieval(), Report(str(folder / "report.html"))]
    trainer = small_trainer(folder, callbacks=watching, logger=logger, **{"max_steps": 2, "log_every_n_steps": 1, **settings})
    trainer.fit(small_module(), small_data(16, batch=8))
    return trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tensorboard")
    trainer = fitted(place, TensorBoardLogger(place, "logs"), LogExamples(every_n_validations=1), val_check_interval=1)
    return Path(str(trainer.logger.log_dir))  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def events(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


class TestTensorBoard:
    def test_figures_at_their_steps(self, events: Any) -> None:
        assert set(events.Tags()["images"]) == {CONFUSION, *PICTURES}
        for tag in (CONFUSION, *PICTURES):
            found = events.Images(tag)
            assert [image.step for image in found] == [1, 2], tag  # the end is a validation, and drawn once
            assert found[0].width > 100 and found[0].encoded_image_string.startswith(b"\x89PNG")

    def test_scalars_are_beside(self, events: Any) -> None:
        assert {"val/loss", "val/zero_shot/held_out/top1"} <= set(events.Tags()["scalars"])

    def test_the_report_is_in_the_runs_folder(self, folder: Path, events: Any) -> None:
        assert (folder / "report.html").read_text("utf-8").startswith("<!doctype html>")
        (told,) = events.Tensors("report/text_summary")
        assert b"report.html" in told.tensor_proto.string_val[0]

    def test_settings_and_the_outcome_in_its_table(self, folder: Path) -> None:
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        from tensorboard.plugins.hparams import plugin_data_pb2

        found = accumulator.EventAccumulator(str(folder / "outcome")).Reload()
        content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
        assert settings["embed_dim"].number_value == 16 and settings["run/max_steps"].number_value == 2
        assert settings["run/trained_parameters"].number_value > 1e6 and settings["run/precision"].string_value == "32-true"
        assert found.Scalars("val/zero_shot/held_out/top1")[0].step == 2
        assert "max_steps: 2" in (folder / "hparams.yaml").read_text()


class TestCsv:
    @pytest.mark.slow  # quicker: TestTensorBoard
    def test_files_beside_the_table(self, tmp_path: Path) -> None:
        trainer = fitted(tmp_path, CSVLogger(tmp_path, "logs"), LogExamples())
        folder = Path(str(trainer.logger.log_dir))  # type: ignore[union-attr]
        names = {path.name for path in (folder / "examples/step-000002").iterdir()}
        assert names == {f"{tag.replace('/', '_')}.png" for tag in (CONFUSION, *PICTURES)}
        assert len(list((folder / "examples").iterdir())) == 1 and (folder / "report.html").exists()
        with Image.open(folder / f"examples/step-000002/{CONFUSION.replace('/', '_')}.png") as image:
            image.verify()
        hparams = (folder / "hparams.yaml").read_text()
        assert "trained_parameters:" in hparams and "embed_dim: 16" in hparams

    @pytest.mark.slow
    def test_no_pictures_on_request(self, tmp_path: Path) -> None:
        trainer = fitted(tmp_path, CSVLogger(tmp_path, "logs"), LogExamples(log_pictures=False))
        folder = Path(str(trainer.logger.log_dir))  # type: ignore[union-attr]
        assert [path.name for path in (folder / "examples").rglob("*.png")] == [f"{CONFUSION.replace('/', '_')}.png"]
        assert not (folder / "report.html").exists()

    @pytest.mark.slow
    def test_of_a_test_run(self, tmp_path: Path) -> None:
        logger = CSVLogger(tmp_path, "logs")
        callbacks = [LogExamples(), ZeroShotClassification({"held_out": HELD_OUT}), Report(str(tmp_path / "report.html"))]
        trainer = small_trainer(tmp_path, callbacks=callbacks, logger=logger)
        trainer.test(small_module(), small_data(16, batch=8), verbose=False)
        names = {path.name for path in Path(logger.log_dir).rglob("*") if path.is_file()}
        assert {"test_zero-shot_held_out_predictions.png", "report_test.html"} <= names

    def test_a_folder_elsewhere_gets_none(self, tmp_path: Path) -> None:
        assert sink_of(CSVLogger("memory://somewhere", "logs")) is None and sink_of(DummyLogger()) is None


class TestWandb:
    @pytest.fixture
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("wandb")
        for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DISABLE_GIT": "true"}.items():
            monkeypatch.setenv(name, value)

    @pytest.mark.slow
    @pytest.mark.usefixtures("offline")
    @pytest.mark.parametrize("allowed", [None, True])
    def test_pictures_only_where_they_are_allowed(self, tmp_path: Path, allowed: bool | None) -> None:
        """The run's own file, written offline; `wandb sync` would send it as it is."""
        import wandb

        fitted(tmp_path, WandbLogger(save_dir=tmp_path, offline=True), LogExamples(log_pictures=allowed))
        wandb.finish()
        (run,) = (tmp_path / "wandb").glob("offline-run-*")
        media = {str(path.relative_to(run / "files/media/images")) for path in run.rglob("*.png")}
        tags = {tag for tag in (CONFUSION, *PICTURES) if any(name.startswith(f"{tag}_") for name in media)}
        assert tags == ({CONFUSION, *PICTURES} if allowed else {CONFUSION}) and len(media) == len(tags)
        content = next(run.glob("run-*.wandb")).read_bytes()
        artifact = f"report-{run.name.rsplit('-', 1)[1]}".encode()
        assert b"trained_parameters" in content and (artifact in content) == bool(allowed)


class Client:
    """MLflow's client as far as a run uses it: keeps what it is told."""

    def __init__(self) -> None:
        self.images: dict[str, Image.Image] = {}
        self.artifacts: list[tuple[str, str]] = []

    def log_image(self, run_id: str, image: Image.Image, artifact_file: str) -> None:
        self.images[artifact_file] = image

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str) -> None:
        self.artifacts.append((Path(local_path).name, artifact_path))


class MlflowByClient(MLFlowLogger):
    """Lightning's logger with the client of this test, since MLflow itself may be missing."""

    def __init__(self) -> None:
        self.client = Client()
        self.params: dict[str, Any] = {}

    experiment = property(lambda self: self.client)  # type: ignore[assignment]
    run_id = property(lambda self: "a run")  # type: ignore[assignment]
    name = property(lambda self: "mlflow")  # type: ignore[assignment]
    version = property(lambda self: "1")  # type: ignore[assignment]
    save_dir = property(lambda self: None)  # type: ignore[assignment]

    def log_hyperparams(self, params: Any, *_: Any) -> None:
        self.params.update(params)

    def log_metrics(self, *_: Any, **__: Any) -> None: ...

    def finalize(self, *_: Any) -> None: ...


class TestMlflow:
    @pytest.mark.parametrize("allowed", corners([None, True], None))
    def test_pictures_only_where_they_are_allowed(self, tmp_path: Path, allowed: bool | None) -> None:
        logger = MlflowByClient()
        fitted(tmp_path, logger, LogExamples(log_pictures=allowed))
        tags = {CONFUSION, *PICTURES} if allowed else {CONFUSION}
        assert set(logger.client.images) == {f"examples/step-000002/{tag.replace('/', '_')}.png" for tag in tags}
        assert logger.client.artifacts == ([("report.html", "report")] if allowed else [])
        assert logger.params["run"]["max_steps"] == 2

    @pytest.mark.slow
    def test_with_mlflow_itself(self, tmp_path: Path) -> None:
        pytest.importorskip("mlflow")
        logger = MLFlowLogger("ours", tracking_uri=f"file:{tmp_path / 'mlruns'}")
        fitted(tmp_path, logger, LogExamples(log_pictures=True))
        artifacts = {str(path).split("/artifacts/")[1] for path in (tmp_path / "mlruns").rglob("artifacts/**/*.*")}
        assert artifacts == {
            "report/report.html",
            *(f"examples/step-000002/{tag.replace('/', '_')}.png" for tag in (CONFUSION, *PICTURES)),
        }


class TestAnyLogger:
    @pytest.mark.slow
    def test_a_sink_of_your_own(self, tmp_path: Path) -> None:
        class Own(DummyLogger): ...

        class Kept(LoggerSink):
            local = True
            found: list[str] = []

            def figure(self, name: str, png: bytes, step: int) -> None:
                self.found.append(name)

            def file(self, path: Path, step: int) -> None:
                self.found.append(path.name)

        sink_of.register(Own, lambda logger: Kept())

        fitted(tmp_path, Own(), LogExamples())
        assert set(Kept.found) == {CONFUSION, *PICTURES, "report.html"}

    def test_one_that_fails_does_not_end_a_training(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(CSVLogger): ...

        class Full(LoggerSink):
            local = True

            def figure(self, name: str, png: bytes, step: int) -> None:
                raise OSError(28, "No space left on device")

            def file(self, path: Path, step: int) -> None:
                raise ConnectionError

        sink_of.register(Broken, lambda logger: Full())

        with caplog.at_level(logging.WARNING):
            trainer = fitted(tmp_path, Broken(tmp_path, "logs"), LogExamples())
        assert trainer.global_step == 2
        assert (
            r"Broken did not take an example of the run ([Errno 28] No space left on device): the run continues" in caplog.text
        )
        assert "(ConnectionError)" in caplog.text

    @pytest.mark.slow
    def test_nothing_is_drawn_without_a_logger(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[Any] = []
        monkeypatch.setattr("lightning_clip.callbacks.log_examples.png", lambda figure: drawn.append(figure))
        fitted(tmp_path, False, LogExamples(log_pictures=True))
        assert drawn == []

    def test_errors(self) -> None:
        with pytest.raises(InputError, match="every_n_validations 0 must be at least 1, or None for the end alone"):
            LogExamples(every_n_validations=0)


@pytest.mark.parametrize("named", [False, True])
def test_the_command_adds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool, cli: Callable[..., None]) -> None:
    """Where the recipe does not name one, with its own settings."""
    own = [{"class_path": "lightning_clip.LogExamples", "init_args": {"log_pictures": False}}] if named else []
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "logs"}}
    cli(json.dumps(own), json.dumps(logger))
    assert (tmp_path / "logs/version_0/examples").exists() != named


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    from small import IMAGE, TEXT

    from lightning_clip.cli import main

    scenes = {"name": "synthetic", "size": 8, "image_size": 32}
    monkeypatch.chdir(tmp_path)

    def run(callbacks: str, logger: str) -> None:
        model = [f"--model.image_encoder={json.dumps(IMAGE)}", f"--model.text_encoder={json.dumps(TEXT)}"]
        data = [f"--data.{split}={json.dumps(scenes)}" for split in ("train", "val")]
        trainer: dict[str, object] = {
            "max_steps": 1,
            "accelerator": "cpu",
            "enable_progress_bar": "false",
            "num_sanity_val_steps": 0,
        }
        trainer |= {"enable_checkpointing": "false", "enable_model_summary": "false", "logger": logger}
        watching = [{"class_path": "lightning_clip.Retrieval"}, *json.loads(callbacks)]
        options = [
            *(f"--trainer.{key}={value}" for key, value in trainer.items()),
            f"--trainer.callbacks={json.dumps(watching)}",
        ]
        assert main(["fit", "--model.embed_dim=16", *model, *data, "--data.local_batch_size=8", *options]) == 0

    return run


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python runs, and its recipes name what there is."""
    text = (Path(__file__).parents[2] / "docs/loggers.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "docs/loggers.md", "exec"), {})
    recipes = [yaml.safe_load(block)["trainer"] for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)]
    for found in [recipe["logger"] for recipe in recipes if "logger" in recipe]:
        names = signature(getattr(loggers, found["class_path"].rsplit(".", 1)[1])).parameters
        assert set(found["init_args"]) <= set(names), found
    (callbacks,) = (recipe["callbacks"] for recipe in recipes if "callbacks" in recipe)
    assert LogExamples(**callbacks[0]["init_args"]).log_pictures
