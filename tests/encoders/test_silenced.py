"""Silenced heads: equal to a forward pass computed by hand in float64, for ViTs of three libraries; what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from encoders.test_dense import VITS, hf, pixels, resnet_clip, vit
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear
from weights.families import shaken

from lightning_clip.core.errors import InputError
from lightning_clip.encoders import ImageEncoder, OpenClipImageEncoder, TimmImageEncoder, image_encoders
from lightning_clip.encoders.dense import dense_tokens
from lightning_clip.encoders.silenced import SilencedHeads, head_sizes, view_with_heads

_OPEN_CLIP = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
HEADS = [(0, 1), (1, 0)]


def of_timm(tower: Any) -> tuple[Any, list[dict[str, Any]], Any]:
    """Entry, weights of the blocks by plain names, and exit."""
    model = tower.model
    blocks = [
        {
            "norm1": (b.norm1.weight, b.norm1.bias, b.norm1.eps),
            "qkv": [(w, c) for w, c in zip(b.attn.qkv.weight.chunk(3), b.attn.qkv.bias.chunk(3), strict=True)],
            "out": (b.attn.proj.weight, b.attn.proj.bias),
            "norm2": (b.norm2.weight, b.norm2.bias, b.norm2.eps),
            "mlp": (b.mlp.fc1.weight, b.mlp.fc1.bias, b.mlp.fc2.weight, b.mlp.fc2.bias),
            "act": gelu,
        }
        for b in model.blocks
    ]

    def enter(image: Tensor) -> Tensor:
        patches = linear(_patches(image), model.patch_embed.proj.weight.flatten(1), model.patch_embed.proj.bias)
        x = torch.cat([model.cls_token.expand(len(image), -1, -1), patches], dim=1) + model.pos_embed
        return x if isinstance(model.norm_pre, torch.nn.Identity) else model.norm_pre(x)

    return enter, blocks, lambda x: layer_norm(x, x.shape[-1:], model.norm.weight, model.norm.bias, model.norm.eps)[:, 0]


def of_open_clip(tower: Any) -> tuple[Any, list[dict[str, Any]], Any]:
    model = tower.model
    blocks = [
        {
            "norm1": (b.ln_1.weight, b.ln_1.bias, b.ln_1.eps),
            "qkv": [(w, c) for w, c in zip(b.attn.in_proj_weight.chunk(3), b.attn.in_proj_bias.chunk(3), strict=True)],
            "out": (b.attn.out_proj.weight, b.attn.out_proj.bias),
            "norm2": (b.ln_2.weight, b.ln_2.bias, b.ln_2.eps),
            "mlp": (b.mlp.c_fc.weight, b.mlp.c_fc.bias, b.mlp.c_proj.weight, b.mlp.c_proj.bias),
            "act": gelu,
        }
        for b in model.transformer.resblocks
    ]

    def enter(image: Tensor) -> Tensor:
        patches = linear(_patches(image), model.conv1.weight.flatten(1))
        first = model.class_embedding.expand(len(image), 1, -1)
        x = torch.cat([first, patches], dim=1) + model.positional_embedding
        return layer_norm(x, x.shape[-1:], model.ln_pre.weight, model.ln_pre.bias, model.ln_pre.eps)

    last = model.ln_post
    return enter, blocks, lambda x: layer_norm(x, x.shape[-1:], last.weight, last.bias, last.eps)[:, 0]


def of_transformers(tower: Any) -> tuple[Any, list[dict[str, Any]], Any]:
    model = tower.dense_view().model
    blocks = [
        {
            "norm1": (b.layer_norm1.weight, b.layer_norm1.bias, b.layer_norm1.eps),
            "qkv": [(p.weight, p.bias) for p in (b.self_attn.q_proj, b.self_attn.k_proj, b.self_attn.v_proj)],
            "out": (b.self_attn.out_proj.weight, b.self_attn.out_proj.bias),
            "norm2": (b.layer_norm2.weight, b.layer_norm2.bias, b.layer_norm2.eps),
            "mlp": (b.mlp.fc1.weight, b.mlp.fc1.bias, b.mlp.fc2.weight, b.mlp.fc2.bias),
            "act": lambda x: x * torch.sigmoid(1.702 * x),
        }
        for b in model.encoder.layers
    ]

    def enter(image: Tensor) -> Tensor:
        own = model.embeddings
        patches = linear(_patches(image), own.patch_embedding.weight.flatten(1))
        x = torch.cat([own.class_embedding.expand(len(image), 1, -1), patches], dim=1) + own.position_embedding.weight
        before = model.pre_layrnorm
        return layer_norm(x, x.shape[-1:], before.weight, before.bias, before.eps)

    last = model.post_layernorm
    return enter, blocks, lambda x: layer_norm(x[:, 0], x.shape[-1:], last.weight, last.bias, last.eps)


def _patches(image: Tensor) -> Tensor:
    """(B, 3, 32, 32) -> (B, 16, 3 * 8 * 8)."""
    rows = [image[:, :, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].flatten(1) for r in range(4) for c in range(4)]
    return torch.stack(rows, dim=1)


def by_hand(parts: tuple[Any, list[dict[str, Any]], Any], image: Tensor, written: dict[tuple[int, int], Tensor]) -> Tensor:
    """A pre-norm ViT, head by head and picture by picture, whose heads in `written` give that to the class token."""
    enter, blocks, leave = parts
    x = enter(image)
    for number, block in enumerate(blocks):
        weight, bias, eps = block["norm1"]
        normed = layer_norm(x, x.shape[-1:], weight, bias, eps)
        q, k, v = (linear(normed, w, b) for w, b in block["qkv"])
        width, found = q.shape[-1] // 2, torch.zeros_like(q)
        for picture in range(len(x)):
            for head in range(2):
                own = slice(head * width, (head + 1) * width)
                scores = q[picture, :, own] @ k[picture, :, own].T / math.sqrt(width)
                exponents = scores.exp()
                found[picture, :, own] = exponents / exponents.sum(dim=1, keepdim=True) @ v[picture, :, own]
                if (number, head) in written:
                    found[picture, 0, own] = written[number, head]
        x = x + linear(found, *block["out"])
        weight, bias, eps = block["norm2"]
        first, first_bias, second, second_bias = block["mlp"]
        normed = layer_norm(x, x.shape[-1:], weight, bias, eps)
        x = x + linear(block["act"](linear(normed, first, first_bias)), second, second_bias)
    found = leave(x)
    return found


TOWERS: dict[str, tuple[Callable[[], ImageEncoder], Callable[[Any], Any]]] = {
    "ours": (vit, of_timm),
    "open_clip": (lambda: OpenClipImageEncoder(24, _OPEN_CLIP), of_open_clip),
    "transformers": (lambda: hf("clip"), of_transformers),
}


@pytest.mark.parametrize("constant", ["zeros", "numbers"])
@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_equals_a_forward_pass_by_hand(name: str, constant: str) -> None:
    make, taken_apart = TOWERS[name]
    tower = shaken(make()).double()
    silent = SilencedHeads(tower, HEADS).double()
    if constant == "numbers":
        silent.written.normal_(generator=torch.Generator().manual_seed(3))
    image = pixels(tower).double()
    expected = by_hand(taken_apart(tower), image, dict(zip(HEADS, silent.written, strict=True)))
    assert (silent(image) - expected).abs().max() < 1e-6
    assert (tower(image) - by_hand(taken_apart(tower), image, {})).abs().max() < 1e-6
    assert (silent(image) - tower(image)).abs().max() > 1e-3
    # The last block, too, is that with the heads silent, for whoever takes the tower apart.
    view = silent.dense_view()
    assert (view.pool(dense_tokens(view, image, "plain").tokens()) - expected).abs().max() < 1e-6


def test_heads_of_the_last_block_change_the_class_token_alone() -> None:
    tower = shaken(vit())
    features, tokens = SilencedHeads(tower, [(1, 0)]).forward_both(pixels(tower))
    assert torch.allclose(tokens[:, 1:], tower.forward_tokens(pixels(tower))[:, 1:], atol=1e-5)
    assert not torch.allclose(features, tower(pixels(tower)), atol=1e-3)


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_is_built_again_by_its_mapping(name: str) -> None:
    tower = SilencedHeads(shaken(TOWERS[name][0]()), HEADS)
    tower.written.fill_(0.5)
    again = image_encoders.build(tower.to_mapping())
    again.load_state_dict(tower.state_dict())
    assert isinstance(again, SilencedHeads) and again.heads == HEADS
    assert torch.equal(again.eval()(pixels(tower)), tower.eval()(pixels(tower)))
    assert again.output_dim == tower.tower.output_dim and len(again.blocks()) == 2
    assert head_sizes(view_with_heads(again).blocks[0]) == (2, 16)


def test_learns() -> None:
    tower = SilencedHeads(vit(), [(0, 1)])
    tower(pixels(tower)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], r"heads is empty: give at least one pair"),
        ([(2, 0)], r"heads has \[2, 0\], which the tower lacks: it has blocks 0 to 1 with 2 heads each"),
        ([(0, -1)], r"heads has \[0, -1\], which the tower lacks"),
        ([(0, 1), (0, 1)], r"heads has \[0, 1\] twice: keep one"),
        ([3], r"heads has 3: give pairs of a block and a head"),
    ],
)
def test_heads_that_are_wrong(heads: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SilencedHeads(vit(), heads)


NO_HEADS: dict[str, Callable[[], ImageEncoder]] = {
    "resnet18": lambda: TimmImageEncoder("resnet18", image_size=32),
    "OpenClipImageEncoder": resnet_clip,
}


@pytest.mark.parametrize("name", NO_HEADS)
def test_towers_without_attention_heads(name: str) -> None:
    with pytest.raises(InputError, match=f"image tower {name} has no attention heads that are known: take a ViT"):
        SilencedHeads(NO_HEADS[name](), HEADS)


@pytest.mark.parametrize("name", ["timm, mean", "timm, attention", "siglip", "siglip, mean"])
def test_towers_without_a_class_token(name: str) -> None:
    with pytest.raises(InputError, match="pools all of its tokens, and heads are silenced where they write into a class token"):
        SilencedHeads(VITS[name](), HEADS)
