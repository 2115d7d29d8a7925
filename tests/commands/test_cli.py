"""The command line as a user meets it: in a process of its own, a fork of this one, with its exit code and what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from forked import Done
from forked import forked_command as run
from PIL import Image
from small import IMAGE, TEXT, write_folder
from waiting import PATIENCE

from lightning_clip.cli import main


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """As `run`, in this process, which is faster; that no traceback escapes is shown by commands in their own."""
    monkeypatch.setenv("COLUMNS", "120")

    def command(*arguments: str, folder: Path) -> Done:
        monkeypatch.chdir(folder)
        try:
            code = main(arguments)
        except SystemExit as left:  # argparse
            code = left.code  # type: ignore[assignment]
        printed = capsys.readouterr()
        return Done(arguments, code, printed.out, printed.err)

    return command


def refused(done: Done, pattern: str) -> None:
    """Exit code 2, one line that says why, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("lightning-clip")]
    assert len(lines) == 1 and re.search(pattern, lines[0]), done.stderr


@pytest.fixture(scope="module")
def recipe() -> dict[str, object]:
    synthetic = {"name": "synthetic", "size": 40, "image_size": 32}
    return {
        "model": {
            "image_encoder": IMAGE,
            "text_encoder": TEXT,
            "embed_dim": 16,
            "training": {"optimizer": {"warmup_steps": 1}},
        },
        "data": {
            "train": synthetic,
            "val": {**synthetic, "split": "val"},
            "test": {**synthetic, "split": "test"},
            "local_batch_size": 8,
        },
        "trainer": {
            "max_steps": 5,
            "accelerator": "cpu",
            "logger": False,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "callbacks": [
                {"class_path": "lightning_clip.Retrieval"},
                {"class_path": "lightning_clip.Report", "init_args": {"path": "report.html"}},
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"dirpath": ".", "filename": "last"},
                },
            ],
        },
    }


@pytest.fixture(scope="module")
def trained(recipe: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `fit` ran: recipe.yaml, last.ckpt, report.html."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = run("fit", "--config", "recipe.yaml", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "text → image R@10" in done.stdout and "classify a picture" in done.stdout
    return folder


def fresh(*arguments: str) -> Done:
    """A Python that has imported nothing yet."""
    command = [sys.executable, "-m", "lightning_clip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


class TestRoad:
    def test_fit_leaves_a_checkpoint_and_a_report(self, trained: Path) -> None:
        assert (trained / "last.ckpt").exists() and (trained / "report.html").exists()

    def test_validate_test_and_predict(self, trained: Path, inside: Callable[..., Done]) -> None:
        for command in ("validate", "test", "predict"):
            done = inside(command, "--config", "recipe.yaml", "--ckpt_path", "last.ckpt", folder=trained)
            assert done.returncode == 0, done.stderr
        assert (trained / "features.npz").exists() and "wrote 40 pairs of features" in done.stdout

    def test_classify_by_the_checkpoint_alone(self, trained: Path, tmp_path: Path) -> None:
        for colour in ("red", "blue"):
            Image.new("RGBA", (50, 40), colour).save(tmp_path / f"{colour}.png")
        checkpoint = str(trained / "last.ckpt")
        labels = "red circle, blue circle,green star"
        done = run("classify", "red.png", "blue.png", "--labels", labels, "--checkpoint", checkpoint, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        shares = [float(share) for share in re.findall(r"([\d.]+) %", done.stdout)]
        assert len(shares) == 6 and sum(shares[:3]) == pytest.approx(100, abs=0.2) and "red.png" in done.stdout

    def test_subclass_by_class_path(self, recipe: dict[str, object], tmp_path: Path) -> None:
        path = "lightning_clip.variants.ConvirtModule"
        mine = {**recipe, "model": {"class_path": path, "init_args": recipe["model"]}}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(mine))
        done = run("fit", "--config", "recipe.yaml", "--model.embed_dim=8", folder=tmp_path)
        assert done.returncode == 0, done.stderr

    def test_data_and_tokenizer(self, tmp_path: Path, inside: Callable[..., Done]) -> None:
        write_folder(tmp_path / "pairs", count=12)
        done = run("data", "pack", "--data", "pairs", "--output", "s-%04d.tar", "--pairs-per-shard", "5", folder=tmp_path)
        assert done.returncode == 0 and "wrote 12 pairs" in done.stdout and "s-0002.tar" in done.stdout
        done = inside("data", "inspect", "--data", "s-*.tar", "--output", "sheet.png", folder=tmp_path)
        assert done.returncode == 0 and "18" in done.stdout and "40 x 30 pixels" in done.stdout
        assert Image.open(tmp_path / "sheet.png").size[0] > 400
        arguments = ("--data", "pairs", "--where", "split=train", "--vocab-size", "300", "--output", "t.json")
        done = inside("tokenizer", "train", *arguments, folder=tmp_path)
        assert done.returncode == 0 and "wrote t.json: " in done.stdout and (tmp_path / "t.json").exists()

    def test_a_vocabulary_of_ones_own_by_its_path(self, trained: Path, tmp_path: Path) -> None:
        write_folder(tmp_path)
        arguments = ("--data", "captions.jsonl", "--vocab-size", "300", "--output", "words.json")
        assert run("tokenizer", "train", *arguments, folder=tmp_path).returncode == 0
        recipe = ("--config", str(trained / "recipe.yaml"))
        done = run("fit", *recipe, "--model.tokenizer=words.json", "--trainer.max_steps=2", folder=tmp_path)
        assert done.returncode == 0, done.stderr


class TestHelp:
    def test_all_commands_are_listed(self) -> None:
        done = fresh("--help")
        assert done.returncode == 0
        for name in ("fit", "validate", "test", "predict", "classify", "tokenizer", "data"):
            assert re.search(rf"^\s+{name}\s", done.stdout, re.M), name

    @pytest.mark.parametrize("command", ["classify", "data pack", "data inspect", "tokenizer train"])
    def test_of_a_command(self, command: str, tmp_path: Path, inside: Callable[..., Done]) -> None:
        done = inside(*command.split(), "--help", folder=tmp_path)
        assert done.returncode == 0 and f"usage: lightning-clip {command}" in done.stdout

    def test_of_fit_is_short_and_names_the_settings(self, tmp_path: Path) -> None:
        done = run("fit", "--help", folder=tmp_path)
        assert done.returncode == 0 and len(done.stdout.splitlines()) < 160
        assert "--data.local_batch_size" in done.stdout and "--trainer.max_steps" in done.stdout


class TestMistakes:
    def test_exit_code_of_a_fresh_process(self) -> None:
        refused(fresh("fitt"), "invalid choice: 'fitt'")

    @pytest.mark.parametrize(
        ("arguments", "pattern"),
        [
            (("fit", "--config", "recipes.yaml"), "recipe 'recipes.yaml' does not exist.*did you mean 'recipe.yaml'"),
            (("fit", "--config", "recipe.yaml", "--model.embed_dims=3"), "embed_dims.*did you mean.*embed_dim"),
            (("fit", "--config", "recipe.yaml", "--model.objective=sofmax"), "unknown objective 'sofmax'"),
            (
                ("fit", "--config", "recipe.yaml", "--model.objective={name: softmax, max_scale: big}"),
                "loss 'softmax'.max_scale 'big' must be a number",
            ),
            (
                ("fit", "--config", "recipe.yaml", "--model.tokenizer={name: clip, context_length: ten}"),
                "tokenizer 'clip'.context_length 'ten' must be a whole number",
            ),
            (("fit", "--config", "recipe.yaml", "--model.image_encoder=vit_tinny"), "unknown image encoder 'vit_tinny'"),
            (("fit", "--config", "recipe.yaml", "--model.tokenizer=klip"), "unknown tokenizer 'klip': did you mean 'clip'"),
            (
                ("fit", "--config", "recipe.yaml", "--model.training.optimizer=adamw"),
                "optimizer 'adamw' must be a mapping of settings",
            ),
            (
                ("fit", "--config", "recipe.yaml", "--model.training.micro_batch_size=four"),
                "micro_batch_size four must be at least 1, or None",
            ),
            (("fit", "--config", "recipe.yaml", "--data.train=nowhere"), "data .*'nowhere' does not exist"),
            (("fit", "--config", "recipe.yaml", "--data.local_batch_size=50"), "needs 50 samples, but the data has 40"),
            (
                ("fit", "--config", "recipe.yaml", "--model.towers.image.projection=none"),
                "embed_dim 16 does not match .* output_dim 32",
            ),
            (("fit", "--config", "recipe.yaml", "--model.image_encoder.name.b=1"), "name, which is 'vit_tiny.* and no mapping"),
            (("test", "--config", "recipe.yaml", "--ckpt_path", "lost.ckpt"), "checkpoint 'lost.ckpt' does not exist"),
            (("test", "--config", "recipe.yaml"), "test would measure random weights: give a checkpoint .*--ckpt_path"),
            (("predict", "--config", "recipe.yaml"), "predict would measure random weights"),
            (
                ("fit", "--config", "recipe.yaml", "--ckpt_path=last.ckpt", "--trainer.max_steps=50"),
                "falls to a learning rate of 0 at optimizer step .*set training.optimizer.on_resume to 'given'",
            ),
            (
                (
                    "fit",
                    "--config",
                    "recipe.yaml",
                    "--ckpt_path=last.ckpt",
                    "--model.training.adapt={image: {layer_decay: 0.5}}",
                ),
                "the optimizer's state in the checkpoint does not fit .*or let a new run begin with its weights",
            ),
            (
                ("test", "--config", "recipe.yaml", "--ckpt_path=last.ckpt", "--model.embed_dim=8"),
                "'last.ckpt' do not fit: 2 of another shape: .* It was written by another class or under other settings",
            ),
            (("classify", "x.png", "--labels", "a,b", "--checkpoint", "last.ckpt"), "image 'x.png' does not exist"),
            (("classify", "recipe.yaml", "--labels", "a,b", "--checkpoint", "last.ckpt"), "cannot be read: not an image"),
            (("classify", "red.png", "--labels", "a", "--checkpoint", "last.ckpt"), "names 1 class: give at least two"),
            (("classify", "red.png", "--labels", "a,b", "--checkpoint", "lost.ckpt"), "checkpoint 'lost.ckpt' does not exist"),
            (
                ("classify", "red.png", "--labels", "a,b", "--checkpoint", "recipe.yaml"),
                "'recipe.yaml' is no complete file of weights",
            ),
            (("data", "pack", "--data", "nowhere", "--output", "s-%d.tar"), "data .*'nowhere' does not exist"),
            (("data", "inspect", "--data", "synthetic", "--where", "split"), "--where 'split' must be COLUMN=VALUE"),
            (("fitt",), "invalid choice: 'fitt'"),
        ],
        ids=lambda value: " ".join(value)[-60:] if isinstance(value, tuple) else "",
    )
    def test_one_line(
        self,
        arguments: tuple[str, ...],
        pattern: str,
        trained: Path,
        inside: Callable[..., Done],
    ) -> None:
        Image.new("RGB", (9, 9)).save(trained / "red.png")
        refused(inside(*arguments, folder=trained), pattern)

    def test_unknown_key_in_a_recipe(self, recipe: dict[str, object], tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "data": {"trian": "synthetic"}}))
        refused(run("fit", "--config", "recipe.yaml", folder=tmp_path), "trian.*did you mean.*train")

    def test_shards_without_text(self, recipe: dict[str, object], tmp_path: Path) -> None:
        import tarfile

        Image.new("RGB", (9, 9)).save(tmp_path / "0.jpg")
        with tarfile.open(tmp_path / "s.tar", "w") as archive:
            archive.add(tmp_path / "0.jpg", "0.jpg")
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        done = run("fit", "--config", "recipe.yaml", "--data.train=s.tar", folder=tmp_path)
        refused(done, "hold no sample with an image and a text")

    def test_too_many_bad_images_in_a_worker(self, recipe: dict[str, object], tmp_path: Path) -> None:
        write_folder(tmp_path / "pairs", count=20)
        (tmp_path / "pairs/3.jpg").write_bytes(b"spoilt")
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        arguments = ("--data.train=pairs", "--data.num_workers=1", "--trainer.max_steps=20")
        refused(run("fit", "--config", "recipe.yaml", *arguments, folder=tmp_path), "1 train samples could not be used")
