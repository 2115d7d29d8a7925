"""Captions packed end to end: what padded captions give, whatever they share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_clip import ClipModel
from lightning_clip.core.errors import InputError
from lightning_clip.encoders import ClipTextTransformer, TextEncoder
from lightning_clip.encoders.packed import best_groups, pack
from lightning_clip.training.compiling import compile_tower


def captions(lengths: Sequence[int], longest: int, ids: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of few different ids, so that many begin alike."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return torch.randint(1, 1 + ids, (len(lengths), longest), generator=generator) * mask, mask


def tower(layers: int = 2) -> ClipTextTransformer:
    torch.manual_seed(0)
    return ClipTextTransformer(width=32, layers=layers, heads=2, vocab_size=99, context_length=40).double()


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20), ids=st.integers(1, 9), share=st.booleans())
def test_every_token_finds_its_caption(lengths: list[int], ids: int, share: bool) -> None:
    tokens, _ = captions(lengths, 12, ids)
    packed = pack(tokens, lengths, share)
    flat, ordered = tokens.flatten(), sorted(max(1, length) for length in lengths)
    start = 0
    for caption, place in enumerate(packed.back.tolist()):
        length = max(1, lengths[caption])
        start = sum(group.captions * group.length for group in packed.groups[: group_of(packed.groups, place)[0]])
        start += group_of(packed.groups, place)[1]
        rows = packed.places[start : start + length]
        assert flat[packed.tokens[rows]].tolist() == tokens[caption, :length].tolist()
        assert packed.positions[rows].tolist() == list(range(length))
        assert packed.ends[place] == rows[-1] and packed.last[place] == length - 1 == ordered[place] - 1
    assert torch.equal(packed.places[packed.first], torch.arange(len(packed.tokens)))


def group_of(groups: Sequence[tuple[int, int]], place: int) -> tuple[int, int]:
    """The group of a sorted caption, and where its tokens begin in it."""
    for number, (count, length) in enumerate(groups):
        if place < count:
            return number, place * length
        place -= count
    raise AssertionError


def test_beginnings_that_captions_share_stand_once() -> None:
    tokens = torch.tensor([[7, 1, 2, 9], [7, 1, 3, 9], [7, 1, 2, 9], [7, 9, 0, 0]])
    lengths = [4, 4, 4, 2]
    assert len(pack(tokens, lengths).tokens) == 7 and len(pack(tokens, lengths, share=False).tokens) == 14


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 77), min_size=1, max_size=80))
def test_groups_hold_all_captions_and_none_is_longer_than_its_group(lengths: list[int]) -> None:
    place = 0
    for count, length in best_groups(sorted(lengths)):
        assert sorted(lengths)[place + count - 1] == length
        place += count
    assert place == len(lengths)


@pytest.mark.parametrize("lengths", [[5], [1, 0, 3], list(range(1, 31)) * 2, [30] * 3], ids=["one", "empty", "many", "equal"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_features_and_gradients_are_those_of_padded_captions(lengths: list[int], checkpointed: bool) -> None:
    tokens, mask = captions(lengths, 31)
    encoder = tower()
    if checkpointed:
        encoder.checkpoint_blocks()
    weights, found = torch.randn(len(lengths), 32, dtype=torch.float64), []
    for inputs in ((tokens, mask), (tokens, mask, lengths)):
        encoder.zero_grad()
        features = encoder(*inputs)
        (features * weights).sum().backward()
        found.append([features.detach(), *(value.grad for value in encoder.parameters())])
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-9, atol=1e-12)


def test_longer_captions_than_the_context_are_named() -> None:
    tokens, mask = captions([41], 41)
    with pytest.raises(InputError, match="length 41 exceed the text tower's context_length 40"):
        tower()(tokens, mask, [41])


class TestWhen:
    """A model packs where it can, and gives the same where it cannot."""

    @staticmethod
    def model() -> ClipModel:
        torch.manual_seed(0)
        image = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 16, "depth": 1}
        return ClipModel(image, tower(), embed_dim=16).double()

    def seen(self, model: ClipModel) -> list[int]:
        """The axes of what each block gets."""
        axes: list[int] = []
        for block in model.text_encoder.blocks():
            block.register_forward_pre_hook(lambda _, inputs: axes.append(inputs[0].ndim))
        return axes

    def test_packed_by_default_and_padded_in_one_chunk(self) -> None:
        model = self.model()
        tokens, mask = captions([3, 9, 5, 9] * 10, 12)
        axes, found = self.seen(model), []
        for model.text_chunks in (4, 1):
            found.append(model.encode_text(tokens, mask))
        assert axes == [2, 2, 3, 3]
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)

    def test_blocks_that_are_compiled_or_changed_get_padded_captions(self) -> None:
        tokens, mask = captions([3, 9, 5], 12)
        model = self.model()
        expected, encoder = model.encode_text(tokens, mask), model.text_encoder
        assert encoder.packs(tokens) and not encoder.packs(tokens.to("meta"))
        handle = encoder.blocks()[1].attn.register_forward_hook(lambda layer, inputs, out: out)
        assert not encoder.packs(tokens)
        torch.testing.assert_close(model.encode_text(tokens, mask), expected, rtol=1e-9, atol=1e-12)
        handle.remove()
        compile_tower(encoder)
        assert not encoder.packs(tokens)

    def test_adapters_with_dropout_draw_for_each_caption(self) -> None:
        class Noisy(nn.Linear):
            def __init__(self) -> None:
                super().__init__(32, 96)
                self.drop = nn.Dropout(0.5)

            def forward(self, x: Tensor) -> Tensor:
                return self.drop(super().forward(x))

        encoder = tower()
        encoder.transformer[0].attn.qkv = Noisy().double()  # type: ignore[union-attr]
        tokens, mask = captions([6, 6], 6, ids=1)
        assert encoder.packs(tokens) and encoder(tokens, mask, [6, 6]).unique(dim=0).shape[0] == 2
        assert encoder.eval()(tokens, mask, [6, 6]).unique(dim=0).shape[0] == 1

    def test_a_tower_that_does_not_pack_gets_chunks(self) -> None:
        widths: list[int] = []

        class Mean(TextEncoder):
            def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
                widths.append(tokens.shape[1])
                return tokens.float().mean(dim=1, keepdim=True)

        tokens, mask = captions([4] * 40 + [20] * 40, 24)
        model = ClipModel(
            {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 16, "depth": 1}, Mean(1, 40), embed_dim=4
        )
        model.encode_text(tokens, mask)
        assert sorted(widths) == [8, 24]


def test_the_order_of_captions_changes_nothing() -> None:
    lengths = [3, 9, 5, 12, 1]
    tokens, mask = captions(lengths, 12)
    encoder = tower()
    expected = encoder(tokens, mask, lengths)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        found = encoder(tokens[list(order)], mask[list(order)], [lengths[row] for row in order])
        torch.testing.assert_close(found, expected[list(order)], rtol=1e-9, atol=1e-12)
