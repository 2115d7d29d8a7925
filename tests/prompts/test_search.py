"""The search of templates takes the greedy way that loops take, and the command writes what a set then reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small import save_checkpoint
from torch.nn.functional import normalize

from lightning_clip.cli import main
from lightning_clip.core.errors import InputError
from lightning_clip.prompts.evaluation_sets import open_evaluation_set
from lightning_clip.prompts.search import ensemble_accuracy, search_templates


def by_loops(features: np.ndarray, label: np.ndarray, vectors: np.ndarray) -> tuple[list[int], list[float]]:
    chosen: list[int] = []
    path = []
    while len(chosen) < len(vectors):
        best = (-1.0, -1)
        for template in range(len(vectors)):
            if template in chosen:
                continue
            mean = vectors[[*chosen, template]].mean(axis=0)
            unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
            accuracy = float(np.mean((features @ unit.T).argmax(axis=1) == label))
            if accuracy > best[0]:
                best = (accuracy, template)
        chosen.append(best[1])
        path.append(best[0])
    return chosen, path


@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_like_loops(templates: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = normalize(torch.randn(30, 6, generator=generator, dtype=torch.float64), dim=1)
    label = torch.randint(classes, (30,), generator=generator)
    vectors = normalize(torch.randn(templates, classes, 6, generator=generator, dtype=torch.float64), dim=2)
    found = search_templates(features, label, vectors)
    order, path = by_loops(features.numpy(), label.numpy(), vectors.numpy())
    assert found.order == order and found.accuracies == pytest.approx(path)
    assert found.best == 1 + path.index(max(path))
    assert ensemble_accuracy(features, label, vectors[found.chosen]) == pytest.approx(max(path))
    assert search_templates(features, label, vectors, most=1).order == order[:1]


def test_needs_images_and_templates() -> None:
    with pytest.raises(InputError, match=r"a search needs images \(got 0\) and templates \(got 2\)"):
        search_templates(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.zeros(2, 2, 3))


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    scenes = {"name": "synthetic", "split": "test", "size": 16, "held_out": True, "protocols": ["zero_shot"]}
    others = {**scenes, "train": {"split": "val", "size": 24}}
    content = {"sets": {"alone": scenes, "scenes": others}, "trainer": {"accelerator": "cpu"}, "output": str(tmp_path / "out")}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "suite.yaml"


def test_command(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, words = save_checkpoint(tmp_path / "a.ckpt"), tmp_path / "words.yaml"
    command = ["prompts", "search", "--checkpoint", str(checkpoint), "--suite", str(suite), "--output", str(words)]
    given = ["--templates", "a photo of a {}.", "--templates", "{}", "--templates", "a drawing of a {}"]
    assert main([*command, *given, "--set", "scenes", "--most", "2"]) == 0
    printed = capsys.readouterr().out
    chosen = yaml.safe_load(words.read_text())["templates"]
    assert printed.count("%  + ") == 2 and f"{len(chosen)} of 3 templates" in printed and "all 3" in printed
    assert list(open_evaluation_set({"name": "synthetic", "prompts": str(words)}).templates) == chosen
    for wrong, message in (
        (given, "choose by --set: alone, scenes"),
        (["--set", "scene"], "did you mean 'scenes'"),
        (["--set", "alone"], "no val and no train split to choose on"),
        (["--set", "scenes", "--most", "0"], "--most 0 must be at least 1"),
        (["--set", "scenes", "--templates", "photo"], "unknown template set 'photo'"),
    ):
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "show"]) == 0 and "imagenet: 80\n" in capsys.readouterr().out
    assert main(["prompts", "show", "pets"]) == 0 and capsys.readouterr().out == "a photo of a {}, a type of pet.\n"
    assert main(["prompts", "show", "pet"]) == 2 and "did you mean 'pets'" in capsys.readouterr().err
