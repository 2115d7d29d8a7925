"""Swapped captions, in several languages, and batches chosen by learnability."""

from __future__ import annotations

import pytest
import torch

from lightning_clip.data.learnability import learnable_rows, odds
from lightning_clip.data.swaps import swapped, swaps


class TestSwaps:
    @pytest.mark.parametrize(
        ("caption", "expected"),
        [
            ("a red cube and a blue ball", "a blue cube and a red ball"),
            ("Two dogs beside three cats", "Three dogs beside two cats"),
            ("the cube is left of the ball on the right", "the cube is right of the ball on the left"),
        ],
    )
    def test_words_of_one_group_change_places(self, caption: str, expected: str) -> None:
        assert swapped(caption) == expected

    def test_a_single_word_of_a_group_gives_way(self) -> None:
        found = swapped("a red cube")
        assert found != "a red cube" and found.startswith("a ") and found.endswith(" cube")

    @pytest.mark.parametrize(
        "caption", ["un chien court vers un chat", "собака бежит за кошкой", "一只狗追着猫", "عطارد كوكب صغير"]
    )
    def test_any_language(self, caption: str) -> None:
        """Two words, or signs, change places; the rest stays, and the same caption always gives the same."""
        found = swapped(caption)
        assert found != caption and sorted(found.lower()) == sorted(caption.lower()) and swapped(caption) == found

    def test_groups_of_another_language(self) -> None:
        groups = {"colours": ["红", "蓝"]}
        assert swapped("红球和蓝盒", groups) == "蓝球和红盒"

    @pytest.mark.parametrize("caption", ["", "wow", "no no no", "!?"])
    def test_what_cannot_be_swapped_stays(self, caption: str) -> None:
        assert swapped(caption) == caption

    def test_several(self) -> None:
        """All different while there are changes: exchanges first, then words that give way, from the same caption always."""
        groups = {"colours": ["red", "blue", "green"], "counts": ["two", "three"]}
        caption = "two red cubes and three blue balls"
        found = swaps(caption, 9, groups)
        exchanged = {"two blue cubes and three red balls", "three red cubes and two blue balls"}
        assert set(found[:2]) == exchanged and found[0] == swapped(caption, groups) and found == swaps(caption, 9, groups)
        words = ("two", "red", "three", "blue")
        instead = [(0, "three"), (2, "two"), (1, "blue"), (1, "green"), (3, "red"), (3, "green")]
        replaced = {"{} {} cubes and {} {} balls".format(*words[:n], w, *words[n + 1 :]) for n, w in instead}
        assert set(found[2:8]) == replaced and found[8] == found[0]
        assert swaps(caption, 3, groups)[:2] == found[:2] and swaps("wow", 2) == ["wow", "wow"]
        assert swaps("chat noir", 2) == ["noir chat", "noir chat"]


class TestLearnability:
    def test_hard_pairs_that_the_reference_knows(self) -> None:
        """Of 64 pairs eight are learnable: they are chosen; those that are hard for both are not."""
        sign = 2 * torch.eye(64) - 1
        reference, learner = 9 * sign, 9 * sign
        reference[:8, :8], learner[:8, :8] = -9 * sign[:8, :8], -9 * sign[:8, :8]  # noise: neither can
        learner = learner.clone()
        learner[range(30, 38), range(30, 38)] = -30.0
        found = learnable_rows(learner, reference, 8, chunks=4, generator=torch.Generator().manual_seed(0))
        assert found.tolist() == list(range(30, 38))

    def test_pairs_that_are_hard_together(self) -> None:
        """Two pairs confused with each other are learned together: with one chosen, the other is."""
        sign = 2 * torch.eye(20) - 1
        reference = 12 * sign
        learner = reference.clone()
        learner[3, 3] = -20.0
        learner[3, 11] = learner[11, 3] = 20.0
        for seed in range(5):
            found = learnable_rows(learner, reference, 2, chunks=2, generator=torch.Generator().manual_seed(seed))
            assert found.tolist() == [3, 11]

    def test_odds_are_those_of_the_softmax(self) -> None:
        logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
        shares = logits.double().softmax(dim=1)
        assert torch.allclose(odds(logits).double(), (shares / (1 - shares)).log(), atol=1e-5)
        assert torch.allclose(odds(logits + 7), odds(logits), atol=1e-5)

    def test_sure_pairs_are_finite(self) -> None:
        assert torch.isfinite(odds(200 * torch.eye(3))).all()
