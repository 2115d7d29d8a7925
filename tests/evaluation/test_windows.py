"""Pictures of 16 bits are shown, and looked at, through the window of the model that is measured."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import save_checkpoint, small_module

from lightning_clip.applications.relevance import relevance
from lightning_clip.applications.search import SearchIndex, build_index
from lightning_clip.applications.search.web import Collection
from lightning_clip.cli import main
from lightning_clip.data.decoding import decode
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols import protocols
from lightning_clip.evaluation.run_suite import run_suite
from lightning_clip.evaluation.suite import Suite
from lightning_clip.loading import open_predictor
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.probabilities import probabilities
from lightning_clip.prompts import resolve_templates
from lightning_clip.reporting.colours import in_colour

WINDOW = [0, 400]  # of values whose whole range is 0 to 65,535: by convention such pictures are black


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    module = small_module(transform={"window": WINDOW})
    predictor: Predictor = module.eval().predictor
    return predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number, name in enumerate(("dark", "bright")):
        (folder / name).mkdir()
        for row in range(3):
            values = np.full((40, 40), 100 + 200 * number + row, np.uint16)
            Image.fromarray(values).save(folder / name / f"{row}.png")
    return folder


def brightness(sheet: Any) -> list[int]:
    return [round(float(cell.image.mean())) for cell in sheet.cells]


def test_a_report_shows_what_the_model_saw(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    sets = {"scans": {"name": str(folder), "protocols": ["zero_shot"]}}
    outcome = run_suite(Suite(sets, output=str(tmp_path)), [PredictorModel(predictor, "windowed")])
    assert not outcome.failures
    results = outcome.results["scans"]["zero_shot"]
    sections = protocols.build("zero_shot").sections(results, outcome.datasets["scans"])
    [shown] = [section for section in sections if "surest" in section.title]
    seen = sorted(value for _, sheet in shown.figures for value in brightness(sheet))
    expected = [round(255 * (base + row) / 400) for base in (100, 300) for row in range(3)]
    assert np.allclose(seen, expected, atol=1)


def test_in_a_search_index(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    """Features, thumbnails and pictures from outside."""
    build_index(tmp_path / "index", {"name": "pictures", "path": str(folder)}, predictor)
    index = SearchIndex(tmp_path / "index")
    entries = index.entries.get(range(6))
    paths = [folder / entry.key if (folder / entry.key).exists() else Path(entry.place) for entry in entries]
    expected = predictor.encode_image(paths).numpy()
    assert np.allclose(index.vectors_of(range(6)), expected, atol=1e-3)
    assert not np.allclose(expected[0], expected[-1], atol=1e-3)
    with Image.open(BytesIO(index.entries.thumbnail(0))) as small:
        first = round(float(np.asarray(small).mean()))
    assert min(abs(first - 255 * value / 400) for value in range(100, 303)) < 3 and first > 50
    collection = Collection(tmp_path / "index", predictor)
    assert np.allclose(collection.encode(paths[0].read_bytes()), expected[0], atol=1e-5)
    collection.close()
    index.close()


def test_maps_of_places(predictor: Predictor, folder: Path) -> None:
    found = relevance(predictor, folder / "bright/0.png", "a scan")
    assert abs(float(found.picture.float().mean()) - 255 * 300 / 400) < 1
    assert int(predictor.read(folder / "dark/0.png").max()) == 63  # 100 of 400


def test_on_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`classify` gives what the predictor does."""
    checkpoint = save_checkpoint(tmp_path / "small.ckpt", small_module(transform={"window": WINDOW}))
    picture = folder / "bright/0.png"
    given = ["classify", str(picture), "--labels", "cat,dog", "--checkpoint", str(checkpoint), "--json"]
    assert main(given) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[0])
    score = probabilities(open_predictor(str(checkpoint)), ["cat", "dog"], resolve_templates("simple"))
    found = [printed["probabilities"][name] for name in ("cat", "dog")]
    assert np.allclose(found, score([picture])[0], atol=1e-5)
    assert not np.allclose(found, score([decode(picture.read_bytes())])[0], atol=1e-5)  # by convention it is black


def test_any_number_of_bands_is_shown() -> None:
    bands = torch.arange(13, dtype=torch.uint8)[:, None, None].expand(13, 4, 6)
    assert in_colour(bands)[0, 0].tolist() == [0, 1, 2] and in_colour(bands).shape == (4, 6, 3)
    assert in_colour(bands[5:7])[0, 0].tolist() == [5, 5, 5]
