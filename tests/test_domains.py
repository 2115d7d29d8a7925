"""The pages of domains: at most five commands that the command line takes, and the rendered tiles hold what the page says."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lightning_clip.cli import TRAINER_COMMANDS, build_parser, main
from lightning_clip.data import pair_sources
from lightning_clip.planning import first_choices

ROOT = Path(__file__).resolve().parent.parent
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs/domains").glob("*.md"))}
TILES = ROOT / "benchmarks/land_tiles.py"


def commands(page: str) -> list[list[str]]:
    (block,) = re.findall(r"<!-- commands -->\n```console\n(.*?)```", PAGES[page], re.S)
    return [shlex.split(line) for line in block.replace("\\\n", " ").strip().splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_five_commands_at_most(page: str) -> None:
    given = commands(page)
    assert 3 <= len(given) <= 5 and f"domains/{page}.md" in (ROOT / "mkdocs.yml").read_text()
    for program, *arguments in given:
        if program == "python":
            assert (ROOT / arguments[0]).is_file()
        elif arguments[0] not in TRAINER_COMMANDS:
            build_parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_settings(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+\.md)", PAGES[page]):
        assert (ROOT / "docs/domains" / target).is_file(), target
    for block in re.findall(r"```yaml\n(.*?)```", PAGES[page], re.S):
        assert yaml.safe_load(block)


def write_tiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["land_tiles.py", str(folder), "--scenes", "14", "--tiles", "2", "--side", "32"])
    runpy.run_path(str(TILES), run_name="__main__")


def test_tiles_need_their_near_infrared() -> None:
    drawn = runpy.run_path(str(TILES))
    rng = np.random.default_rng(1)
    means = {
        cover: np.mean([drawn["ground"](cover, 32, 1.0, rng).mean(axis=(1, 2)) for _ in range(8)], axis=0)
        for cover in drawn["COVERS"]
    }
    for kind in ("forest", "field"):
        healthy, dry = means[f"healthy {kind}"], means[f"dry {kind}"]
        assert abs(healthy[:3] / dry[:3] - 1).max() < 0.15 < 0.7 < healthy[3] / dry[3] - 1


def test_start_on_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_choices, "measured_speed", lambda device: 2e10)
    write_tiles(tmp_path / "land", monkeypatch)
    monkeypatch.chdir(tmp_path)
    start = next(given for given in commands("remote_sensing") if given[1] == "start")
    assert main([*start[1:], "--device", "cpu", "--minutes", "1"]) == 0
    found = yaml.safe_load((tmp_path / "land.yaml").read_text())
    assert found["data"]["train"]["split"]["by"] == "scene" and found["model"]["towers"]["image"]["transform"]["bands"] == [
        1,
        2,
        3,
    ]
    parts = {}
    for part in ("train", "val", "test"):
        train = found["data"]["train"]
        source = pair_sources.build({**train, "split": {**train["split"], "part": part}})
        parts[part] = {source[index].key.partition("_")[0] for index in range(len(source))}
    assert parts["train"].isdisjoint(parts["test"]) and len(parts["train"] | parts["val"] | parts["test"]) == 14
