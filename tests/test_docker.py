"""The Dockerfile and the dev container, read: no Docker is needed, and none is here to build them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of each instruction, lines joined and comments omitted."""
    lines = [line for line in (ROOT / "docker/Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def rests(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def test_only_known_instructions() -> None:
    known = {"FROM", "RUN", "ARG", "ENV", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} <= known and instructions()[0][0] == "FROM"


def test_extras_are_those_of_the_project() -> None:
    (extras,) = [rest.partition("=")[2].split(",") for rest in rests("ARG") if rest.startswith("EXTRAS=")]
    assert set(extras) <= set(PROJECT["optional-dependencies"]) and len(extras) >= 5
    (install,) = [rest for rest in rests("RUN") if '".[$EXTRAS]"' in rest]
    assert "-c constraints.txt" in install
    page = (ROOT / "docs/docker.md").read_text()
    assert f"`{','.join(extras)}`" in page


def test_python_is_one_that_the_project_supports() -> None:
    (version,) = re.findall(r"python:([\d.]+)", rests("FROM")[0])
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for rest in rests("COPY"):
        for name in rest.split()[:-1]:
            assert (ROOT / name).exists() and name not in ignored


def test_stages_and_signals() -> None:
    """The command is the first process, so that SIGTERM reaches it, and does not run as root."""
    assert json.loads(rests("ENTRYPOINT")[0]) == ["lightning-clip"] and "lightning-clip" in PROJECT["scripts"]
    assert rests("USER")[-1] == "clip"
    assert [rest.split(" AS ")[1] for rest in rests("FROM")] == ["base", "run"]


def test_dev_container_names_a_stage_and_a_target() -> None:
    settings = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    built = settings["build"]
    assert (ROOT / ".devcontainer" / built["dockerfile"]).resolve() == ROOT / "docker/Dockerfile"
    assert built["target"] in [rest.split(" AS ")[1] for rest in rests("FROM")]
    target = settings["postCreateCommand"].split()[1]
    assert target == re.findall(r"^STAMP := (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].replace("$(BIN)", ".venv/bin")


def test_commands_of_the_page_name_files_that_exist() -> None:
    page = (ROOT / "docs/docker.md").read_text()
    assert re.findall(r"--file (\S+)", page) == ["docker/Dockerfile"]
    recipes = re.findall(r"--config (\w+)", page)
    assert recipes and all("model" in yaml.safe_load((ROOT / f"recipes/{recipe}.yaml").read_text()) for recipe in recipes)
