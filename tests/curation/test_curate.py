"""A whole curation: the same result however it is run, every drop counted, interrupted runs go on, mistakes named."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from data.test_pack import Made
from data.test_shards import jpeg, pairs, tar_bytes
from pictures import encoded, gradient
from waiting import exit_code

from lightning_clip import InputError
from lightning_clip.cli import main
from lightning_clip.core.types import Pair
from lightning_clip.curation import Balance, CurationSettings, Duplicates, OnRay, Processes, curate
from lightning_clip.curation.report import write_curation_report
from lightning_clip.data import ShardSource

WORDS = ("red", "blue", "green", "shirt", "hat")


def noisy(killed_at: int | None = None) -> Made:
    """120 pairs, each fault known by its place."""
    made: list[Pair | None] = []
    for number in range(120):
        text = f"a {WORDS[number % 3]} {WORDS[3 + number % 2]} number {number}"
        made.append(Pair(jpeg(number), (text,), f"k{number}"))
    made[5] = Pair(b"no image", ("a red hat",), "k5")
    made[6] = None
    made[7] = Pair(jpeg(7), (), "k7")
    made[8] = Pair(jpeg(8), ("hat",), "k8")
    made[9] = Pair(encoded(gradient(400, 30), "PNG"), ("a red hat of the same",), "k9")
    made[50] = Pair(jpeg(20), ("a blue hat of the same",), "k50")
    made[60] = Pair(jpeg(60), ("nothing that is known here",), "k60")
    return Made(made, killed_at)


def settings(folder: Path, **changes: Any) -> CurationSettings:
    given: dict[str, Any] = {
        "data": noisy(),
        "output": str(folder),
        "filters": [{"name": "caption_length", "min_words": 3}, {"name": "aspect", "most": 3}],
        "duplicates": Duplicates(),
        "balance": Balance(most=10, entries=list(WORDS)),
        "unit": 16,
        "pairs_per_shard": 40,
        **changes,
    }
    return CurationSettings(**given)


class TestCurate:
    def test_every_drop_is_counted(self, tmp_path: Path) -> None:
        result = curate(settings(tmp_path))
        drops = dict(result.drops)
        balanced_away = drops.pop("more than 10 pairs of its entries")
        assert drops == {
            "not an image": 1, "image file missing": 1, "no caption": 1, "caption too short or too long": 1,
            "one side over 3 times the other": 1, "same picture as an earlier one": 1, "no entry in the captions": 1,
        }  # fmt: skip
        assert result.twin[50] == 20 and (np.delete(result.twin, 50) == -1).all()
        assert len(result.kept) == 120 - 7 - balanced_away and (result.after >= 10).all() and len(result.kept) <= 50
        packed = ShardSource(str(tmp_path / "shards/*.tar"))
        keys = [packed[place].metadata["key"] for place in range(len(packed))]
        assert keys == [f"k{place}" for place in result.kept] and np.array_equal(np.load(tmp_path / "kept.npy"), result.kept)
        stored = np.load(tmp_path / "decisions.npz")
        assert np.array_equal(stored["reason"], result.reason) and stored["reasons"].tolist() == result.reasons

    @pytest.mark.parametrize(("unit", "workers"), [(1, 1), (7, 2), (1000, 1), (50, 3)])
    def test_however_it_is_run(self, tmp_path: Path, unit: int, workers: int) -> None:
        usual = curate(settings(tmp_path / "usual", balance=Balance(most=5, entries={"min_count": 5, "min_pmi": 0})))
        other = curate(
            settings(tmp_path / "other", unit=unit, balance=Balance(most=5, entries={"min_count": 5, "min_pmi": 0})),
            Processes(workers),
        )
        assert usual.entries == other.entries and usual.drops == other.drops and np.array_equal(usual.kept, other.kept)
        assert np.array_equal(usual.before, other.before) and np.array_equal(usual.after, other.after)
        for path in sorted((tmp_path / "usual/shards").glob("*.tar")):
            assert path.read_bytes() == (tmp_path / "other/shards" / path.name).read_bytes()

    @pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray, an extra, is not installed")
    def test_on_ray(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same on a cluster that is started here."""
        import ray

        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        (tmp_path / "0.tar").write_bytes(tar_bytes({**pairs(0, 40), "000007.jpg": b"broken"}))
        given = {
            "data": str(tmp_path / "*.tar"), "filters": [{"name": "size", "least": 4}], "balance": Balance(5, {"min_count": 5}),
            "unit": 9,
        }  # fmt: skip
        try:
            there = curate(CurationSettings(output=str(tmp_path / "ray"), **given), OnRay(workers=2))
        finally:
            ray.shutdown()
        here = curate(CurationSettings(output=str(tmp_path / "here"), **given))
        assert there.drops == here.drops and np.array_equal(there.kept, here.kept) and there.entries == here.entries

    def test_goes_on_after_sigkill(self, tmp_path: Path) -> None:
        deadly = settings(tmp_path / "a", data=noisy(killed_at=3 * 16 + 5))  # in the fourth of eight units
        process = multiprocessing.get_context("fork").Process(target=curate, args=(deadly,))
        process.start()
        assert exit_code(process) == -signal.SIGKILL
        result = curate(settings(tmp_path / "a"))
        assert (result.units_kept, result.units) == (3, 8)
        assert np.array_equal(result.kept, curate(settings(tmp_path / "b")).kept)
        again = curate(settings(tmp_path / "a", balance=Balance(most=3, entries=list(WORDS))))
        assert again.units_kept == 8 and len(again.kept) < len(result.kept)
        assert len(ShardSource(str(tmp_path / "a/shards/*.tar"))) == len(again.kept)

    def test_pictures_of_a_test_set(self, tmp_path: Path) -> None:
        test = [Pair(jpeg(number), ("x",), str(number)) for number in (30, 31)]
        duplicates = Duplicates(against=[Made(list(test))])
        result = curate(settings(tmp_path, duplicates=duplicates, balance=None, pairs_per_shard=0))
        assert result.reasons[result.reason[30]] == result.reasons[result.reason[31]] == "picture of Made"
        assert result.packed is None and not (tmp_path / "shards").exists()

    def test_best_scores(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scores = {f"k{number}": (number * 37 % 101) / 100 for number in range(120)}
        monkeypatch.setattr(
            "lightning_clip.curation.filters.score.Score._scores",
            lambda self, samples: [scores["k" + sample.captions[0].split()[-1]] for sample in samples],
        )
        (tmp_path / "a.ckpt").touch()
        plain = Made([pair for pair in noisy().pairs if pair and pair.captions and pair.captions[0].split()[-1].isdigit()])
        given = {"name": "score", "checkpoint": str(tmp_path / "a.ckpt"), "least": 0.1}
        result = curate(settings(tmp_path, data=plain, filters=[given], best_scores=0.25, balance=None, pairs_per_shard=0))
        values = np.array([scores[plain[place].key] for place in range(len(plain))])
        passed = np.flatnonzero(values >= 0.1)
        best = passed[np.argsort(-values[passed], kind="stable")][: round(0.25 * len(passed))]
        assert np.array_equal(result.kept, np.sort(best)) and np.allclose(result.score, values)

    def test_report(self, tmp_path: Path) -> None:
        result = curate(settings(tmp_path))
        page = write_curation_report(result, tmp_path, "noisy", most=10).read_text()
        record = json.loads((tmp_path / "report.json").read_text())
        assert record["kept"] + sum(record["dropped"].values()) == record["pairs"] == 120
        assert record["entries"]["red"][1] <= record["entries"]["red"][0]
        for reason in result.drops:
            assert f"Dropped: {reason}" in page
        assert "each with the picture that stays in its place" in page and not re.search(r"""(src|href)=["']?https?:""", page)


class TestMistakes:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "has no 'data'"),
            ({"data": "x", "filter": []}, "the curation has no setting 'filter': did you mean 'filters'"),
            ({"data": "x", "balance": {"most": 0}}, "balance.most 0 must be at least 1"),
            ({"data": "x", "balance": {"method": "query"}}, "unknown balance.method 'query': did you mean 'queries'"),
            ({"data": "x", "balance": {"entries": {"least": 3}}}, "balance.entries has no setting 'least'"),
            ({"data": "x", "duplicates": {"perceptual": 64}}, "duplicates.perceptual 64 must be in 0..31"),
            ({"data": "x", "duplicates": {"exact": False, "against": ["y"]}}, "duplicates.against needs"),
            ({"data": "x", "best_scores": 1.5}, "best_scores 1.5 must be a share"),
            ({"data": "x", "unit": 0}, "unit 0 must be at least 1"),
        ],
    )
    def test_settings(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            CurationSettings.parse(given)

    def test_nothing_left(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nothing is left of 120 pairs: .*too long': 118"):
            curate(settings(tmp_path, filters=[{"name": "caption_length", "min_words": 50}]))
        with pytest.raises(InputError, match="best_scores needs the filter score"):
            curate(settings(tmp_path, best_scores=0.5))
        with pytest.raises(InputError, match="cannot be curated: it is empty"):
            curate(settings(tmp_path, data=Made([])))
        with pytest.raises(InputError, match="workers 0 must be at least 1"):
            Processes(0)


class TestCommand:
    def test_by_file_and_arguments(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "0.tar").write_bytes(tar_bytes(pairs(0, 30)))
        monkeypatch.setenv("MY_DATA", str(tmp_path))
        config = tmp_path / "curate.yaml"
        config.write_text(
            yaml.safe_dump({"data": "${oc.env:MY_DATA}/0.tar", "output": str(tmp_path / "out"), "balance": {"most": 5}})
        )
        command = ["data", "curate", "--config", str(config), "--balance.entries={min_count: 2, min_pmi: 0}", "--workers", "2"]
        assert main(command) == 0
        assert "pairs kept" in capsys.readouterr().out and (tmp_path / "out/report.html").exists()
        assert main([*command, "--unit=3"]) == 0
        assert main(command) == 0 and "1 of 1 units had been looked at before" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--balance"], "setting '--balance' must be --KEY=VALUE"),
            (["--config", "missing.yaml"], "config 'missing.yaml' does not exist"),
            (["--data=no_such_folder"], "no_such_folder"),
            (["--output=x"], "has no 'data'"),
            (
                ["--data=${oc.env:NOT_SET_ANYWHERE}"],
                "the config given here needs the environment variable NOT_SET_ANYWHERE, which is not set: export",
            ),
        ],
    )
    def test_mistakes(self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "curate", *arguments]) == 2
        error = capsys.readouterr().err
        assert re.search(message, error) and error.count("\n") == 1
