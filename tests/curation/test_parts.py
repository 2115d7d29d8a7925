"""The parts of a curation against plain loops: matching, counting, near pictures, balancing, filters."""

from __future__ import annotations

import math
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, gradient
from torchvision.transforms.v2.functional import resize

from lightning_clip import InputError
from lightning_clip.curation import Looked, pair_filters
from lightning_clip.curation.balancing import balanced
from lightning_clip.curation.duplicates import close_pairs, near_duplicates, repeats
from lightning_clip.curation.entries import Matcher, WordCounts, frequent_entries, normalised, read_entries
from lightning_clip.curation.image_stats import perceptual_hash
from lightning_clip.data.decoding import decode

WORDS = ["red", "shirt", "t", "blue", "navy"]


def looked(*captions: str, width: int = 40, height: int = 30) -> Looked:
    return Looked(captions, torch.zeros(3, height, width, dtype=torch.uint8), {})


class TestEntries:
    @given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3), min_size=1, max_size=8), st.data())
    @settings(max_examples=60, deadline=None)
    def test_finds_whole_words(self, given_entries: list[list[str]], data: st.DataObject) -> None:
        entries = list(dict.fromkeys(" ".join(words) for words in given_entries))
        text = data.draw(st.lists(st.sampled_from([*WORDS, "shirts", "redt"]), max_size=8))
        found = Matcher(entries).find([" ".join(text)])
        windows = {" ".join(text[start : start + size]) for start in range(len(text)) for size in (1, 2, 3)}
        assert found == [number for number, entry in enumerate(entries) if entry in windows]

    def test_punctuation_and_scripts_without_spaces(self) -> None:
        matcher = Matcher(read_entries(["T-Shirt", "红色", "Straße"]))
        assert sorted(matcher.find(["一件红色T-shirt", "die STRASSE? die Straße!"])) == [1, 2]
        assert matcher.find(["A t shirt."]) == [0] and normalised("--") == " "
        assert pickle.loads(pickle.dumps(matcher)).find(["t-shirt"]) == [0]

    def test_frequent_entries_by_hand(self) -> None:
        counts, again = WordCounts(), WordCounts()
        for number in range(20):
            counts.add(["new york is big", "new york"] if number % 4 == 0 else [f"is big {number}"])
        again.add(["is"])
        counts.merge(again)
        assert counts.pairs == 21 and counts.words["new"] == counts.couples["new york"] == 5 and counts.words["is"] == 21
        found = frequent_entries(counts, most=10, min_count=5, min_pmi=1.0)
        # new york: ln(5 * 21 / (5 * 5)) = 1.43; is big: ln(20 * 21 / (21 * 20)) = 0
        assert found == ["is", "big", "new", "new york", "york"] and math.log(21 / 5) > 1.4
        assert frequent_entries(counts, most=2, min_count=5, min_pmi=0.0) == ["is", "big"]
        with pytest.raises(InputError, match="no word occurs in 50 of 21 pairs: lower min_count"):
            frequent_entries(counts, 10, 50, 1.0)

    def test_files(self, tmp_path: Path) -> None:
        (tmp_path / "words.txt").write_text("Dog\n\ncat \nDOG\n")
        (tmp_path / "words.json").write_text('["Dog", "cat"]')
        assert read_entries(tmp_path / "words.txt") == read_entries(str(tmp_path / "words.json")) == ["dog", "cat"]
        with pytest.raises(InputError, match="hold no word"):
            read_entries(["?"])
        with pytest.raises(InputError, match="does not exist"):
            read_entries(tmp_path / "other.txt")


class TestDuplicates:
    @given(st.lists(st.integers(0, 15), max_size=20), st.integers(0, 7))
    @settings(max_examples=100, deadline=None)
    def test_like_a_loop(self, numbers: list[int], distance: int) -> None:
        """Four bits spread over three bytes, so that every band has some."""
        spread = [[(n & 1) | (n & 2) << 4, (n & 4) << 1, n & 8] for n in numbers]
        hashes = np.array(spread, dtype=np.uint8).reshape(-1, 3)
        apart = [[bin(a ^ b).count("1") for b in numbers] for a in numbers]
        pairs = [
            pair
            for first, second in close_pairs(hashes, distance)
            for pair in zip(first.tolist(), second.tolist(), strict=True)
        ]
        close = [(i, j) for j in range(len(numbers)) for i in range(j) if apart[i][j] <= distance]
        assert sorted(pairs) == sorted(close)
        expected: list[int] = []
        for j in range(len(numbers)):
            near = [i for i in range(j) if expected[i] < 0 and apart[i][j] <= distance]
            expected.append(near[0] if near else -1)
        found = near_duplicates(hashes, distance).tolist()
        assert [place < 0 for place in found] == [place < 0 for place in expected]
        assert all(place < 0 or (found[place] < 0 and place < j) for j, place in enumerate(found))

    def test_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many of the same band are compared in pieces, each pair once."""
        monkeypatch.setattr("lightning_clip.curation.duplicates._CHUNK", 7)
        hashes = np.arange(16, dtype=np.uint8)[:, None]
        pairs = [pair for parts in close_pairs(hashes, 1) for pair in zip(*(part.tolist() for part in parts), strict=True)]
        assert len(pairs) == len(set(pairs)) == 16 * 4 // 2

    def test_repeats(self) -> None:
        assert repeats(np.array([[1, 2], [3, 4], [1, 2]], dtype=np.uint8)).tolist() == [-1, -1, 0]
        assert repeats(np.zeros((0, 16), np.uint8)).tolist() == []

    def test_copies_are_near_and_others_far(self, shared_data: Path) -> None:
        from lightning_clip.data import TableSource

        source = TableSource(str(shared_data / "flickr8k/captions.jsonl"), "images_144.tar", caption_column="en")
        pictures = [decode(source[place].image) for place in range(0, 4000, 40)]
        whole, small = (
            np.stack([perceptual_hash(resize(pixels, [side, side], antialias=True)) for pixels in pictures])
            for side in (144, 70)
        )
        apart = np.unpackbits(whole[:, None] ^ small[None], axis=2).sum(axis=2)
        assert np.diag(apart).max() <= 12 and (apart + 256 * np.eye(100)).min() > 60


class TestBalanced:
    @pytest.mark.parametrize("method", ["queries", "chance"])
    def test_order_and_other_pairs_do_not_matter(self, method: str) -> None:
        rng = np.random.default_rng(0)
        owners, entries = rng.integers(0, 500, 3000), rng.zipf(1.5, 3000) % 40
        kept = balanced(owners, entries, 500, 10, method, seed=1)
        order = rng.permutation(3000)
        assert np.array_equal(kept, balanced(owners[order], entries[order], 500, 10, method, seed=1))
        assert not np.array_equal(kept, balanced(owners, entries, 500, 10, method, seed=2))

    def test_each_entry_brings_in_so_many(self) -> None:
        """One entry a pair: exactly min(most, count) stay of each, and each pair is as likely as another."""
        entries = np.repeat([0, 1, 2], [100, 7, 10])
        owners, stays = np.arange(117), np.zeros(117)
        for seed in range(400):
            kept = balanced(owners, entries, 117, 10, seed=seed)
            assert np.bincount(entries[kept]).tolist() == [10, 7, 10]
            stays += kept
        assert stays[:100].min() > 40 - 4.5 * 6 and stays[:100].max() < 40 + 4.5 * 6  # binomial(400, 0.1): deviation 6

    def test_chance_is_metaclips(self) -> None:
        """A pair with entries of 100 and 20 stays with 1 - (1 - 0.1) (1 - 0.5)."""
        owners, entries = np.r_[np.arange(100), np.arange(20)], np.repeat([0, 1], [100, 20])
        shares = np.mean([balanced(owners, entries, 101, 10, "chance", seed) for seed in range(500)], axis=0)
        assert abs(shares[:20].mean() - 0.55) < 0.02 and abs(shares[20:100].mean() - 0.1) < 0.01 and shares[100] == 0


class TestFilters:
    def test_size_and_aspect(self) -> None:
        samples = [looked("a", width=40, height=30), looked("a", width=90, height=30)]
        assert pair_filters.build({"name": "size", "least": 31}).passes(samples) == [False, False]
        assert pair_filters.build({"name": "size", "least": 30, "most": 30}).passes(samples) == [True, True]
        assert pair_filters.build({"name": "aspect", "most": 2.5}).passes(samples) == [True, False]

    def test_captions(self) -> None:
        samples = [looked("one"), looked("one", "one two three"), looked("红色的狗")]
        length = pair_filters.build({"name": "caption_length", "min_words": 2})
        assert length.passes(samples) == [False, True, False]
        assert pair_filters.build({"name": "caption_length", "min_characters": 4}).passes(samples) == [False, True, True]

    def test_language(self) -> None:
        samples = [
            looked("a dog runs over the green grass"),
            looked("eine Frau geht über die Straße"),
            looked("一只狗在草地上奔跑"),
        ]
        among = {"languages": "en", "among": ["de", "zh"]}
        assert pair_filters.build({"name": "language", **among}).passes(samples) == [True, False, False]
        assert pair_filters.build({"name": "language", "languages": ["de", "zh"]}).passes(samples) == [False, True, True]

    def test_score_is_the_models_and_no_batch_changes_it(self, tmp_path: Path) -> None:
        from small import small_data, small_module, small_trainer

        trainer, module = small_trainer(tmp_path, max_steps=2), small_module()
        trainer.fit(module, small_data())
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        samples = [Looked((f"text {n}", "another"), encoded(gradient(30 + n, 40), "PNG"), {}) for n in range(7)]
        for size in (1, 3, 7):
            score = pair_filters.build(
                {"name": "score", "checkpoint": str(tmp_path / "a.ckpt"), "least": 0.0, "batch_size": size}
            )
            passed = pickle.loads(pickle.dumps(score)).passes(samples)
            for sample, stays in zip(samples, passed, strict=True):
                pixels = module.image_transform(train=False)(sample.pixels)
                cosines = module.encode_text(list(sample.captions)) @ module.encode_image(pixels[None])[0]
                assert sample.score == pytest.approx(float(cosines.max()), abs=6e-5) and stays == (sample.score >= 0.0)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ({"name": "size", "least": 0}, "filter size has least 0 and most None: it must be"),
            ({"name": "aspect", "most": 0.5}, "filter aspect has most 0.5: it must be at least 1"),
            ({"name": "caption_length", "min_words": 9, "max_words": 3}, "lets nothing through: 9..3 words"),
            ({"name": "language", "languages": ["eng"]}, "does not know 'eng': did you mean 'en'"),
            ({"name": "score", "checkpoint": "none.ckpt"}, "checkpoint 'none.ckpt' does not exist"),
            ({"name": "score", "checkpoint": __file__, "least": 2}, "least 2: a cosine is in -1..1"),
            ("sise", "unknown filter 'sise': did you mean 'size'"),
            ("no_such_package.Filter", "is of a module that is not imported: add --import no_such_package"),
            ("os.PathLike", "is no subclass of Filter: name one, or one of aspect"),
        ],
    )
    def test_wrong_settings(self, spec: object, message: str) -> None:
        with pytest.raises(InputError, match=message):
            pair_filters.build(spec)


def test_shuffled_source_gives_the_same_near_pictures() -> None:
    """Whether any picture is near depends on the set; which of a group stays is the first."""
    random.seed(0)
    hashes = np.random.default_rng(0).integers(0, 256, (30, 32), dtype=np.uint8)
    hashes[7] = hashes[3] ^ np.eye(32, dtype=np.uint8)[5]
    order = np.random.default_rng(1).permutation(30)
    for places in (np.arange(30), order):
        found = near_duplicates(hashes[places], 12)
        assert (found >= 0).sum() == 1 and set(places[[found.argmax(), found.max()]].tolist()) == {3, 7}
