"""Published weights give their published figures: runs where weights and sets are, by LIGHTNING_CLIP_WEIGHTS and _DATASETS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_clip import InputError
from lightning_clip.evaluation.models import open_model
from lightning_clip.evaluation.published_figures import compared, known_model
from lightning_clip.evaluation.run_suite import run_suite
from lightning_clip.evaluation.suite import Suite

WITHIN = 0.01  # of a share: another resizing, half precision
QUICK = ("cifar10", "mnist", "pets", "stl10", "eurosat", "flowers102", "rendered_sst2")  # in CLIP_benchmark's shards


def weights() -> list[tuple[str, str]]:
    """(what opens them, their published name) of each entry of the folder that is known."""
    folder = os.environ.get("LIGHTNING_CLIP_WEIGHTS")
    found = []
    for path in sorted(Path(folder).iterdir()) if folder else []:
        name = (path.stem if path.is_file() else path.name).replace("--", "/")
        try:
            known = known_model(name)
        except InputError:
            continue
        found.append((f"open_clip:{known.partition('/')[0]}/{path}" if path.is_file() else str(path), known))
    return found


def test_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ViT-B-32--openai.pt").touch()
    (tmp_path / "RN50--openai").mkdir()
    (tmp_path / "notes.txt").touch()
    monkeypatch.setenv("LIGHTNING_CLIP_WEIGHTS", str(tmp_path))
    assert weights() == [
        (str(tmp_path / "RN50--openai"), "RN50/openai"),
        (f"open_clip:ViT-B-32/{tmp_path}/ViT-B-32--openai.pt", "ViT-B-32/openai"),
    ]
    monkeypatch.delenv("LIGHTNING_CLIP_WEIGHTS")
    assert weights() == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not weights(), reason="LIGHTNING_CLIP_WEIGHTS names no folder with weights whose figures are published")
@pytest.mark.parametrize(("source", "known"), weights() or [("", "")])
def test_as_published(source: str, known: str, tmp_path: Path) -> None:
    every = Suite.read("vtab+").sets
    suite = Suite({name: every[name] for name in QUICK}, output=str(tmp_path), num_workers=1)
    model = open_model(source)
    outcome = run_suite(suite, [model])
    rows = compared(outcome, model.name, known)
    if not rows:
        pytest.skip(f"none of {', '.join(QUICK)} is in LIGHTNING_CLIP_DATASETS")
    apart = {row.published.dataset: row.ours - row.published.value for row in rows}
    assert all(abs(difference) <= WITHIN for difference in apart.values()), apart
