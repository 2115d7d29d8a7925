"""Captions strung together for a GPU's kernels: what padded captions give; a plain attention stands for the kernels here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention

from lightning_clip.encoders import ClipTextTransformer, varlen
from lightning_clip.training.compiling import compile_tower

LENGTHS = [5, 1, 0, 12, 3, 12]


def plainly(query: Tensor, key: Tensor, value: Tensor, queries: Tensor, keys: Tensor, *most: Any) -> Tensor:
    """Caption by caption."""
    causal = most[-1]
    parts = []
    for (top, bottom), (left, right) in zip(pairwise(queries.tolist()), pairwise(keys.tolist()), strict=True):
        heads = (part.transpose(0, 1) for part in (query[top:bottom], key[left:right], value[left:right]))
        parts.append(scaled_dot_product_attention(*heads, is_causal=causal).transpose(0, 1))  # (l, H, D)
    return torch.cat(parts)


def together(query: Tensor, key: Tensor, value: Tensor, queries: Tensor, keys: Tensor, *most: Any) -> Tensor:
    """Under a mask of all with all, without a number that a compiler would have to know."""
    rows, columns = torch.arange(len(query)), torch.arange(len(key))
    of_row, of_column = (torch.searchsorted(begins, place, right=True) for begins, place in ((queries, rows), (keys, columns)))
    seen = of_row[:, None] == of_column
    if most[-1]:
        seen = seen & (columns <= rows[:, None])
    heads = (part.transpose(0, 1) for part in (query, key, value))
    return scaled_dot_product_attention(*heads, attn_mask=seen).transpose(0, 1)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def as_if(attend: Callable[..., Tensor]) -> None:
        monkeypatch.setattr(varlen.kernels, "attend", attend, raising=False)
        monkeypatch.setattr(ClipTextTransformer, "_strings", lambda *_: True)

    return as_if


def tower(layers: int = 3, dtype: torch.dtype = torch.float64) -> ClipTextTransformer:
    torch.manual_seed(0)
    return ClipTextTransformer(width=32, layers=layers, heads=2, vocab_size=99, context_length=40).to(dtype)


def captions(lengths: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    mask = torch.arange(13) < torch.tensor(lengths)[:, None]
    return torch.randint(1, 99, mask.shape, generator=generator) * mask, mask


@pytest.mark.parametrize("attend", [plainly, together])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_features_and_gradients_are_those_of_padded_captions(on_a_gpu: Any, attend: Any, checkpointed: bool) -> None:
    tokens, mask = captions(LENGTHS)
    encoder = tower()
    encoder(tokens, mask).square().sum().backward()
    expected = {name: value.grad for name, value in encoder.named_parameters()}
    features = encoder(tokens, mask)
    on_a_gpu(attend)
    encoder.zero_grad()
    if checkpointed:
        encoder.checkpoint_blocks()
    found = encoder(tokens, mask, LENGTHS)
    torch.testing.assert_close(found, features, rtol=1e-9, atol=1e-12)
    found.square().sum().backward()
    for name, value in encoder.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-8, atol=1e-12)


def test_compiled_blocks_take_any_number_of_tokens(on_a_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One compilation, whatever the captions."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled(function, backend="eager", **options))
    torch.compiler.reset()
    counters.clear()
    on_a_gpu(together)
    encoder, plain = tower(), tower()
    compile_tower(encoder)
    for lengths in (LENGTHS, [7] * 9, [2, 3, 9, 9], [5, 4, 3] * 5):
        tokens, mask = captions(lengths)
        found = encoder(tokens, mask, lengths)
        torch.testing.assert_close(found, plain(tokens, mask), rtol=1e-9, atol=1e-12)
        found.sum().backward()
        assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()


class TestChoice:
    def test_half_precision_on_cuda_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[Any, ...]] = []
        monkeypatch.setattr(varlen, "_runs", lambda *what: asked.append(what) or True)
        cuda = torch.device("cuda", 0)
        assert varlen.usable(cuda, torch.bfloat16, 64) and varlen.usable(cuda, torch.float16, 64)
        assert not varlen.usable(cuda, torch.float32, 64) and not varlen.usable(torch.device("cpu"), torch.bfloat16, 64)
        assert asked == [(cuda, torch.bfloat16, 64), (cuda, torch.float16, 64)]

    def test_the_type_is_that_of_autocast_or_of_the_weights(self) -> None:
        cpu = torch.device("cpu")
        assert tower(1, torch.float32)._multiplied_as(cpu) == torch.float32
        assert tower(1, torch.bfloat16)._multiplied_as(cpu) == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert tower(1, torch.float32)._multiplied_as(cpu) == torch.bfloat16

    def test_what_a_device_cannot_run_is_said_in_one_line(self, caplog: pytest.LogCaptureFixture) -> None:
        """The CPU stands for a card without such kernels."""
        varlen._runs.cache_clear()
        with caplog.at_level(logging.WARNING):
            assert not varlen._runs(torch.device("cpu"), torch.bfloat16, 64)
            assert not varlen._runs(torch.device("cpu"), torch.bfloat16, 64)
        (record,) = caplog.records
        assert record.message.startswith("captions are padded in chunks, not packed, on cpu: ") and "\n" not in record.message

    def test_words_of_every_version(self) -> None:
        calls: list[dict[str, Any]] = []

        def newer(*operands: Any, window_size: tuple[int, int] = (-1, -1)) -> Tensor:
            calls.append({"window_size": window_size})
            return operands[0]

        def older(*operands: Any, is_causal: bool = False) -> Tensor:
            calls.append({"is_causal": is_causal})
            return operands[0]

        for attend in (newer, older):
            for causal in (True, False):
                varlen._torchs(attend)(*[torch.zeros(1)] * 5, 1, 1, causal)
        assert calls == [{"window_size": (-1, 0)}, {"window_size": (-1, -1)}, {"is_causal": True}, {"is_causal": False}]

    def test_flash_attn_where_torch_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        called = SimpleNamespace(flash_attn_varlen_func=lambda *operands, causal: (len(operands), causal))
        monkeypatch.setitem(sys.modules, "flash_attn", called)
        monkeypatch.setattr(varlen.importlib.util, "find_spec", lambda _: None)
        assert varlen._found()(*[torch.zeros(1)] * 5, 7, 7, True) == (7, True)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_device(compiled: bool) -> None:
    lengths = [5, 1, 0, 12, 3, 12] * 20
    tokens, mask = (value.cuda() for value in captions(lengths))
    encoder = ClipTextTransformer(width=128, layers=3, heads=2, vocab_size=99, context_length=40).cuda()
    reference = ClipTextTransformer(width=128, layers=3, heads=2, vocab_size=99, context_length=40).cuda()
    reference.load_state_dict(encoder.state_dict())
    expected = reference(tokens, mask)
    expected.square().sum().backward()
    if compiled:
        compile_tower(encoder)
    with torch.autocast("cuda", torch.bfloat16):
        assert encoder.packs(tokens)
        found = encoder(tokens, mask, lengths)
    found.square().sum().backward()
    assert (found - expected).norm() <= 2e-2 * expected.norm()
    for (name, one), other in zip(encoder.named_parameters(), reference.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).norm() <= 5e-2 * other.grad.norm(), name
