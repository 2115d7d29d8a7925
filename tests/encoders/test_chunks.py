"""Captions in chunks by length: the same features and gradients, fewer tokens."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_clip.encoders import ClipTextTransformer, HuggingFaceTextEncoder, TextEncoder
from lightning_clip.encoders.chunks import chunk_sizes, encode_in_chunks, text_lengths

BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 99,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def captions(count: int, longest: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    mask = torch.arange(longest) < lengths[:, None]
    return torch.randint(1, 99, (count, longest), generator=generator) * mask, mask


def encoders() -> list[TextEncoder]:
    torch.manual_seed(0)
    towers: list[TextEncoder] = [ClipTextTransformer(width=32, layers=2, heads=2, vocab_size=99)]
    for pooling in ("mean", "cls", "eot", "max"):
        towers.append(HuggingFaceTextEncoder(config=BERT, pooling=pooling))
    return [tower.double() for tower in towers]


@pytest.mark.parametrize("encoder", encoders(), ids=["clip", "mean", "cls", "eot", "max"])
def test_features_and_gradients_are_those_of_the_padded_batch(encoder: TextEncoder) -> None:
    tokens, mask = captions(150)
    weights = torch.randn(150, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = {}
    for chunks in (0, 1, 4):
        encoder.zero_grad()
        features = encode_in_chunks(encoder, tokens, mask, None, chunks) if chunks else encoder(tokens, mask)
        (features * weights).sum().backward()
        gradients = [parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None]
        found[chunks] = (features.detach(), torch.cat(gradients))
    for chunks, part in itertools.product((1, 4), (0, 1)):
        torch.testing.assert_close(found[chunks][part], found[0][part], rtol=1e-9, atol=1e-12)


def test_each_part_is_padded_to_its_own_longest() -> None:
    seen: list[tuple[int, int]] = []

    def encode(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(tokens.shape))  # type: ignore[arg-type]
        return mask.sum(dim=1, keepdim=True).float()

    lengths = [5] * 80 + [60] * 40
    mask = torch.arange(77) < torch.tensor(lengths)[:, None]
    features = encode_in_chunks(encode, mask.long(), mask, None, 2)
    assert seen == [(80, 8), (40, 64)] and features.flatten().tolist() == lengths


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(0, 77), min_size=1, max_size=300), chunks=st.integers(1, 6))
def test_sizes_cover_all_rows_and_depend_in_number_on_the_number_of_rows_alone(lengths: list[int], chunks: int) -> None:
    sizes = chunk_sizes(sorted(lengths), chunks)
    assert sum(sizes) == len(lengths) and min(sizes) > 0
    assert len(sizes) == len(chunk_sizes([8] * len(lengths), chunks)) <= max(chunks, 1)


def test_sizes_are_the_best_of_all() -> None:
    lengths = sorted([3] * 40 + [12] * 25 + [20] * 35 + [33] * 20 + [60] * 8)
    padded = [-(-length // 8) * 8 for length in lengths]

    def tokens(sizes: list[int]) -> int:
        ends = list(itertools.accumulate(sizes))
        return sum(size * padded[end - 1] for size, end in zip(sizes, ends, strict=True))

    cuts = itertools.combinations(range(1, len(lengths)), 2)
    best = min(tokens([first, second - first, len(lengths) - second]) for first, second in cuts)
    assert tokens(chunk_sizes(lengths, 3)) == best


def test_lengths_are_places_after_the_last_token() -> None:
    mask = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
    assert text_lengths(mask) == [2, 3, 0]
