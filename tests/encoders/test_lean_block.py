"""Lean blocks give what timm's blocks give, features and gradients, whichever of their savings apply."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import QuickGELU
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lightning_clip.encoders import ClipTextTransformer, TimmImageEncoder
from lightning_clip.encoders.lean_block import LeanBlock, selected

OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "quick gelu": {"act_layer": QuickGELU},
    "layer scale": {"init_values": 0.1},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "norms of queries": {"qk_norm": True},
    "norm in the mlp": {"scale_mlp_norm": True},
}


def pair(**options: Any) -> tuple[Block, LeanBlock]:
    torch.manual_seed(0)
    theirs = Block(16, 2, **{"qkv_bias": True, **options})
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = copy.deepcopy(theirs)
    ours.__class__ = LeanBlock
    assert isinstance(ours, LeanBlock)
    return theirs, ours


def gradients(run: Callable[[Tensor], Tensor], block: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(3, 5, 16, requires_grad=True)
    out = run(x)
    out.backward(torch.randn_like(out))
    return [out.detach(), x.grad, *(parameter.grad for parameter in block.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_all_tokens_are_timms_bit_for_bit(options: dict[str, Any], causal: bool) -> None:
    theirs, ours = pair(**options)
    expected = gradients(lambda x: theirs(x, is_causal=causal), theirs)
    for found, wanted in zip(gradients(lambda x: ours(x, is_causal=causal), ours), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("read", [0, torch.tensor([0, 4, 2])], ids=["class token", "last tokens"])
def test_a_token_that_is_read_is_that_of_the_whole_block(options: dict[str, Any], read: int | Tensor) -> None:
    theirs, ours = pair(**options)
    causal = isinstance(read, Tensor)
    expected = gradients(lambda x: selected(theirs(x, is_causal=causal), read), theirs)
    for found, wanted in zip(gradients(lambda x: ours(x, is_causal=causal, read=read), ours), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_read_token_costs_no_mlp_for_the_others() -> None:
    _, ours = pair()
    seen: list[torch.Size] = []
    ours.mlp.fc1.register_forward_hook(lambda layer, inputs, out: seen.append(out.shape))
    ours(torch.randn(3, 5, 16), read=0)
    assert seen == [(3, 1, 64)]


@pytest.mark.parametrize("name", ["attn", "attn.qkv", "attn.proj", "mlp", "mlp.fc1", "mlp.act", "mlp.fc2", "norm1", "norm2"])
def test_hooks_of_every_part_are_called_and_change_what_it_gives(name: str) -> None:
    theirs, ours = pair()
    x, called = torch.randn(3, 5, 16), []

    def double(layer: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        called.append(layer)
        return 2 * out

    for block in (theirs, ours):
        block.get_submodule(name).register_forward_hook(double)
    for found, wanted in zip(gradients(ours, ours), gradients(theirs, theirs), strict=True):
        torch.testing.assert_close(found, wanted)
    assert len(called) == 2 and not torch.equal(theirs(x), pair()[0](x))


def test_dropout_draws_as_in_timm() -> None:
    theirs, ours = pair(proj_drop=0.5, attn_drop=0.5)
    x = torch.randn(3, 5, 16)
    torch.manual_seed(2)
    expected = theirs(x)
    torch.manual_seed(2)
    assert torch.equal(ours(x), expected) and not ours.is_plain() and ours.eval().is_plain()


def test_autocast_gives_timms_kinds_and_values() -> None:
    theirs, ours = pair()
    x = torch.randn(3, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = theirs(x), ours(x)
    assert found.dtype == expected.dtype and torch.equal(found, expected)


def kept(run: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for backward, each memory once, without parameters."""
    found: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        if (not isinstance(value, nn.Parameter) and value._base is None) or value.numel() > 64:
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        held = run()
    del held
    return sum(found.values())


def test_less_is_kept_for_backward() -> None:
    torch.manual_seed(0)
    theirs, ours = Block(64, 2, qkv_bias=True), LeanBlock(64, 2, qkv_bias=True)
    x = torch.randn(8, 64, 64, requires_grad=True)
    assert kept(lambda: ours(x)) < 0.7 * kept(lambda: theirs(x))


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("extra", [{}, {"patch_drop_rate": 0.5, "drop_path_rate": 0.3}, {"reg_tokens": 2}], ids=str)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_image_towers_give_what_timm_gives(pool: str, extra: dict[str, Any], checkpointed: bool) -> None:
    torch.manual_seed(0)
    size = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2, "global_pool": pool, "fc_norm": pool == "avg"}
    encoder = TimmImageEncoder("vit_base_patch16_clip_224", 32, **size, **extra)
    plain = copy.deepcopy(encoder.model)
    for block in plain.blocks:  # type: ignore[union-attr]
        block.__class__ = Block
    if checkpointed:
        encoder.checkpoint_blocks()
    image, found = torch.randn(4, 3, 32, 32), []
    for run, module in ((encoder, encoder.model), (plain, plain)):
        torch.manual_seed(1)
        features = run(image)
        (features * torch.arange(32)).sum().backward()
        found.append([features.detach(), *(value.grad for value in module.parameters() if value.grad is not None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_features_are_those_of_the_pass_with_all_tokens() -> None:
    torch.manual_seed(0)
    image_encoder = TimmImageEncoder("vit_tiny_patch16_224", 32, patch_size=8, depth=2)
    text_encoder = ClipTextTransformer(width=32, layers=2, heads=2, vocab_size=99)
    tokens = torch.randint(99, (3, 9))
    mask = torch.arange(9) < torch.tensor([9, 1, 4])[:, None]
    for encoder, inputs in ((image_encoder, (torch.randn(2, 3, 32, 32),)), (text_encoder, (tokens, mask))):
        torch.testing.assert_close(encoder(*inputs), encoder.forward_both(*inputs)[0])  # type: ignore[operator]


def test_a_tower_looks_like_timms_when_it_is_printed() -> None:
    theirs, ours = pair()
    assert repr(ours) == repr(theirs)
