"""Dense features: towers as steps give what they give whole; the last block by each method against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.attention_pool2d import AttentionPool2d
from torch import Tensor
from weights.families import shaken

from lightning_clip.core.errors import InputError
from lightning_clip.encoders import HuggingFaceImageEncoder, ImageEncoder, OpenClipImageEncoder, TimmImageEncoder
from lightning_clip.encoders.dense import TokenGrid, dense_tokens
from lightning_clip.encoders.dense_methods import DenseMethod, dense_methods, neighbourhood
from lightning_clip.encoders.small_conv import SmallConvEncoder

SIZE = 32
_OPEN_CLIP = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": SIZE}
_HF = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": SIZE}


def vit(**options: Any) -> TimmImageEncoder:
    settings = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2, **options}
    return TimmImageEncoder("vit_tiny_patch16_224", image_size=SIZE, **settings)


def hf(kind: str, *, whole: bool = True, patch_size: int = 8, **options: Any) -> HuggingFaceImageEncoder:
    own = {**_HF, "patch_size": patch_size}
    return HuggingFaceImageEncoder(config={"model_type": kind, **({"vision_config": own} if whole else own)}, **options)


def resnet_clip() -> OpenClipImageEncoder:
    return OpenClipImageEncoder(16, {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": SIZE})


VITS: dict[str, Callable[[], ImageEncoder]] = {
    "timm": vit,
    "timm, mean": lambda: vit(global_pool="avg", fc_norm=True),
    "timm, attention": lambda: vit(global_pool="map", class_token=False),
    "timm, registers and scales": lambda: vit(reg_tokens=3, init_values=0.5, qk_norm=True),
    "open_clip": lambda: OpenClipImageEncoder(24, _OPEN_CLIP),
    "open_clip, mean": lambda: OpenClipImageEncoder(24, {**_OPEN_CLIP, "pool_type": "avg", "ls_init_value": 0.5}),
    "open_clip, attention": lambda: OpenClipImageEncoder(24, {**_OPEN_CLIP, "attentional_pool": True}),
    "open_clip, norm last": lambda: OpenClipImageEncoder(24, {**_OPEN_CLIP, "final_ln_after_pool": True}),
    "open_clip with timm": lambda: OpenClipImageEncoder(
        24, {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "mlp", "image_size": 224}
    ),
    "siglip": lambda: hf("siglip"),
    "clip": lambda: hf("clip"),
    "clip, first": lambda: hf("clip", pooling="cls"),
    "siglip, mean": lambda: hf("siglip", pooling="mean"),
}
OTHERS: dict[str, Callable[[], ImageEncoder]] = {
    "ViT of transformers": lambda: hf("vit", whole=False),
    "EVA": lambda: TimmImageEncoder(
        "eva02_tiny_patch14_224", image_size=SIZE, patch_size=8, depth=1, embed_dim=32, num_heads=2
    ),
    "ResNet": lambda: TimmImageEncoder("resnet18"),
    "Swin": lambda: TimmImageEncoder(
        "swin_tiny_patch4_window7_224", image_size=56, window_size=7, depths=[1, 1], embed_dim=16, num_heads=[2, 2]
    ),
    "small_conv": lambda: SmallConvEncoder(SIZE, widths=[16, 24], stride=1),
    "MobileNet": lambda: TimmImageEncoder("mobilenetv3_small_050"),
    "ResNet of CLIP": lambda: TimmImageEncoder("resnet50_clip", image_size=64),
    "ResNet of open_clip": resnet_clip,
}
METHODS = ["plain", "maskclip", "sclip", "clearclip", "naclip"]


def pixels(encoder: ImageEncoder, count: int = 2) -> Tensor:
    side = 64 if "resnet" in str(encoder.architecture) else encoder.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [*VITS, *OTHERS])
@torch.no_grad()
def test_a_tower_as_steps_gives_what_it_gives_whole(name: str) -> None:
    encoder = shaken({**VITS, **OTHERS}[name]())
    image, view = pixels(encoder), encoder.dense_view()
    found = dense_tokens(view, image, "plain")
    torch.testing.assert_close(view.pool(found.tokens()), encoder(image), rtol=1e-5, atol=1e-6)
    assert found.prefix.shape[1] == view.prefix
    if name.startswith("open_clip") and "timm" not in name:
        return  # hands out tokens behind another norm, or after pooling; the line above reads all of them
    if name == "ResNet of open_clip":
        return  # has no forward_tokens
    expected = encoder.forward_tokens(image)
    if name == "Swin":
        return
    torch.testing.assert_close(found.tokens(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_blocks_taken_apart_give_what_they_give_whole(name: str) -> None:
    encoder = shaken(VITS[name]())
    view = encoder.dense_view()
    x, rows, columns = view.enter(pixels(encoder))
    assert rows == columns and x.shape[1] == view.prefix + rows * columns and len(view.blocks) == len(encoder.blocks())
    plain = dense_methods.build("plain")
    for block in view.blocks:
        torch.testing.assert_close(
            plain(x, view.parts(block), view.prefix, rows, columns), view.run(block, x), rtol=1e-5, atol=1e-5
        )
        x = view.run(block, x)


@pytest.mark.parametrize("name", [*VITS, *OTHERS])
@torch.no_grad()
def test_a_token_alone_passes_the_pooling_as_all_of_them_equal_to_it(name: str) -> None:
    encoder = shaken({**VITS, **OTHERS}[name]())
    view = encoder.dense_view()
    tokens = dense_tokens(view, pixels(encoder), "plain").tokens()
    equal = tokens[:, -1:].expand_as(tokens)
    alone = view.each(tokens)
    assert alone.shape == (*tokens.shape[:2], encoder.output_dim)
    if name in ("ResNet of CLIP", "ResNet of open_clip"):
        return  # positions tell equal places apart: see the test of their values
    torch.testing.assert_close(alone[:, -1], view.pool(equal.contiguous()), rtol=1e-4, atol=1e-5)
    if view.reads_first:
        torch.testing.assert_close(alone[:, 0], view.pool(tokens), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ResNet of CLIP", "ResNet of CLIP, one matrix", "ResNet of open_clip"])
@torch.no_grad()
def test_values_of_a_resnet_are_those_that_its_attention_weighs(name: str) -> None:
    """With queries of zero attention is a mean, so that the pooled feature is the mean of the values and that of the mean."""
    encoder = shaken(OTHERS[name.partition(",")[0]]()).double()
    if name.endswith("one matrix"):
        encoder.model.head = AttentionPool2d(2048, feat_size=2, out_features=24, qkv_separate=False).double()
        encoder.model.head.qkv.weight[:2048].zero_()
        table = encoder.model.head.pos_embed
    else:
        pool: Any = encoder.model.head if name == "ResNet of CLIP" else encoder.model.attnpool
        for weight in (pool.q if hasattr(pool, "q") else pool.q_proj).parameters():
            weight.zero_()
        table = pool.pos_embed if hasattr(pool, "pos_embed") else pool.positional_embedding
    view: Any = encoder.dense_view()
    image = pixels(encoder).double()
    tokens = dense_tokens(view, image, "plain").tokens()
    mean = view.value(tokens.mean(dim=1, keepdim=True) + table[0])
    expected = torch.cat([mean, view.each(tokens)], dim=1).mean(dim=1)
    torch.testing.assert_close(encoder(image), expected, rtol=1e-9, atol=1e-9)


def looped(method: str, q: Any, k: Any, v: Any, prefix: int, rows: int, columns: int, std: float) -> Any:
    """What one head finds for each token, in plain loops: q, k, v (L, D) as arrays."""
    length, width = q.shape

    def softmax(row: list[float]) -> list[float]:
        top = [math.exp(value - max(row)) for value in row]
        return [value / sum(top) for value in top]

    def dot(one: Any, other: Any) -> float:
        return sum(float(a) * float(b) for a, b in zip(one, other, strict=True)) / math.sqrt(width)

    found = np.zeros_like(v)
    for i in range(length):
        if method == "maskclip":
            found[i] = v[i]
            continue
        asks = [dot(q[i], q[j]) for j in range(length)]
        answers = [dot(k[i], k[j]) for j in range(length)]
        if method == "sclip":
            weights = [a + b for a, b in zip(softmax(asks), softmax(answers), strict=True)]
        elif method == "clearclip":
            weights = softmax(asks)
        elif method == "plain":
            weights = softmax([dot(q[i], k[j]) for j in range(length)])
        else:
            for j in range(length):
                if i >= prefix and j >= prefix:
                    (r, c), (s, d) = divmod(i - prefix, columns), divmod(j - prefix, columns)
                    answers[j] += math.exp(-((r - s) ** 2 + (c - d) ** 2) / (2 * std**2))
            weights = softmax(answers)
        for j in range(length):
            found[i] += weights[j] * v[j]
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tower", ["timm", "timm, registers and scales", "open_clip", "siglip"])
@torch.no_grad()
def test_methods_equal_plain_loops(method: str, tower: str) -> None:
    """The whole last block: attention by loops over heads and tokens, then what the method keeps of the block."""
    encoder = shaken(VITS[tower]()).double()
    view = encoder.dense_view()
    x, rows, columns = view.enter(pixels(encoder, 1).double())
    x = view.run(view.blocks[0], x)
    parts = view.parts(view.blocks[1])
    query, key, value = parts.heads(x)
    heads = [
        looped(method, *(part[0, head].numpy() for part in (query, key, value)), view.prefix, rows, columns, 5.0)
        for head in range(query.shape[1])
    ]
    added = parts.project(torch.from_numpy(np.concatenate(heads, axis=-1))[None])  # H x (L, D) -> (1, L, H D)
    expected = added
    if method in ("plain", "maskclip", "sclip"):
        expected = x + added
        expected = expected + parts.mlp(expected)
    found = dense_methods.build(method)(x, parts, view.prefix, rows, columns)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_what_tokens_find_follows_them(method: str) -> None:
    """Places in another order find the same in that order; for neighbours it must be one that keeps distances, a mirror."""
    generator, (rows, columns, prefix) = torch.Generator().manual_seed(0), (3, 4, 2)
    q, k, v = (torch.randn(1, 2, prefix + rows * columns, 5, generator=generator).double() for _ in range(3))
    places = torch.arange(rows * columns).reshape(rows, columns).flip(1).flatten()
    if method != "naclip":
        places = torch.randperm(rows * columns, generator=generator)
    order = torch.cat([torch.arange(prefix), prefix + places])
    build: DenseMethod = dense_methods.build(method)
    moved = build.found(*(part[:, :, order] for part in (q, k, v)), prefix, rows, columns)
    torch.testing.assert_close(moved, build.found(q, k, v, prefix, rows, columns)[:, :, order])


def test_weights_are_shares() -> None:
    """Rows of weights sum to one, SCLIP's to two; a wide neighbourhood is none, as all are equally near."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 13, 5, generator=generator).double() for _ in range(2))
    for method in METHODS:
        weights = dense_methods.build(method).weights(q, k, 1, 3, 4)
        total = torch.full(weights.shape[:-1], 2.0 if method == "sclip" else 1.0, dtype=torch.double)
        torch.testing.assert_close(weights.sum(dim=-1), total)
    wide = dense_methods.build({"name": "naclip", "std": 1e6}).weights(q, k, 0, 1, 13)
    torch.testing.assert_close(wide, (k @ k.transpose(-2, -1) / 5**0.5).softmax(dim=-1))
    torch.testing.assert_close(
        neighbourhood(2, 2, 1.0)[0], torch.tensor([1.0, math.exp(-0.5), math.exp(-0.5), math.exp(-1.0)], dtype=torch.double)
    )


def test_a_method_of_ones_own_is_one_class() -> None:
    class Everywhere(DenseMethod):
        def weights(self, query: Tensor, key: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
            return torch.full((query.shape[-2],) * 2, 1 / query.shape[-2])

    encoder = shaken(vit())
    with torch.no_grad():
        grid = dense_tokens(encoder.dense_view(), pixels(encoder), Everywhere()).grid
    assert grid.shape == (2, 4, 4, 32)


def test_grids_are_split_and_put_together() -> None:
    tokens = torch.arange(2 * 8 * 3).reshape(2, 8, 3)
    grid = TokenGrid.split(tokens, 2, 2, 3)
    assert grid.grid[1, 1, 2].tolist() == tokens[1, 7].tolist()
    assert torch.equal(grid.tokens(), tokens)


def test_errors() -> None:
    class Means(ImageEncoder):
        def __init__(self) -> None:
            super().__init__(output_dim=3, image_size=8)

        def forward(self, image: Tensor) -> Tensor:
            return image.mean(dim=(2, 3))

    with pytest.raises(InputError, match="Means has no features of places: take a ViT or a ResNet"):
        Means().dense_view()
    with pytest.raises(InputError, match="unknown dense method 'nacilp': did you mean 'naclip'"):
        dense_tokens(vit().dense_view(), torch.zeros(1, 3, 32, 32), "nacilp")
    with pytest.raises(
        InputError, match="'sclip' changes the last attention of a ViT, and this tower has none: use method 'plain'"
    ):
        dense_tokens(resnet_clip().eval().dense_view(), torch.zeros(1, 3, 32, 32), "sclip")
    with pytest.raises(InputError, match="naclip's std 0 must be a number > 0"):
        dense_methods.build({"name": "naclip", "std": 0})
    view = vit().dense_view()
    with pytest.raises(InputError, match="Linear is no block whose attention is known"):
        resnet_clip().dense_view().parts(torch.nn.Linear(2, 2))
    assert view.blocks
