"""NaFlex towers: pictures of several shapes in one batch, as transformers and timm have it, trained and evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small import TEXT, small_trainer
from torch import Tensor
from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel
from weights.families import shaken

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.callbacks import ZeroShotClassification
from lightning_clip.core.patches import EXTRA, fitted_size, pack, picture_of, stack_images, unpack
from lightning_clip.data.sampler import Visit
from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform, training_transform
from lightning_clip.encoders import NaflexImageEncoder, image_encoders
from lightning_clip.encoders.naflex import grouped
from lightning_clip.evaluation.images import Images
from lightning_clip.export.export import export

VISION = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
VISION |= {"num_patches": 16, "patch_size": 8}
SIGLIP2: dict[str, Any] = {"name": "naflex", "config": {"model_type": "siglip2", "vision_config": VISION}, "max_patches": 24}
TIMM: dict[str, Any] = {"name": "naflex", "architecture": "naflexvit_base_patch16_map", "max_patches": 24, "patch_size": 8}
TIMM |= {"embed_dim": 64, "depth": 2, "num_heads": 4, "pos_embed_grid_size": (4, 4)}
TRANSFORM = {"resize": "patches", "patch_size": 8, "max_patches": 24, "interpolation": "bilinear"}
HALF = [0.5, 0.5, 0.5]
SIZES = [(40, 100), (64, 64), (200, 30), (37, 53)]


def pictures() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]


def module(image: dict[str, Any], **settings: Any) -> ClipModule:
    transform = {**TRANSFORM, "mean": HALF, "std": HALF}
    towers = {"image": {"transform": transform}}
    torch.manual_seed(0)
    found = ClipModule(image, TEXT, towers=towers, training={"optimizer": {"lr": 1e-3}, **settings})
    found.configure_model()
    shaken(found.model)
    return found


def packed() -> Tensor:
    transform = evaluation_transform(32, ImageTransformSettings(**TRANSFORM))
    return stack_images([transform(picture) for picture in pictures()])


def test_patches_there_and_back() -> None:
    batch = packed()
    _, places, there = unpack(batch)
    assert batch.dtype == torch.uint8 and batch.shape == (4, 1, 1, int(there.sum(dim=1).max()), 8 * 8 * 3 + EXTRA)
    transform = evaluation_transform(32, ImageTransformSettings(**TRANSFORM))
    for row, picture in enumerate(pictures()):
        height, width = fitted_size(*picture.shape[1:], 8, 24)
        assert there[row].sum() == height * width // 64 <= 24
        assert places[row][there[row]].amax(dim=0).tolist() == [height // 8 - 1, width // 8 - 1]
        assert torch.equal(pack(picture_of(batch[row]), 8), transform(picture))
    wide = pack(torch.zeros(3, 8, 8 * 300, dtype=torch.uint8), 8)  # places beyond one byte
    assert unpack(wide[None, None, None])[1][0, -1].tolist() == [0, 299]


@pytest.mark.parametrize("size", [*SIZES, (480, 640), (1, 2000), (3, 3)])
def test_size_as_the_libraries_have_it(size: tuple[int, int]) -> None:
    from timm.data.naflex_transforms import get_image_size_for_seq
    from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

    for patch, most in ((16, 256), (8, 24), (14, 729)):
        found = fitted_size(*size, patch, most)
        assert found == get_image_size_for_max_num_patches(*size, patch, most)
        if max(size) < 1000:
            assert found == get_image_size_for_seq(size, patch, most)[1]


def test_pixels_as_transformers() -> None:
    processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=24)
    theirs = processor(pictures(), return_tensors="pt")
    patches, _, there = unpack(packed())
    ours = (patches.float() / 255 - 0.5) / 0.5 * there.unsqueeze(2)
    assert torch.equal(there.long(), theirs["pixel_attention_mask"][:, : there.shape[1]].long())
    assert (ours - theirs["pixel_values"][:, : there.shape[1]]).abs().max() < 2.01 / 255


def test_features_as_transformers() -> None:
    ours = module(SIGLIP2)
    batch = packed()
    patches, places, there = unpack(batch)
    shapes = (places * there.unsqueeze(2)).amax(dim=1) + 1
    values = (patches.float() / 255 - 0.5) / 0.5
    padded = torch.zeros(len(values), 24, values.shape[2])
    padded[:, : values.shape[1]] = values * there.unsqueeze(2)
    mask = torch.zeros(len(values), 24, dtype=torch.long)
    mask[:, : there.shape[1]] = there
    model = Siglip2VisionModel(Siglip2VisionConfig(**VISION)).eval()
    model.load_state_dict(ours.model.image_encoder.model.state_dict())
    with torch.no_grad():
        expected = model(padded, mask, shapes).pooler_output
        found = ours.model.eval().image_backbone(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    backbone = ours.predictor.encode_image_with_backbone(pictures())[1]  # from pictures of any shape
    torch.testing.assert_close(backbone, expected, rtol=0, atol=1e-5)


def test_features_as_timm() -> None:
    ours = module(TIMM)
    patches, places, there = unpack(packed())
    options = {key: TIMM[key] for key in ("patch_size", "embed_dim", "depth", "num_heads", "pos_embed_grid_size")}
    model: Any = timm.create_model(TIMM["architecture"], num_classes=0, **options).eval()
    model.load_state_dict(ours.model.image_encoder.model.state_dict())
    values = (patches.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = model({"patches": values, "patch_coord": places, "patch_valid": there})
        found = ours.model.eval().image_backbone(packed())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("image", [SIGLIP2, TIMM], ids=["siglip2", "timm"])
def test_a_picture_alone(image: dict[str, Any]) -> None:
    """Neither its neighbours nor the token budget change a picture's features; plain pixels are the same as patches."""
    ours = module(image)
    ours.model.eval()
    whole = ours.encode_image(pictures())
    alone = torch.cat([ours.encode_image([picture]) for picture in pictures()])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-6)
    ours.model.image_encoder.token_budget = 48
    torch.testing.assert_close(ours.encode_image(pictures()), whole, rtol=0, atol=1e-6)
    tower = ours.model.image_encoder
    pixels = torch.stack([picture_of(row) for row in packed()[[1, 1]]]).float() / 255
    by_patches = ours.model.image_backbone(packed()[[1, 1]])
    torch.testing.assert_close(tower((pixels - 0.5) / 0.5), by_patches, rtol=0, atol=1e-5)


@pytest.mark.parametrize("image", [SIGLIP2, TIMM], ids=["siglip2", "timm"])
@pytest.mark.parametrize("budget", [None, 48])
def test_a_training_step_of_mixed_shapes(image: dict[str, Any], budget: int | None) -> None:
    """Gradients of a batch are those of its pictures encoded one at a time."""
    gradients = []
    for slices in (None, 1):
        ours = module({**image, "token_budget": budget if slices is None else None})
        ours.model.double()  # so that what is left is no rounding
        tokens, mask = ours.tokenizer(["a dog", "two cats", "a red bus", "rain"])
        batch = packed()
        parts = [batch] if slices is None else list(batch.split(1))
        images = torch.cat([ours.model.encode_image(part) for part in parts])
        texts = ours.model.encode_text(tokens, mask)
        loss = torch.nn.functional.cross_entropy(10 * images @ texts.T, torch.arange(4))
        loss.backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in ours.model.parameters() if weight.grad is not None]))
    assert ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item() <= 1e-6


def test_fit_evaluate_and_resume(tmp_path: Path) -> None:
    """Through the Trainer with micro-batches, from a checkpoint, and with examples of pictures."""
    ours = module({**SIGLIP2, "token_budget": 64}, micro_batch_size=4)
    data = ClipDataModule({"name": "synthetic", "size": 16, "image_size": 48}, local_batch_size=8, num_workers=0)
    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.fit(ours, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert isinstance(again.model.image_encoder, NaflexImageEncoder) and again.model.image_encoder.token_budget == 64
    assert torch.equal(again.encode_image(pictures()), ours.eval().encode_image(pictures()))
    callback = ZeroShotClassification({"scenes": {"name": "synthetic", "held_out": True, "size": 16, "image_size": 48}})
    result = callback.evaluate(again, callback.datasets["scenes"])
    assert 0 <= result.metrics["top1"] <= 1 and result.examples[0][0].shape[0] == 3
    noisy = Images(callback.datasets["scenes"].source, again.predictor.transform, "gaussian_noise:3")
    clean = Images(callback.datasets["scenes"].source, again.predictor.transform)
    assert noisy[Visit(0, 0)].image.shape == clean[Visit(0, 0)].image.shape


def test_training_keeps_the_shape() -> None:
    transform = training_transform(32, ImageTransformSettings(**TRANSFORM, crop_scale=(0.5, 0.6)))
    torch.manual_seed(1)
    first = transform(pictures()[0])
    rows, columns = (unpack(first[None, None, None])[1].amax(dim=(0, 1)) + 1).tolist()
    assert columns / rows == pytest.approx(2.5, rel=0.45) and rows * columns <= 24
    torch.manual_seed(1)
    assert torch.equal(transform(pictures()[0]), first)
    picture = pictures()[0]
    assert len({transform(picture).sum().item() for _ in range(4)}) > 1  # another crop each time


def test_groups_keep_to_the_budget() -> None:
    counts = torch.randint(1, 25, (50,)).tolist()
    groups = grouped(counts, 48)
    assert sorted(row for rows in groups for row in rows) == list(range(50))
    assert all(len(rows) * max(counts[row] for row in rows) <= 48 for rows in groups)


def test_plan_counts_it() -> None:
    from lightning_clip.planning.towers import fake_clip, measure_image_tower

    ours = module(SIGLIP2)
    fake = fake_clip(ours)
    assert measure_image_tower(fake, 32).flops.forward > 1e6


@pytest.mark.slow
@pytest.mark.parametrize("image", [SIGLIP2, TIMM], ids=["siglip2", "timm"])
def test_a_graph_of_square_pictures(image: dict[str, Any], tmp_path: Path) -> None:
    """Pixels of `max_patches` patches at most, as a square: the tower that ONNX holds."""
    pytest.importorskip("onnxruntime")
    done = export(module(image), "onnx", tmp_path / "out")
    assert done.image_difference <= 1e-4 and done.text_difference <= 1e-4


class TestMistakes:
    def test_other_towers(self) -> None:
        ours = ClipModule({"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1}, TEXT)
        ours.configure_model()
        with pytest.raises(InputError, match="patches of any shape .* but TimmImageEncoder reads pixels of one size"):
            ours.model.encode_image(packed())

    def test_settings(self) -> None:
        with pytest.raises(InputError, match="naflex needs either an architecture of timm's .* or a config of SigLIP 2's"):
            image_encoders.build({"name": "naflex"})
        with pytest.raises(InputError, match="architecture 'vit_base_patch16_224' is none of timm's that read patches: naf"):
            image_encoders.build({"name": "naflex", "architecture": "vit_base_patch16_224"})
        with pytest.raises(InputError, match="naflex config of 'clip' must be"):
            image_encoders.build({"name": "naflex", "config": {"model_type": "clip"}})
        with pytest.raises(InputError, match="resize 'patches' is not supported with views 2: omit views"):
            ImageTransformSettings(resize="patches", views=2)
        with pytest.raises(InputError, match="transform.patch_size 0 must be"):
            ImageTransformSettings(patch_size=0)
        with pytest.raises(InputError, match="checkpoint_path"):
            image_encoders.build({**TIMM, "checkpoint_path": "x.pth"})
