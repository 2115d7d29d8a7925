"""Hashtags predicted from images: 1/k for each tag, synonyms, resampling by tag, and images without tags."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import IMAGE, small_trainer
from variants.senses import SETTINGS, Senses, batch_of

from lightning_clip import ClipDataModule, ClipModule, InputError, Pair
from lightning_clip.data import PairSource
from lightning_clip.data.sampler import PairSampler
from lightning_clip.data.sources import Resampled
from lightning_clip.data.weighted_order import Weighted
from lightning_clip.data.words import read_synonyms, tags_in


class Tagged(PairSource):
    """Squares of three colours, red ones eight times as many as blue ones; tags as people write them."""

    def __init__(self, size: int = 48, without: int | None = None) -> None:
        self.size, self.without = size, without

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        colour = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2)[index % 12]
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[colour] = 255
        tags = (("#Red", "square"), ("#grass_green, square",), ("blue", "#Square", "rare"))[colour]
        return Pair(image, () if index == self.without else tags, str(index), colour)


def module_of(**settings: Any) -> ClipModule:
    torch.manual_seed(0)
    return ClipModule(IMAGE, objective={"name": "hashtags", **settings}, **SETTINGS)


class TestLoss:
    def test_beside_loops(self) -> None:
        """-1/k sum over the k known tags of log softmax, in float64."""
        vocabulary = ["night", "red", "left", "blue", "right", "green"]
        module = module_of(vocabulary=vocabulary, separator=" ", synonyms={"left": "right"}).double()
        batch = batch_of(module, Senses())
        output = module.encoded_rows(batch)
        logits = module.objective.logits(module.model, output.features["image"]).detach().numpy()
        expected = []
        for row, (caption,) in zip(logits, batch.captions, strict=True):
            tags = {"right" if tag == "left" else tag for tag in caption.split()} & set(vocabulary)
            whole = sum(math.exp(value) for value in row)
            logs = [math.log(math.exp(row[vocabulary.index(tag)]) / whole) for tag in tags]
            expected.append(-sum(logs) / len(logs) if logs else 0.0)
        torch.testing.assert_close(output.rows["hashtags"].tolist(), expected, rtol=1e-6, atol=1e-9)

    def test_all_tags_count_whichever_caption_is_shown(self) -> None:
        module = module_of(vocabulary=["red", "square", "blue"])
        batch = batch_of(module, Senses(), 2)._replace(captions=[("#red", "square"), ("blue",)], texts=["square", "blue"])
        assert module.objective.entries(batch) == [["red", "square"], ["blue"]]
        module.configure_model()
        assert module.objective.bags(module.objective.entries(batch)).shares.tolist() == [0.5, 0.5, 1.0]


class TestVocabulary:
    def test_by_images_with_synonyms_from_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "synonyms.txt"
        path.write_text("% colours\n\ngreen, grass_green, #Lime\nred, crimson\n")
        module = module_of(synonyms=str(path), size=3)
        module.objective.prepare(ClipDataModule(Tagged()), module.tokenizer)
        assert list(module.objective.vocabulary) == ["square", "red", "green"]
        stored = module.objective.to_mapping()
        assert stored["synonyms"] == {"grass green": "green", "lime": "green", "crimson": "red"}  # no file is needed again
        assert module_of(**{key: value for key, value in stored.items() if key != "name"}).objective.to_mapping() == stored

    def test_tags_as_people_write_them(self) -> None:
        assert tags_in(["#Sun_set,  beach ", "##BEACH", ""]) == ["sun set", "beach"]

    def test_mistakes_in_synonyms(self, tmp_path: Path) -> None:
        path = tmp_path / "synonyms.txt"
        path.write_text("dog, puppy\ncat, puppy\n")
        with pytest.raises(InputError, match="synonyms.txt, line 2: 'puppy' is in two groups of synonyms: put it into one"):
            read_synonyms(str(path))
        with pytest.raises(InputError, match="nowhere.txt"):
            read_synonyms(str(tmp_path / "nowhere.txt"))


class TestResampling:
    def test_counts_are_exact_in_every_epoch(self) -> None:
        weights = np.array([4.0, 1.0, 1.0, 0.5, 0.25, 0.0, 1.25])
        order = Weighted(weights, seed=3)
        seen = []
        for epoch in range(300):
            found = Counter(order.samples(epoch, 0, 7).tolist())
            expected = weights / weights.sum() * 7
            assert all(math.floor(value) <= found[index] <= math.ceil(value) for index, value in enumerate(expected))
            seen.append([found[index] for index in range(7)])
        np.testing.assert_allclose(np.mean(seen, axis=0), weights / weights.sum() * 7, atol=0.1)

    def test_a_repeated_sample_is_another_visit(self) -> None:
        stretch = Weighted(np.array([5.0, 1.0, 1.0, 1.0]), seed=0).stretch(2, 0, 4)
        pairs = list(zip(stretch.samples.tolist(), stretch.passes.tolist(), strict=True))
        assert len(set(pairs)) == 4 and sum(sample == 0 for sample, _ in pairs) >= 2

    def test_equal_weights_show_each_sample_once(self) -> None:
        for epoch in range(5):
            assert sorted(Weighted(np.ones(100), 1).samples(epoch, 0, 100).tolist()) == list(range(100))

    def test_any_stretch_of_any_rank_is_that_of_the_whole(self) -> None:
        """On two ranks, from any batch on: what one process sees at the same places."""
        order = Weighted(np.arange(1.0, 41.0), seed=2)
        whole = list(PairSampler(order, batch_size=8))
        for done in (0, 2, 5):
            resumed = list(PairSampler(order, batch_size=8, batches_done=lambda done=done: done))
            assert resumed == whole[done * 8 :] if done < 5 else resumed != whole
        parts = [order.stretch(0, rank, 40, 2).samples for rank in (0, 1)]
        assert np.stack(parts, axis=1).ravel().tolist() == order.samples(0, 0, 40).tolist()

    def test_by_the_inverse_square_root_of_the_rarest_tag(self) -> None:
        """Of 48 images 32 are red, 12 green, 4 blue: weights 1/sqrt(32), 1/sqrt(12), 1/sqrt(4)."""
        source = Resampled(Tagged())
        found: Counter[int | None] = Counter()
        for epoch in range(50):
            found.update(source.label(index) for index in source.order(0).samples(epoch, 0, 48).tolist())
        weights = np.array([32 / math.sqrt(32), 12 / math.sqrt(12), 4 / math.sqrt(4)])
        np.testing.assert_allclose([found[label] / 2400 for label in range(3)], weights / weights.sum(), atol=0.01)
        assert Resampled(Tagged(), power=0).order(0).samples(0, 0, 48).tolist().count(0) == 1

    def test_mistakes(self) -> None:
        with pytest.raises(InputError, match="resampled: power -1 must be a number >= 0"):
            Resampled(Tagged(), power=-1)

        class Bare(Tagged):
            def captions(self, index: int) -> tuple[str, ...]:
                return ()

        with pytest.raises(InputError, match="resampled: none of the 48 samples has a tag: name the column that holds them"):
            Resampled(Bare()).order(0)


class TestRun:
    def fitted(self, folder: Path, steps: int, **options: Any) -> ClipModule:
        module = module_of()
        trainer = small_trainer(folder, max_steps=steps)
        trainer.fit(module, ClipDataModule({"name": "resampled", "source": Tagged()}, local_batch_size=12), **options)
        trainer.save_checkpoint(folder / f"{steps}.ckpt")
        return module

    def test_learns_tags_and_goes_on_where_it_was(self, tmp_path: Path) -> None:
        whole = self.fitted(tmp_path, 40).state_dict()
        self.fitted(tmp_path, 18)
        again = self.fitted(tmp_path, 40, ckpt_path=tmp_path / "18.ckpt").state_dict()
        assert all(torch.equal(again[key], value) for key, value in whole.items())
        module = ClipModule.load_from_checkpoint(tmp_path / "40.ckpt")
        images = torch.stack([Tagged()[index].image for index in (0, 8, 11)])  # type: ignore[misc]
        assert module.predictor.scores(images, ["red", "grass green", "blue"]).argmax(dim=1).tolist() == [0, 1, 2]

    def test_images_without_tags_are_bad_samples(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        trainer = small_trainer(tmp_path, max_steps=4)
        trainer.fit(module_of(), ClipDataModule(Tagged(without=3), local_batch_size=12, max_bad_share=0.05))
        assert "samples were skipped: " in caplog.text and "no caption" in caplog.text

        class Untagged(Tagged):
            def __getitem__(self, index: int) -> Pair:
                pair = super().__getitem__(index)
                return pair if index < 12 else Pair(pair.image, (), pair.key)

        with pytest.raises(InputError, match="train samples could not be used .* x no caption"):
            small_trainer(tmp_path, max_steps=4).fit(module_of(), ClipDataModule(Untagged(), local_batch_size=12))

    def test_no_image_has_a_tag(self, tmp_path: Path) -> None:
        """Nothing is trained: the vocabulary is made before the model."""

        class Bare(Tagged):
            def captions(self, index: int) -> tuple[str, ...]:
                return ()

        with pytest.raises(InputError, match="'hashtags' has no vocabulary, .* no training captions to take tags from: give"):
            small_trainer(tmp_path).fit(module_of(), ClipDataModule(Bare(), local_batch_size=12))

    def test_a_vocabulary_that_no_tag_meets(self, tmp_path: Path) -> None:
        module = module_of(vocabulary=["zebra", "gnu"])
        with pytest.raises(InputError, match=r"none of the 2 tags of its vocabulary \(zebra, gnu, ...\) occurs"):
            small_trainer(tmp_path).fit(module, ClipDataModule(Tagged(), local_batch_size=12))


def test_a_resampled_source_is_told_which_visit_it_is() -> None:
    """As sources that can only be read forward need it."""

    class Visited(Tagged):
        def visited(self, epoch: int, index: int) -> Pair:
            return Pair(b"", (f"epoch {epoch}, sample {index}",), str(index))

    assert Resampled(Visited()).visited(3, 5).captions == ("epoch 3, sample 5",)
