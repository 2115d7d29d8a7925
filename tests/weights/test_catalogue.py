"""The catalogue of models: complete, sourced, and its sizes those that are measured."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest

from lightning_clip import InputError
from lightning_clip.cli import main
from lightning_clip.planning.architectures import measure_architecture, measure_family
from lightning_clip.weights.catalogue import FIGURES, catalogue, domains, markdown_table, select
from lightning_clip.weights.from_owlvit import DETECTORS
from lightning_clip.weights.transformers_families import FAMILIES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_every_tag_architecture_and_family() -> None:
    by_kind: dict[str, list[str]] = {}
    for entry in catalogue():
        by_kind.setdefault(entry.kind, []).append(entry.source)
    tags = [f"open_clip:{name}/{tag}" for name, tag in open_clip.list_pretrained()]
    assert sorted(by_kind["tag"]) == sorted(tags)
    without = set(open_clip.list_models()) - {name for name, _ in open_clip.list_pretrained()}
    assert sorted(by_kind["architecture"]) == sorted(f"open_clip:{name}/FILE" for name in without)
    noted = [entry.note.removeprefix("transformers' ").partition(";")[0] for entry in catalogue() if entry.kind == "family"]
    assert sorted(noted) == sorted([*FAMILIES, *DETECTORS])
    assert len({entry.source for entry in catalogue()}) == len(catalogue())


def test_what_is_known_is_sourced() -> None:
    measured = set(open_clip.list_models())
    for entry in catalogue():
        assert bool(entry.licence) == bool(entry.licence_from) and bool(entry.figures) == bool(entry.figures_from), entry
        assert all(0 < figure < 100 for figure in entry.figures.values())
        name = entry.source.removeprefix("open_clip:").partition("/")[0]
        assert entry.architecture is not None or name not in measured, entry.source
    facts = {"RN50": 59.8, "ViT-B-32": 63.3, "ViT-B-16": 68.3, "ViT-L-14": 75.5, "ViT-L-14-336": 76.6}
    found = {entry.source: entry.figures for entry in catalogue()}
    for name, figure in facts.items():
        assert found[f"open_clip:{name}/openai"]["imagenet"] == pytest.approx(figure, abs=0.06)


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_sizes_are_those_that_are_measured(name: str) -> None:
    stored = next(entry.architecture for entry in catalogue() if entry.source.startswith(f"open_clip:{name}/"))
    assert measure_architecture(name) == stored


def test_sizes_of_a_family() -> None:
    stored = next(entry.architecture for entry in catalogue() if entry.source == "hf:OFA-Sys/chinese-clip-vit-base-patch16")
    assert measure_family("chinese_clip") == stored


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["roberta-ViT-B-32", "coca_ViT-B-32", "MobileCLIP-S1", "ViT-B-16-SigLIP2", "swin_base_patch4_window7_224"]
)
def test_more_sizes(name: str) -> None:
    stored = next(entry.architecture for entry in catalogue() if entry.source.startswith(f"open_clip:{name}/"))
    assert measure_architecture(name) == stored


def test_parameters_as_open_clip_published_them() -> None:
    """open_clip's own docs/model_profile.csv, in millions; texts of transformers among them, whose settings are on the hub."""
    profile = {"roberta-ViT-B-32": 212.72, "xlm-roberta-large-ViT-H-14": 1193.01, "nllb-clip-large-siglip": 1195.5}
    profile |= {"mt5-xl-ViT-H-14": 2306.75, "ViT-bigG-14": 2539.57, "coca_ViT-L-14": 638.45, "RN50x64": 623.26}
    found = {entry.architecture.name: entry.architecture for entry in catalogue() if entry.architecture is not None}
    for name, millions in profile.items():
        assert found[name].parameters / 1e6 == pytest.approx(millions, abs=0.02), name


def test_page_has_the_table() -> None:
    table = PAGE.read_text("utf-8").partition("<!-- models -->\n")[2].partition("\n<!-- end of models -->")[0]
    assert table == markdown_table(catalogue()), "run: python benchmarks/catalogue.py, then put the table into docs/models.md"


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "ViT-B-32/", "--sort", "imagenet"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "open_clip:ViT-B-32/" in line]
    assert "datacomp_xl_s13b_b90k" in lines[0] and "151 M" in lines[0]
    assert main(["models", "--domain", "CHINESE", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["domain"] for row in found} == {"Chinese"} and found[0]["source"].startswith("hf:OFA-Sys/")
    assert main(["models", "bioclip", "--markdown"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3 and all(name in table[0] for name in FIGURES.values()) and "| MIT |" in table[2]


def test_mistakes() -> None:
    assert {"medical", "remote sensing", "products", "Chinese", "multilingual", "biology", "general"} == set(domains())
    with pytest.raises(InputError, match="--domain 'medicine' is none of the catalogue's: did you mean 'medical'"):
        select("medicine")
    with pytest.raises(InputError, match="no model's name holds 'ViT-Z': omit it to list all"):
        select(None, "ViT-Z")
