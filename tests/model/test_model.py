"""ClipModel: shapes and modes, and the same features as open_clip with the same weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, small_module
from torch import Tensor

from lightning_clip import ClipModel, InputError
from lightning_clip.model.presets import PRESETS, preset


@pytest.fixture
def model() -> ClipModel:
    torch.manual_seed(0)
    return ClipModel(IMAGE, TEXT, embed_dim=16)


class TestForward:
    def test_both_one_or_the_other(self, model: ClipModel) -> None:
        images, tokens = torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.ones(3, 8, dtype=torch.long)
        both, image, text = model(images, tokens), model(image=images), model(tokens=tokens)
        assert both.image_features.shape == both.text_features.shape == (3, 16)
        assert image.text_features is None and text.image_features is None
        torch.testing.assert_close(both.image_features, image.image_features)
        torch.testing.assert_close(both.text_features.norm(dim=-1), torch.ones(3))
        assert both.scale.item() == pytest.approx(1 / 0.07) and both.bias is None

    def test_scale_has_shape_one(self, model: ClipModel) -> None:
        assert model.logit_scale.shape == (1,) and model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))

    def test_uint8_is_normalised_and_float_is_not(self, model: ClipModel) -> None:
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        normalised = (images.float() / 255 - model.mean) / model.std
        torch.testing.assert_close(model.encode_image(images), model.encode_image(normalised))

    @pytest.mark.parametrize("built", ["model", "module", "several towers"])
    def test_clips_mean_and_std_exactly(self, model: ClipModel, built: str) -> None:
        """Of openai/CLIP, not ImageNet's 0.485, 0.456, 0.406: to the last digit, as transformers and open_clip have them."""
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
        from transformers import CLIPImageProcessor

        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        found: Any = model
        if built != "model":
            towers = {"towers": {"second": {"share": "image"}}} if built == "several towers" else {}
            module = small_module(**towers)
            module.configure_model()
            found = module.model
        assert torch.equal(found.mean.flatten(), torch.tensor(mean)) and torch.equal(found.std.flatten(), torch.tensor(std))
        processor = CLIPImageProcessor()
        assert mean == list(OPENAI_DATASET_MEAN) == list(processor.image_mean)
        assert std == list(OPENAI_DATASET_STD) == list(processor.image_std)

    def test_pixels_are_normalised_as_transformers_does(self, model: ClipModel) -> None:
        from transformers import CLIPImageProcessor

        pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        processor = CLIPImageProcessor(do_resize=False, do_center_crop=False)
        expected = processor(list(pixels.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
        seen: list[Tensor] = []
        model.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model.encode_image(pixels)
        torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)

    def test_padding_changes_nothing(self, model: ClipModel) -> None:
        tokens = torch.tensor([[5, 6, 7]])
        padded = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]])
        mask = padded > 0
        torch.testing.assert_close(model.encode_text(tokens), model.encode_text(padded, mask))

    def test_too_many_tokens(self, model: ClipModel) -> None:
        with pytest.raises(InputError, match="tokens of length 78 exceed the text tower's context_length 77"):
            model.encode_text(torch.ones(1, 78, dtype=torch.long))


class TestProjection:
    def test_each_tower_its_own(self) -> None:
        model = ClipModel(IMAGE, TEXT, embed_dim=32, projection={"image": "none", "text": {"name": "mlp", "hidden_dim": 8}})
        assert not list(model.image_projection.parameters())
        assert [tuple(p.shape) for p in model.text_projection.parameters()] == [(8, 32), (8,), (32, 8), (32,)]

    def test_widths_that_do_not_meet(self) -> None:
        with pytest.raises(
            InputError, match="embed_dim 16 does not match the encoder's output_dim 32.*use projection 'linear'"
        ):
            ClipModel(IMAGE, TEXT, embed_dim=16, projection="none")

    def test_half_a_mapping(self) -> None:
        with pytest.raises(InputError, match="must have 'name', or both 'image' and 'text'"):
            ClipModel(IMAGE, TEXT, projection={"image": "mlp"})


def _copy(target: ClipModel, peer: dict[str, Tensor]) -> None:
    """open_clip's weights under our names."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    visual = {key: value for key, value in peer.items() if key.startswith("visual.")}
    own = checkpoint_filter_fn(dict(visual), target.image_encoder.model)
    target.image_encoder.model.load_state_dict({k: v for k, v in own.items() if not k.startswith("head.")})
    text = {
        "token_embedding.weight": peer["token_embedding.weight"],
        "positional_embedding": peer["positional_embedding"],
        "final_norm.weight": peer["ln_final.weight"],
        "final_norm.bias": peer["ln_final.bias"],
    }
    names = {"ln_1": "norm1", "ln_2": "norm2", "attn.in_proj_": "attn.qkv.", "attn.out_proj": "attn.proj"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "resblocks.": ""}
    for key, value in peer.items():
        if key.startswith("transformer."):
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            text[key] = value
    target.text_encoder.load_state_dict(text)
    with torch.no_grad():
        target.image_projection.weight.copy_(peer["visual.proj"].T)
        target.text_projection.weight.copy_(peer["text_projection"].T)
        target.logit_scale.fill_(peer["logit_scale"].item())


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_features_equal_open_clip(quick_gelu: bool) -> None:
    """The same weights in both give the same features and the same loss."""
    from open_clip import ClipLoss
    from open_clip.model import CLIP

    from lightning_clip import SoftmaxContrastiveLoss

    torch.manual_seed(0)
    peer = CLIP(
        embed_dim=48,
        vision_cfg={"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3},
        quick_gelu=quick_gelu,
    ).eval()
    for parameter in peer.parameters():  # biases and gains start at 0 and 1, which would hide a mix-up
        parameter.data += 0.02 * torch.randn_like(parameter)
    name = "vit_base_patch16_clip_quickgelu_224" if quick_gelu else "vit_base_patch16_clip_224"
    image = {"name": name, "image_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4}
    text = {"name": "clip_text", "width": 32, "layers": 3, "heads": 4, "quick_gelu": quick_gelu}
    ours = ClipModel(image, text, embed_dim=48).eval()
    _copy(ours, peer.state_dict())
    images = torch.randn(5, 3, 32, 32)
    tokens = torch.randint(1, 49000, (5, 77))
    ends = torch.tensor([3, 8, 20, 76, 12])
    mask = torch.arange(77) <= ends.unsqueeze(1)
    tokens = tokens * mask
    tokens[torch.arange(5), ends] = 49407
    with torch.no_grad():
        theirs_image, theirs_text, theirs_scale = peer(images, tokens)
        output = ours(images, tokens, mask)
    torch.testing.assert_close(output.image_features, theirs_image, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.text_features, theirs_text, rtol=0, atol=1e-5)
    loss = SoftmaxContrastiveLoss()(output.image_features, output.text_features, output.scale)
    torch.testing.assert_close(loss, ClipLoss()(theirs_image, theirs_text, theirs_scale), rtol=1e-5, atol=1e-5)


class TestPresets:
    @pytest.mark.parametrize(("name", "open_clip_name"), [("ViT-B/32", "ViT-B-32"), ("RN50", "RN50"), ("ViT-L/14", "ViT-L-14")])
    def test_sizes_equal_open_clip(self, name: str, open_clip_name: str) -> None:
        from open_clip import create_model

        with torch.device("meta"):
            ours = ClipModel(**preset(name))
        with torch.device("meta"):
            theirs = create_model(open_clip_name, device="meta")
        count = sum(parameter.numel() for parameter in ours.parameters())
        expected = sum(parameter.numel() for parameter in theirs.parameters())
        # The ResNet's last linear layer is our projection, which has no bias.
        assert abs(count - expected) <= (1024 if name == "RN50" else 0)

    @pytest.mark.parametrize("name", PRESETS)
    def test_each_builds(self, name: str) -> None:
        with torch.device("meta"):
            model = ClipModel(**preset(name))
        size = {"RN50x4": 288, "RN50x16": 384, "RN50x64": 448, "ViT-L/14@336": 336}.get(name, 224)
        assert model.image_encoder.image_size == size
        assert model.text_encoder.context_length == 77

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match="unknown preset 'ViT-B-32': did you mean 'ViT-B/32'"):
            preset("ViT-B-32")
