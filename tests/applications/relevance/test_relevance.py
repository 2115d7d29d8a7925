"""Relevance: gradient-weighted attention against plain loops in float64, Grad-CAM against its formula, words, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from encoders.test_dense import _OPEN_CLIP, hf, vit
from small import small_module
from torch import Tensor
from torch.nn.functional import normalize
from weights.families import shaken

from lightning_clip.applications.relevance import gradcam, relevance, rollout, word_relevance
from lightning_clip.core.errors import InputError
from lightning_clip.encoders import ImageEncoder, OpenClipImageEncoder
from lightning_clip.model.predictor import Predictor

VIT = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return small_module(image_encoder=VIT).eval().predictor


@pytest.fixture(scope="module")
def of_resnet() -> Predictor:
    torch.manual_seed(0)
    small = {"channels": [8, 8, 16, 16], "stem_width": 8}
    return small_module(image_encoder={"name": "resnet10t", "image_size": 64, **small}).eval().predictor


def picture(height: int = 40, width: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def looped(maps: list[Any], gradients: list[Any], length: int) -> Any:
    """R of Chefer et al. in loops: for each block, each pair of tokens gets the mean over heads of what is positive."""
    total = np.eye(length)
    for weights, gradient in zip(maps, gradients, strict=True):
        heads = weights.shape[0]
        step = np.zeros((length, length))
        for i in range(length):
            for j in range(length):
                step[i, j] = sum(max(0.0, weights[h, i, j] * gradient[h, i, j]) for h in range(heads)) / heads
        moved = np.zeros((length, length))
        for i in range(length):
            for j in range(length):
                moved[i, j] = sum(step[i, k] * total[k, j] for k in range(length))
        total = total + moved
    return total


TOWERS: dict[str, Callable[[], ImageEncoder]] = {
    "first token": lambda: vit(patch_size=16),
    "mean": lambda: vit(patch_size=16, global_pool="avg", fc_norm=True),
    "registers and scales": lambda: vit(patch_size=16, reg_tokens=2, init_values=0.5),
    "open_clip": lambda: OpenClipImageEncoder(24, {**_OPEN_CLIP, "patch_size": 16, "attentional_pool": True}),
    "siglip": lambda: hf("siglip", patch_size=16),
}


@pytest.mark.parametrize("name", TOWERS)
def test_rollout_equals_loops(name: str) -> None:
    """Attention is computed again in float64 and its gradients by differences: each weight is moved by a little."""
    encoder = shaken(TOWERS[name]()).double()
    view = encoder.dense_view()
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    wanted = torch.randn(encoder.output_dim, generator=torch.Generator().manual_seed(1)).double()

    def score(tokens: Tensor) -> Tensor:
        return normalize(view.pool(tokens), dim=-1) @ wanted

    maps: list[Tensor] = []

    def run(moves: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        x, *_ = view.enter(image)
        for number, block in enumerate(view.blocks):
            parts = view.parts(block)
            q, k, v = parts.heads(x)
            weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
            if moves is None:
                maps.append(weights.detach())
            elif number == moves_from:
                weights = moves[number]
            x = x + parts.added(weights @ v)
            x = x + parts.mlp(x)
        tokens = view.leave(x)
        return score(tokens), tokens

    with torch.no_grad():
        run(None)
    gradients = []
    for moves_from in range(len(view.blocks)):
        given = [weights.clone() for weights in maps]
        found = torch.zeros_like(given[moves_from])
        with torch.no_grad():
            for place in np.ndindex(*found.shape):
                sides = []
                for sign in (1, -1):
                    moved = [weights.clone() for weights in given]
                    moved[moves_from][place] += sign * 1e-5
                    sides.append(run(moved)[0])
                found[place] = (sides[0] - sides[1])[0] / 2e-5
        gradients.append(found[0].numpy())
    total = looped([weights[0].numpy() for weights in maps], gradients, maps[0].shape[-1])
    tokens = run(maps)[1].detach().requires_grad_()
    (slope,) = torch.autograd.grad(score(tokens).sum(), tokens)
    start = np.zeros(total.shape[0])
    if view.reads_first:
        start[0] = 1.0
    else:
        added = [max(0.0, float((tokens[0, i] * slope[0, i]).sum())) for i in range(len(start))]
        start = np.array(added) / sum(added)
    expected = (start @ total)[view.prefix :].reshape(1, 2, 2)
    np.testing.assert_allclose(rollout(view, image, score).numpy(), expected, rtol=1e-4, atol=1e-7)


def test_gradcam_is_its_formula(of_resnet: Predictor) -> None:
    model = of_resnet.model
    view = model.tower("image").dense_view()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wanted = of_resnet.encode_text(["a cat"])[0]

    def score(tokens: Tensor) -> Tensor:
        return normalize(model.head("image")(view.pool(tokens)), dim=-1) @ wanted

    found = gradcam(view, image, score)
    whole: Any = model.tower("image").model
    for place in range(2):
        hidden = whole.forward_features(image[place : place + 1]).detach().requires_grad_()
        similarity = normalize(model.head("image")(whole.forward_head(hidden)), dim=-1)[0] @ wanted
        (gradient,) = torch.autograd.grad(similarity, hidden)
        expected = torch.zeros(hidden.shape[-2:])
        for channel in range(hidden.shape[1]):
            expected += gradient[0, channel].mean() * hidden[0, channel].detach()
        torch.testing.assert_close(found[place], expected.clamp(min=0), rtol=1e-4, atol=1e-7)


def test_texts_are_explained_each_by_itself(predictor: Predictor) -> None:
    image, texts = picture(48, 80), ["a red circle", "a blue square", "grass"]
    found = relevance(predictor, image, texts)
    assert found.grids.shape == (3, 4, 4) and found.maps().shape == (3, 32, 32) and found.picture.shape == (3, 32, 32)
    assert (found.grids >= 0).all() and found.grids.amax(dim=(1, 2)).min() > 0
    expected = (predictor.encode_image(image) @ predictor.encode_text(texts).T)[0]
    torch.testing.assert_close(found.similarities, expected, rtol=1e-5, atol=1e-6)
    for number, text in enumerate(texts):
        torch.testing.assert_close(relevance(predictor, image, text).grids[0], found.grids[number], rtol=1e-4, atol=1e-8)
    against = relevance(predictor, image, texts, against=texts)
    torch.testing.assert_close(against.similarities, found.similarities)
    assert not torch.allclose(against.grids, found.grids)
    assert all(weight.grad is None for weight in predictor.model.parameters())


def test_frozen_towers_are_explained(predictor: Predictor) -> None:
    expected = relevance(predictor, picture(), "a cat").grids
    torch.manual_seed(0)
    frozen = small_module(image_encoder=VIT).eval()
    frozen.model.load_state_dict(predictor.model.state_dict())
    frozen.model.requires_grad_(False)
    torch.testing.assert_close(relevance(frozen.predictor, picture(), "a cat").grids, expected)
    with torch.no_grad():
        torch.testing.assert_close(relevance(predictor, picture(), "a cat").grids, expected)


def test_words_are_what_the_caption_loses_without_them(predictor: Predictor) -> None:
    caption = "a photo of a red circle and the Blue square."
    found = word_relevance(predictor, picture(), caption)
    assert found.texts == (caption, "red", "circle", "Blue", "square.")
    without = predictor.encode_text([caption, "a photo of a circle and the Blue square."])
    image = predictor.encode_image(picture())
    torch.testing.assert_close(found.similarities[1], (image @ (without[0] - without[1]))[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.grids[0], relevance(predictor, picture(), caption).grids[0])
    assert word_relevance(predictor, picture(), "circle").texts == ("circle",)


def test_gradcam_of_a_class_token_reads_what_its_last_block_reads(predictor: Predictor) -> None:
    """Behind the last block no other token matters, so that all gradients there are zero."""
    found = relevance(predictor, picture(), ["a red circle", "a blue square"], "gradcam")
    assert found.grids.amax(dim=(1, 2)).max() > 0
    view = predictor.model.tower("image").dense_view()
    (inputs,) = predictor.model.inputs("image", next(predictor.pixels(picture())))
    x, _, _ = view.enter(inputs)
    before = view.run(view.blocks[0], x).detach().requires_grad_()
    wanted = predictor.encode_text(["a red circle"])[0]
    pooled = view.pool(view.leave(view.run(view.blocks[1], before)))
    similarity = normalize(predictor.model.head("image")(pooled), dim=-1)[0] @ wanted
    (gradient,) = torch.autograd.grad(similarity, before)
    expected = (before[0, 1:].detach() @ gradient[0, 1:].mean(dim=0)).clamp(min=0).reshape(4, 4)
    torch.testing.assert_close(found.grids[0], expected, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("method", ["attention", "gradcam"])
def test_batches_are_pictures_one_by_one(predictor: Predictor, method: str) -> None:
    view = predictor.model.tower("image").dense_view()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    way = {"attention": rollout, "gradcam": gradcam}[method]

    def score(tokens: Tensor) -> Tensor:
        return view.pool(tokens)[:, 0]

    found = way(view, images, score)
    for place in range(3):
        torch.testing.assert_close(found[place : place + 1], way(view, images[place : place + 1], score), rtol=1e-4, atol=1e-8)


def test_errors(predictor: Predictor, of_resnet: Predictor) -> None:
    assert relevance(of_resnet, picture(), "a cat").grids.shape == (1, 2, 2)
    with pytest.raises(InputError, match="method 'attention' needs a ViT, whose attention is known: use method 'gradcam'"):
        relevance(of_resnet, picture(), "a cat", "attention")
    with pytest.raises(InputError, match="unknown relevance method 'gradcm': did you mean 'gradcam'"):
        relevance(predictor, picture(), "a cat", "gradcm")
    with pytest.raises(InputError, match=r"texts \[' '\] must be words"):
        relevance(predictor, picture(), " ")
    with pytest.raises(InputError, match=r"texts \[\] must be words"):
        relevance(predictor, picture(), [])
    with pytest.raises(InputError, match="relevance reads one picture, got 2"):
        relevance(predictor, [picture(), picture()], "a cat")


def test_views_are_averaged_where_they_belong(predictor: Predictor) -> None:
    """Against pictures that are moved by hand, whose maps are moved back."""
    whole = picture(32, 32)
    total = np.zeros((32, 32))
    for down in (-2, 2):
        for across in (-2, 2):  # half a patch of 8, in two steps
            wide = np.pad(whole.numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
            moved = wide[:, 2 + down : 34 + down, 2 + across : 34 + across]
            heat = np.pad(relevance(predictor, torch.from_numpy(moved.copy()), "a ring").maps()[0].numpy(), 2, mode="edge")
            total += heat[2 - down : 34 - down, 2 - across : 34 - across] / 4
    found, single = relevance(predictor, whole, "a ring", views=4), relevance(predictor, whole, "a ring")
    assert found.grids.shape == (1, 32, 32) and torch.equal(found.maps(), found.grids)
    assert np.abs(found.grids[0].numpy() - total).max() <= 1e-6 * total.max()
    assert torch.equal(found.similarities, single.similarities)
    for views in (0, 2, -4):
        with pytest.raises(InputError, match=f"views {views} must be a square number, such as 1, 4, 9 or 16"):
            relevance(predictor, whole, "a ring", views=views)
