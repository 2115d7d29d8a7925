"""`lightning-clip compare`: what is finished is not run again, curves become factors, mistakes are one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lightning_clip.cli import main
from lightning_clip.reporting.efficiency import factor, images_until, levels
from lightning_clip.reporting.endings import ending_table, endings, mean_interval

BASE = """
model:
  image_encoder: {name: vit_tiny_patch16_224, image_size: 32, patch_size: 16, depth: 1, embed_dim: 32, num_heads: 2}
  text_encoder: {name: clip_text, width: 32, layers: 1, heads: 2}
  embed_dim: 16
  tokenizer: {name: clip, context_length: 24}
data:
  train: {name: synthetic, size: 64, image_size: 32}
  val: {name: synthetic, split: val, size: 8, image_size: 32}
  local_batch_size: 8
trainer:
  max_steps: 4
  val_check_interval: 2
  num_sanity_val_steps: 0
  accelerator: cpu
  devices: 1
  callbacks:
    - class_path: lightning_clip.ZeroShotClassification
      init_args:
        datasets: {scenes: {name: synthetic, held_out: true, size: 16, image_size: 32, templates: ["a {}"]}}
"""
# What a run of each name measures after 2 and 4 steps of 8 images, by seed.
MEASURED = {"first": ((0.2, 0.4), (0.4, 0.6)), "second": ((0.1, 0.2), (0.1, 0.3))}


class TestFactors:
    def test_images_until_a_level(self) -> None:
        curve = [(100, 0.1), (1000, 0.3), (10_000, 0.2)]
        assert images_until(curve, 0.05) == 100 and images_until(curve, 0.3) == 1000
        assert images_until(curve, 0.2) == pytest.approx(10**2.5)  # halfway in the logarithm
        assert images_until(curve, 0.31) is None

    def test_by_seed_with_their_spread(self) -> None:
        better = [[(100, 0.1), (200, 0.5)], [(100, 0.5), (200, 0.6)]]
        other = [[(100, 0.0), (400, 0.0), (800, 0.5)], [(100, 0.0), (200, 0.5)]]
        found = factor("a", better, "b", other, 0.5)
        assert found is not None and (found.low, found.high, found.bound) == (2.0, 4.0, False)
        assert found.mean == pytest.approx(8**0.5)
        assert str(found) == "a reaches 50.0 % with 2.8x fewer images than b (2.0 to 4.0)"

    def test_a_run_that_misses_the_level_gives_a_lower_bound(self) -> None:
        found = factor("a", [[(100, 0.5)]], "b", [[(100, 0.1), (700, 0.4)]], 0.5)
        assert found is not None and found.bound and found.mean == pytest.approx(7.0)
        assert "with at least 7.0x fewer images" in str(found)
        assert factor("a", [[(100, 0.4)]], "b", [[(100, 0.5)]], 0.5) is None

    def test_the_level_is_what_every_run_of_the_weaker_one_reaches(self) -> None:
        curves = {"weak": [[(10, 0.1), (80, 0.3)], [(10, 0.1), (80, 0.2)]], "strong": [[(10, 0.2), (80, 0.9)]] * 2}
        (found,) = levels(curves)
        assert (found.better, found.other, found.level) == ("strong", "weak", 0.2)
        assert levels(curves, 0.9)[0].bound and levels(curves, 0.95) == []
        assert levels({name: [curve[-1:] for curve in own] for name, own in curves.items()}) == []


class TestEndings:
    def test_interval_of_a_mean(self) -> None:
        """Student's, from his table: t = 12.706 of 2 values, 2.7764 of 5."""
        assert mean_interval([0.2, 0.4]) == (pytest.approx(0.3), pytest.approx(12.706 * 0.1, rel=1e-4))
        values = [0.1, 0.2, 0.3, 0.4, 0.5]
        assert mean_interval(values)[1] == pytest.approx(2.7764 * (0.025 / 5) ** 0.5, rel=1e-4)
        assert mean_interval([0.5]) == (0.5, float("inf"))

    def test_differences_are_those_of_the_same_seeds(self) -> None:
        curves = {name: [[(8, 0.9), (16, value)] for value in values] for name, values in
                  {"a": [0.1, 0.5], "b": [0.2, 0.6], "c": [0.0, 0.2]}.items()}  # fmt: skip
        first, second, third = endings(curves, "a")
        assert (first.name, first.difference) == ("a", None) and [second.name, third.name] == ["b", "c"]
        assert second.difference == pytest.approx(0.1) and second.difference_half_width == pytest.approx(0.0, abs=1e-12)
        assert third.difference == pytest.approx(-0.2)
        assert ending_table([first, second], "top1").splitlines()[3] == "| b | 40.0 ± 254.1 | 20.0, 60.0 | +10.0 ± 0.0 |"
        assert [one.name for one in endings(curves)] == ["b", "a", "c"]
        assert ending_table(endings({"a": [[(8, 0.25)]]}), "top1").endswith("|---|---|---|\n| a | 25.0 | 25.0 |")


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "recipes").mkdir()
        (tmp_path / "recipes/base.yaml").write_text(BASE)
        (tmp_path / "recipes/first.yaml").write_text("model: {objective: pairs}\n")
        (tmp_path / "recipes/second.yaml").write_text("model: {objective: sigmoid}\n")
        return tmp_path

    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """In the place of training: what each run would log."""
        made: list[list[str]] = []

        def fit(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            made.append(command)
            (root,) = [part.partition("=")[2] for part in command if part.startswith("--trainer.default_root_dir=")]
            name, seed = Path(root).parent.name, int(root[-1])
            (Path(root) / "log").mkdir(parents=True, exist_ok=True)
            rows = [f"0,1,{MEASURED[name][seed][0]},", "0,1,,3.0", f"0,3,{MEASURED[name][seed][1]},"]
            (Path(root) / "log/metrics.csv").write_text("\n".join(["epoch,step,val/zero_shot/scenes/top1,val/loss", *rows]))
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr(subprocess, "run", fit)
        return made

    def test_draws_and_reads_off_factors(self, folder: Path, runs: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["compare", "recipes", "--seeds", "2", "--output", "out", "--chance", "0.125"]) == 0
        said = capsys.readouterr().out
        assert "first, seed 0: 40.0 % after 32 images" in said
        assert "first reaches 20.0 % with 1.7x fewer images than second (1.4 to 2.0)" in said
        content = json.loads((folder / "out/efficiency.json").read_text())
        assert content["curves"]["second"] == [[[16.0, 0.1], [32.0, 0.2]], [[16.0, 0.1], [32.0, 0.3]]]
        (found,) = content["factors"]
        assert (found["better"], found["level"], found["low"]) == ("first", 0.2, pytest.approx(2**0.5))
        assert (folder / "out/efficiency.png").stat().st_size > 10_000
        assert "1.7x fewer" in (folder / "out/report.html").read_text()
        files = [part for part in runs[0] if part.endswith(".yaml")]
        assert files == ["recipes/base.yaml", "recipes/first.yaml"] and "--data.seed=0" in runs[0]

    def test_what_is_finished_is_not_run_again(
        self, folder: Path, runs: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for drawn in ("plots.save_figure", "html.write_report"):
            monkeypatch.setattr(f"lightning_clip.reporting.{drawn}", lambda *_: None)
        assert main(["compare", "recipes", "--seeds", "1", "--output", "out"]) == 0
        assert main(["compare", "recipes", "--seeds", "2", "--output", "out"]) == 0
        assert len(runs) == 4
        (folder / "recipes/second.yaml").write_text("model: {objective: {name: pairs, loss: sigmoid}}\n")
        assert main(["compare", "recipes", "--seeds", "2", "--output", "out"]) == 0
        assert len(runs) == 6
        assert main(["compare", "recipes", "--seeds", "2", "--output", "out", "--data.local_batch_size=4"]) == 0
        assert len(runs) == 10

    def test_rows_over_a_recipe_and_their_differences(
        self, folder: Path, runs: list[list[str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "recipes/base.yaml").rename(folder / "whole.yaml")
        options = ["--base", "whole.yaml", "--reference", "second", "--seeds", "2", "--output", "out"]
        assert main(["compare", "recipes", *options]) == 0
        assert [part for part in runs[0] if part.endswith(".yaml")] == ["whole.yaml", "recipes/first.yaml"]
        table = (folder / "out/table.md").read_text()
        assert "| second | 25.0 ± 63.5 | 20.0, 30.0 |  |" in table and table in capsys.readouterr().out
        assert "| first | 50.0 ± 127.1 | 40.0, 60.0 | +25.0 ± 63.5 |" in table

    def test_mistakes(self, folder: Path, runs: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "empty").mkdir()
        for arguments, message in (
            (["nowhere"], "nowhere"),
            (["empty"], "folder 'empty' holds no recipe (*.yaml) beside base.yaml"),
            (["recipes", "recipes/first.yaml"], "two recipes are called 'first'"),
            (["recipes", "--seeds", "0"], "--seeds 0 must be a whole number >= 1"),
            (["recipes", "--reference", "frist"], "--reference 'frist' is none of the recipes: did you mean 'first'"),
            (["recipes", "--base", "whole.yaml"], "whole.yaml"),
            (["recipes", "--level", "2"], "--level 2.0 must be a number > 0 and <= 1"),
            (["recipes", "--seeds", "1", "--metric", "val/top1"], "first logs no val/top1 (of val/: val/zero_shot/scenes/top1"),
        ):
            assert main(["compare", *arguments]) == 2
            assert message in capsys.readouterr().err

    def test_a_run_that_fails_is_named(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fit(command: list[str], stdout: Any, **_: Any) -> subprocess.CompletedProcess[str]:
            stdout.write("no space left\n")
            return subprocess.CompletedProcess(command, 2)

        monkeypatch.setattr(subprocess, "run", fit)
        assert main(["compare", "recipes", "--output", "out"]) == 2
        assert (
            "recipes/first.yaml with seed 0 failed (no space left): see out/first/seed-0/output.txt" in capsys.readouterr().err
        )

    @pytest.mark.slow
    def test_trains(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["compare", "recipes", "--seeds", "1", "--output", "out"]) == 0
        curves = json.loads((folder / "out/efficiency.json").read_text())["curves"]
        assert [images for images, _ in curves["first"][0]] == [16.0, 32.0] and set(curves) == {"first", "second"}
