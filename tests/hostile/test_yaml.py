"""YAML from strangers: bombs, depth, other encodings, values of other kinds: one line each, at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_clip.core.errors import InputError
from lightning_clip.core.yaml_files import plain_yaml, read_mapping
from lightning_clip.curation import CurationSettings
from lightning_clip.evaluation.suite import Suite

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{place}: &a{place} [{', '.join([f'*a{place - 1}'] * 10)}]\n" for place in range(1, 12)
)
REFERENCES = "a0: xxxxxxxxxx\n" + "".join(f"a{place}: '{('${a' + str(place - 1) + '}') * 10}'\n" for place in range(1, 12))
OF_MAPPINGS = "a0: {x: 1}\n" + "".join(
    f"a{place}: {{x: '${{a{place - 1}}}', y: '${{a{place - 1}}}', z: '${{.x}}'}}\n" for place in range(1, 30)
)
DYNAMIC = "b: a0\na0: x\n" + "".join(f"a{place}: '${{${{b}}}}${{a{place - 1}}}${{${{b}}}}'\n" for place in range(1, 30))
BAD = {
    "aliases": (ALIASES, "parts by its aliases"),
    "references": (REFERENCES, "parts by its references"),
    "references to mappings": (OF_MAPPINGS, "parts by its references"),
    "references by a name that is one": (DYNAMIC, "parts by its references"),
    "an alias in itself": ("a: &a [*a]", "alias 'a' of nothing, or of what it stands in"),
    "depth": ("[" * 3000, "nested more than 60 deep"),
    "depth of mappings": ("{a: " * 3000, "nested more than 60 deep"),
    "a list": ("- a\n", "must be a mapping of settings"),
    "a number": ("3\n", "cannot be read"),
    "a long integer": ("a: " + "9" * 5000, "cannot be read: .*4300 digits|Exceeds the limit"),
    "a list as a key": ("? [1, 2]\n: 3\n", "cannot be read"),
    "a circle": ("a: ${b}\nb: ${a}\n", "cannot be read"),
    "no YAML": ("a: [1, 2", "cannot be read"),
}


class TestReading:
    @pytest.mark.parametrize("case", BAD)
    def test_is_one_line_at_once(self, case: str, tmp_path: Path) -> None:
        text, message = BAD[case]
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            read_mapping(tmp_path / "s.yaml", "suite")
        assert len(str(caught.value)) < 1000

    def test_depth_by_a_parser_with_a_bound_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuses(*_: object, **__: object) -> None:
            raise yaml.YAMLError("while increasing flow level\nexceeded maximum nesting depth")

        (tmp_path / "s.yaml").write_text("[[]]")
        monkeypatch.setattr(yaml, "parse", refuses)
        with pytest.raises(InputError, match=r"s.yaml' is nested more than 60 deep: no settings are$"):
            read_mapping(tmp_path / "s.yaml", "suite")

    def test_of_another_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_bytes(b"name: \xff\xfe")
        with pytest.raises(InputError, match=r"suite .* is no text in UTF-8 .* at byte 6"):
            read_mapping(tmp_path / "s.yaml", "suite")

    def test_of_a_giant_file(self, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text("a: " + "x" * (9 << 20))
        with pytest.raises(InputError, match="a file of settings may have 8,388,608"):
            plain_yaml(tmp_path / "s.yaml", "prompts")

    def test_ordinary_aliases_and_references_stay(self, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text(
            "a: &a {x: 1}\nb: *a\nc: ${a.x}\nd: {e: '${..c}', f: '${.e}'}\ng: '${oc.env:NO_SUCH,z}'\n"
        )
        found = read_mapping(tmp_path / "s.yaml", "suite", ["h=2"])
        assert found == {"a": {"x": 1}, "b": {"x": 1}, "c": 1, "d": {"e": 1, "f": 1}, "g": "z", "h": 2}


@pytest.mark.parametrize("case", ["aliases", "references", "depth", "a list", "no YAML", "a number"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "--config"),
        ("fit", "--config"),
        ("data", "curate", "--config"),
        ("evaluate", "--checkpoint", "none.ckpt", "--suite"),
    ],
    ids=lambda arguments: arguments[0] if arguments[0] != "data" else "curate",
)
def test_commands_refuse_it(case: str, arguments: tuple[str, ...], refuses: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(BAD[case][0])
    refuses(*arguments, str(tmp_path / "s.yaml"), match=BAD[case][1])


SETS = {"food": {"name": "synthetic", "protocols": ["zero_shot"]}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sets": True}, "sets True must be a mapping"),
        ({"sets": ["a"]}, r"sets \['a'\] must be a mapping"),
        ({"sets": {"a": 3}}, "set 'a' of the suite has no protocols"),
        ({"sets": {3: {"protocols": ["zero_shot"]}}}, "set 3 of the suite must have a name that is text"),
        ({"sets": {"a": {"protocols": 3}}}, "protocols 3: give a list"),
        ({"sets": {"a": {"protocols": {"name": "zero_shot"}}}}, "has protocols .*: give a list"),
        ({"sets": {"a": {"protocols": [3]}}}, "has protocol 3: give a name"),
        ({"sets": {"a": {"protocols": [{"name": ["x"]}]}}}, "has protocol .*: give a name"),
        ({"sets": {"a": {"protocols": [{"name": "zero_shot", "label": 3}]}}}, "label 3, which must be text"),
        ({"sets": SETS, "batch_size": "many"}, "the suite.batch_size 'many' must be a whole number"),
        ({"sets": SETS, "batch_size": 0}, "batch_size 0 must be a whole number >= 1"),
        ({"sets": SETS, "num_workers": True}, "num_workers True must be a whole number"),
        ({"sets": SETS, "output": 3}, "the suite.output 3 must be text"),
        ({"sets": SETS, "trainer": [1]}, r"trainer \[1\] must be a mapping"),
    ],
)
def test_suites_are_typed(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Suite.parse(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": 3}, "data 3 must be a path"),
        ({"data": "x", "output": 3}, "the curation.output 3 must be text"),
        ({"data": "x", "filters": "words"}, "filters 'words' must be a list"),
        ({"data": "x", "filters": [3]}, "filters has 3: give the name"),
        ({"data": "x", "duplicates": True}, "duplicates True must be a mapping"),
        ({"data": "x", "duplicates": {"perceptual": "far"}}, "duplicates.perceptual 'far' must be a whole number or null"),
        ({"data": "x", "duplicates": {"exact": "yes"}}, "duplicates.exact 'yes' must be true or false"),
        ({"data": "x", "duplicates": {"against": "test"}}, "duplicates.against 'test' must be a list"),
        ({"data": "x", "balance": 3}, "balance 3 must be a mapping"),
        ({"data": "x", "balance": {"most": "few"}}, "balance.most 'few' must be a whole number"),
        ({"data": "x", "balance": {"entries": 3}}, "balance.entries 3 must be a list"),
        ({"data": "x", "balance": {"entries": [3]}}, "balance.entries has 3, which is no text"),
        ({"data": "x", "balance": {"entries": {"most": "x"}}}, "balance.entries.most 'x' must be a whole number"),
        ({"data": "x", "best_scores": "half"}, "best_scores 'half' must be a number or null"),
        ({"data": "x", "unit": 0.5}, "unit 0.5 must be a whole number"),
    ],
)
def test_curations_are_typed(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CurationSettings.parse(given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"templates": 3}, "templates 3 must be a set's name"),
        ({"class_names": 3}, "class_names 3 must be a list of names"),
        ({"class_names": [1, 2]}, "class_names .* must be a list of names"),
        ({"multilabel": "no"}, "multilabel 'no' must be true or false"),
        ({"path": "x"}, "has no setting 'path'"),
    ],
)
def test_sets_are_typed(change: dict[str, object], message: str, tmp_path: Path) -> None:
    from lightning_clip.prompts.evaluation_sets import open_evaluation_set

    with pytest.raises(InputError, match=message):
        open_evaluation_set({"name": "synthetic", "size": 8, **yaml.safe_load(yaml.safe_dump(change))})


def test_a_missing_setting_is_named() -> None:
    from lightning_clip.data.sources import pair_sources

    with pytest.raises(InputError, match="data source 'shards' needs path"):
        pair_sources.build("shards")
