"""transformers' two-tower models here and there: the same features, tokens and pixels for every family."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from corners import corners
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    Aimv2Config,
    AlignConfig,
    AltCLIPConfig,
    AutoTokenizer,
    BertConfig,
    BlipConfig,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPSegConfig,
    EfficientNetImageProcessor,
    MetaClip2Config,
    Siglip2Config,
    Siglip2ImageProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    Tipsv2Config,
    Tipsv2ImageProcessor,
    VisionTextDualEncoderConfig,
    ViTConfig,
)
from weights.families import CAPTIONS, bert_tokenizer, pictures, transformers_folder

from lightning_clip import ClipModule, InputError
from lightning_clip.data.tokenizers import from_transformers
from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform
from lightning_clip.encoders import ClipTextTransformer, TimmImageEncoder
from lightning_clip.weights.transformers_inputs import read_transform, write_processor

VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 112,
    "image_size": 32,
    "patch_size": 8,
}
CLIP_TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
BERT_TEXT = {**CLIP_TEXT, "vocab_size": 45, "max_position_embeddings": 40, "pad_token_id": 0}
ENDS = {"bos_token_id": 49406, "eos_token_id": 49407}
XLM = {**BERT_TEXT, "project_dim": 24, "max_position_embeddings": 40}


def config(kind: str) -> tuple[Any, str, Any]:
    """Configuration, tokenizer and image processor of a small model."""
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    square = {"size": {"height": 32, "width": 32}}
    clip = CLIPImageProcessor(**crop)
    if kind == "clip":
        return CLIPConfig(text_config={**CLIP_TEXT, **ENDS}, vision_config=VISION, projection_dim=48), "clip", clip
    if kind == "clip_legacy":  # the ids of OpenAI's repositories, where the end of a text is the largest id
        texts = {**CLIP_TEXT, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu"}
        return CLIPConfig(text_config=texts, vision_config={**VISION, "hidden_act": "gelu"}, projection_dim=48), "clip", clip
    if kind == "clip_odd":  # what the native towers cannot hold
        texts = {**CLIP_TEXT, **ENDS, "layer_norm_eps": 1e-6}
        return CLIPConfig(text_config=texts, vision_config={**VISION, "layer_norm_eps": 1e-6}, projection_dim=48), "clip", clip
    if kind == "metaclip_2":
        texts = {**CLIP_TEXT, "vocab_size": 45, "eos_token_id": 3, "max_position_embeddings": 32}
        return MetaClip2Config(text_config=texts, vision_config=VISION, projection_dim=48), "bert", clip
    if kind == "siglip":
        texts = {**CLIP_TEXT, "vocab_size": 45, "max_position_embeddings": 16, "projection_size": 64, "pad_token_id": 0}
        return SiglipConfig(text_config=texts, vision_config=VISION), "bert", SiglipImageProcessor(**square)
    if kind == "clipseg":
        return CLIPSegConfig(text_config={**CLIP_TEXT, **ENDS}, vision_config=VISION, projection_dim=48), "clip", clip
    if kind == "aimv2":
        texts = {**CLIP_TEXT, "vocab_size": 49408, "eos_token_id": 49407, "max_position_embeddings": 77}
        return Aimv2Config(text_config=texts, vision_config=VISION, projection_dim=48), "clip", clip
    if kind == "tipsv2":
        texts = {**CLIP_TEXT, "hidden_size": 64, "vocab_size": 48, "max_position_embeddings": 40, "pad_token_id": 0}
        return Tipsv2Config(text_config=texts, vision_config=VISION), "bert", Tipsv2ImageProcessor(**square)
    if kind == "align":
        small = {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320}
        return (
            AlignConfig(text_config=BERT_TEXT, vision_config=small, projection_dim=320),
            "bert",
            ALIGN,
        )
    if kind == "chinese_clip":
        processor = ChineseCLIPImageProcessor(**square, do_center_crop=False)
        return ChineseCLIPConfig(text_config=BERT_TEXT, vision_config=VISION, projection_dim=48), "bert", processor
    if kind == "altclip":
        return AltCLIPConfig(text_config=XLM, vision_config=VISION, projection_dim=48), "bert", clip
    texts, images = BertConfig(**BERT_TEXT), ViTConfig(**VISION)
    return VisionTextDualEncoderConfig.from_vision_text_configs(images, texts, projection_dim=48), "bert", clip


SQUARE = {"height": 32, "width": 32}
LARGER = {"size": {"height": 41, "width": 41}, "crop_size": SQUARE, "do_center_crop": True}
SHIFTED = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False}
# As transformers' script that converts ALIGN writes it: pixels of -1 to 1.
ALIGN = EfficientNetImageProcessor(**LARGER, **SHIFTED, do_normalize=False, resample=2)
PROCESSORS = {
    "align": ALIGN,
    "shifted and normalised": EfficientNetImageProcessor(
        **LARGER, **SHIFTED, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7], resample=3
    ),
    "both sides, then a crop": CLIPImageProcessor(**LARGER),
    "the shorter side, then a crop": CLIPImageProcessor(size={"shortest_edge": 37}, crop_size=SQUARE),
    "the shorter side of the crop": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
    "both sides": SiglipImageProcessor(size=SQUARE),
}

KINDS = ["clip", "clip_legacy", "clip_odd", "metaclip_2", "siglip", "chinese_clip", "altclip", "dual", "clipseg"]
NEWER = ["aimv2", "tipsv2", "align"]


def features(model: Any, folder: Path, module: ClipModule) -> tuple[Tensor, Tensor]:
    """By transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pixels = (pictures(module.image_size).float() / 255 - module.model.mean) / module.model.std
    siglip = model.config.model_type == "siglip"
    padding = {"padding": "max_length", "max_length": 16, "return_attention_mask": False} if siglip else {"padding": True}
    ids = tokenizer(CAPTIONS, truncation=True, return_tensors="pt", **padding)
    with torch.no_grad():
        image, text = model.get_image_features(pixel_values=pixels), model.get_text_features(**ids)
    image, text = (value if isinstance(value, Tensor) else value.pooler_output for value in (image, text))
    return normalize(image, dim=-1), normalize(text, dim=-1)


@pytest.mark.parametrize("kind", corners(KINDS, *(set(KINDS) - {"clip_legacy", "clip_odd"})))
def test_same_features(kind: str, tmp_path: Path) -> None:
    model = transformers_folder(tmp_path, *config(kind))
    module = ClipModule.from_pretrained(f"hf:{tmp_path}")
    image, text = features(model, tmp_path, module)
    torch.testing.assert_close(module.encode_image(pictures()), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
    with torch.no_grad():  # ViT: the class token after the final LayerNorm; what linear probes read (A.3)
        pixels = (pictures().float() / 255 - module.model.mean) / module.model.std
        before_projection = model.vision_model(pixels).pooler_output
    backbone = module.predictor.encode_image_with_backbone(pictures())[1]
    torch.testing.assert_close(backbone, before_projection, rtol=0, atol=1e-4)
    assert module.model.logit_scale.item() == model.logit_scale.item()
    assert module.to_mapping()["objective"]["loss"]["name"] == ("sigmoid" if kind == "siglip" else "softmax")
    assert len(module.model.text_encoder.blocks()) == len(module.model.image_encoder.blocks()) == 2
    assert (type(module.model.text_encoder) is ClipTextTransformer) == (kind in ("clip", "clip_legacy", "clipseg"))
    assert (type(module.model.image_encoder) is TimmImageEncoder) == (kind not in ("clip_odd", "siglip", "dual"))
    tokens, mask = module.tokenizer(CAPTIONS)
    assert module.model.text_encoder.forward_tokens(tokens, mask).ndim == 3
    assert module.model.image_encoder.forward_tokens(torch.zeros(1, 3, 32, 32)).shape == (1, 16 if kind == "siglip" else 17, 64)
    again = ClipModule(**module.to_mapping())
    again.configure_model()
    again.model.load_state_dict(module.model.state_dict())
    assert torch.equal(again.encode_text(CAPTIONS), module.encode_text(CAPTIONS))


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_of_processors(name: str, tmp_path: Path) -> None:
    """What a processor gives the tower, of pictures of several shapes, and what the one that is written back gives it."""
    processor = PROCESSORS[name]
    processor.save_pretrained(tmp_path)
    settings = ImageTransformSettings.of(read_transform(str(tmp_path), name))
    ours, written = evaluation_transform(32, settings), write_processor(settings, 32)
    mean, std = (torch.tensor(getattr(settings, key)).view(3, 1, 1) for key in ("mean", "std"))
    for height, width in ((60, 47), (33, 90), (32, 32), (20, 25)):
        picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(width))
        found = (ours(picture).float() / 255 - mean) / std
        for other in (processor, written):
            expected = other(picture, return_tensors="pt")["pixel_values"][0]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", NEWER)
def test_same_features_of_newer_families(kind: str, tmp_path: Path) -> None:
    model = transformers_folder(tmp_path, *config(kind))
    module = ClipModule.from_pretrained(f"hf:{tmp_path}")
    image, text = features(model, tmp_path, module)
    torch.testing.assert_close(module.encode_image(pictures()), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
    scale = model.logit_scale if kind == "aimv2" else -model.temperature.log()  # the latter divide by a temperature
    assert module.model.logit_scale.item() == pytest.approx(scale.item(), abs=1e-6)
    again = ClipModule(**module.to_mapping())
    again.configure_model()
    again.model.load_state_dict(module.model.state_dict())
    assert torch.equal(again.encode_image(pictures()), module.encode_image(pictures()))


def test_clipseg_without_its_decoder(tmp_path: Path) -> None:
    """As it is published: CLIP's half under a prefix, beside a decoder of masks."""
    from transformers import CLIPSegForImageSegmentation

    whole = CLIPSegForImageSegmentation(config("clipseg")[0]).eval()
    transformers_folder(tmp_path, *config("clipseg"))
    whole.save_pretrained(tmp_path)
    module = ClipModule.from_pretrained(tmp_path)
    image, text = features(whole.clip, tmp_path, module)
    torch.testing.assert_close(module.encode_image(pictures()), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)


def test_siglip2_of_variable_size(tmp_path: Path) -> None:
    """Pictures of several shapes, with the processor's patches; texts padded to the whole context, as SigLIP's."""
    texts = {**CLIP_TEXT, "vocab_size": 48, "max_position_embeddings": 16, "projection_size": 64, "pad_token_id": 0}
    vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
    processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=24)
    model = transformers_folder(tmp_path, Siglip2Config(text_config=texts, vision_config=vision), "bert", processor)
    module = ClipModule.from_pretrained(tmp_path)
    seen = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((40, 100), (64, 64), (90, 30))]
    with torch.no_grad():
        image = model.get_image_features(**processor(seen, return_tensors="pt"))
        image = image if isinstance(image, Tensor) else image.pooler_output
    found = module.encode_image(seen)  # from uint8 pixels, which transformers does not round to
    assert torch.nn.functional.cosine_similarity(found, image).min() > 0.999
    padded = {"truncation": True, "padding": "max_length", "max_length": 16, "return_tensors": "pt"}
    ids = AutoTokenizer.from_pretrained(tmp_path)(CAPTIONS, **padded)
    with torch.no_grad():
        text = model.text_model(ids["input_ids"]).pooler_output
    torch.testing.assert_close(module.encode_text(CAPTIONS), normalize(text, dim=-1), rtol=0, atol=1e-5)
    assert module.transform_settings.max_patches == 24 and module.model.image_encoder.patch_size == 8
    assert ClipModule.from_pretrained(tmp_path, image_size=48).transform_settings.max_patches == 36


def test_long_positions(tmp_path: Path) -> None:
    """248 positions, as LongCLIP has them: from transformers as they are, and a shorter model grown to them."""
    long, tokenizer, processor = config("clip")
    long.text_config.max_position_embeddings = 248
    model = transformers_folder(tmp_path, long, tokenizer, processor)
    module = ClipModule.from_pretrained(tmp_path, context_length=248)
    assert module.tokenizer.context_length == 248
    ids = module.tokenizer(["a dog on the beach " * 40])[0]
    with torch.no_grad():
        expected = model.get_text_features(ids)
        expected = expected if isinstance(expected, Tensor) else expected.pooler_output
    assert ids.shape[1] > 77
    torch.testing.assert_close(module.encode_text(["a dog on the beach " * 40]), normalize(expected, dim=-1), rtol=0, atol=1e-5)


def padded_left(folder: Path) -> Any:
    """The tokenizer of a folder, which pads on the left from now on, as Gemma's does by default."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.padding_side == "left"
    return tokenizer


def test_padding_on_the_left(tmp_path: Path) -> None:
    """SigLIP attends to its padding: on which side it is belongs to the weights."""
    model = transformers_folder(tmp_path, *config("siglip"))
    right = ClipModule.from_pretrained(f"hf:{tmp_path}").encode_text(CAPTIONS)
    tokenizer = padded_left(tmp_path)
    module = ClipModule.from_pretrained(f"hf:{tmp_path}")
    ids = tokenizer(CAPTIONS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = model.text_model(ids)
    expected = normalize(theirs.pooler_output, dim=-1)
    assert (expected - right).abs().max() > 0.01  # the sides differ
    torch.testing.assert_close(module.encode_text(CAPTIONS), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(ids), expected, rtol=0, atol=1e-5)  # ids as that tokenizer pads them
    torch.testing.assert_close(module.model.encode_text(ids), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS[:1]), expected[:1], rtol=0, atol=1e-5)  # whatever the batch
    tokens, mask = module.tokenizer(CAPTIONS)
    hidden = module.model.text_encoder.forward_tokens(tokens, mask)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        torch.testing.assert_close(hidden[row, :length], theirs.last_hidden_state[row, 16 - length :], rtol=0, atol=1e-5)
    again = ClipModule(**module.to_mapping())
    again.configure_model()
    again.model.load_state_dict(module.model.state_dict())
    assert again.tokenizer.padding_side == "left" and torch.equal(again.encode_text(CAPTIONS), module.encode_text(CAPTIONS))


@pytest.mark.parametrize("kind", corners(["clip_odd", "chinese_clip", "altclip", "dual"], "altclip"))
def test_padding_on_the_left_that_is_masked(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each text has the features that transformers gives it by itself."""
    model = transformers_folder(tmp_path, *config(kind))
    tokenizer = padded_left(tmp_path)
    module = ClipModule.from_pretrained(f"hf:{tmp_path}")
    assert "pads on the left" in caplog.text
    for caption, own in zip(CAPTIONS, module.encode_text(CAPTIONS), strict=True):
        with torch.no_grad():
            found = model.get_text_features(**tokenizer([caption], truncation=True, return_tensors="pt"))
        expected = normalize(found if isinstance(found, Tensor) else found.pooler_output, dim=-1)[0]
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)


def test_padding_that_the_json_does_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded ids are compared, too."""
    transformers_folder(tmp_path, *config("siglip"))
    source = AutoTokenizer.from_pretrained(tmp_path)
    assert from_transformers(source, "x", 16).padding_side == "right"
    encode = type(source).__call__

    def inside_out(self: Any, texts: Any, **options: Any) -> Any:
        found = encode(self, texts, **options)
        if options.get("padding"):
            found["input_ids"] = [row[::-1] for row in found["input_ids"]]
        return found

    monkeypatch.setattr(type(source), "__call__", inside_out)
    with pytest.raises(InputError, match="Hugging Face tokenizer 'x' does more than its JSON"):
        from_transformers(source, "x", 16)


@pytest.mark.parametrize("kind", ["clip", "siglip", "chinese_clip"])
def test_same_pixels(kind: str, tmp_path: Path) -> None:
    _, _, processor = config(kind)
    transformers_folder(tmp_path, *config(kind))
    module = ClipModule.from_pretrained(tmp_path)
    for size in ((53, 71), (80, 40), (39, 47), (64, 43)):
        noise = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        picture = Image.fromarray(noise.permute(1, 2, 0).numpy())
        expected = processor(picture, return_tensors="pt")["pixel_values"]
        ours = module.image_transform(train=False)(noise)
        difference = (ours.float() / 255 - module.model.mean) / module.model.std - expected
        assert (difference * module.model.std).abs().max() < 1.01 / 255


@pytest.mark.parametrize("kind", corners(["clip", "clip_odd", "siglip", "chinese_clip"], "siglip"))
def test_other_sizes(kind: str, tmp_path: Path) -> None:
    transformers_folder(tmp_path, *config(kind))
    module = ClipModule.from_pretrained(tmp_path, image_size=48, context_length=12)
    assert module.image_size == 48 and module.encode_image(pictures(48)).shape[0] == 3
    assert module.tokenizer.context_length == 12 and module.tokenizer(["dog " * 30])[0].shape == (1, 12)
    assert module.encode_text(["dog " * 30]).isfinite().all()
    if kind != "siglip":  # which attends to its padding, so that another length is another feature
        short = ["a dog"]
        torch.testing.assert_close(module.encode_text(short), ClipModule.from_pretrained(tmp_path).encode_text(short))
    if kind == "chinese_clip":
        with pytest.raises(InputError, match="context_length 41 exceeds what .* takes, 40"):
            ClipModule.from_pretrained(tmp_path, context_length=41)


class TestMistakes:
    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            InputError, match="hf:openai/clip-vit-base-patch32 cannot be loaded .*Without network give a folder"
        ):
            ClipModule(pretrained="hf:openai/clip-vit-base-patch32")

    def test_another_family(self, tmp_path: Path) -> None:
        BertConfig(**BERT_TEXT).save_pretrained(tmp_path)
        with pytest.raises(
            InputError, match="is a 'bert' model, and only these families of transformers map exactly: .*chinese_clip"
        ):
            ClipModule(pretrained=str(tmp_path))

    def test_siblings(self, tmp_path: Path) -> None:
        BlipConfig().save_pretrained(tmp_path)
        with pytest.raises(InputError, match="is a 'blip' model, which encodes image and text together .* open_clip:coca"):
            ClipModule(pretrained=str(tmp_path))

    def test_incomplete_weights(self, tmp_path: Path) -> None:
        transformers_folder(tmp_path, *config("chinese_clip"))
        weights = load_file(tmp_path / "model.safetensors")
        del weights["visual_projection.weight"]
        save_file({**weights, "odd": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            InputError, match="do not fit its config.json: 1 missing: visual_projection.weight; 1 unexpected: odd"
        ):
            ClipModule(pretrained=str(tmp_path))
        content = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[:1000])
        with pytest.raises(InputError, match="cannot be loaded .SafetensorError"):
            ClipModule(pretrained=str(tmp_path))

    def test_another_architecture(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Listed in one line, without transformers' table and its advice."""
        transformers_folder(tmp_path, *config("clip"))
        settings = json.loads((tmp_path / "config.json").read_text())
        settings["vision_config"]["intermediate_size"] = 56
        (tmp_path / "config.json").write_text(json.dumps(settings))
        expected = (
            r"config.json' says vision_config.intermediate_size 56, .*They do not fit: 6 of another shape: "
            r"vision_model.encoder.layers.\*.mlp.fc1.bias \(2\)"
        )
        with pytest.raises(InputError, match=expected):
            ClipModule(pretrained=str(tmp_path))
        assert "MISMATCH" not in "".join(capfd.readouterr())

    def test_python_objects(self, tmp_path: Path) -> None:
        transformers_folder(tmp_path, *config("chinese_clip"))
        weights = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        wrapped = {key: torch.nn.Parameter(value) for key, value in weights.items()}
        torch.save({**wrapped, "odd": argparse.Namespace()}, tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match="the weights of hf:.* hold Python objects.* set allow_pickle=True"):
            ClipModule(pretrained=str(tmp_path))
        asked: dict[str, Any] = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("transformers.AutoModel.from_pretrained", lambda *_, **options: asked.update(options))
            with pytest.raises(InputError):
                ClipModule(pretrained={"source": f"hf:{tmp_path}", "allow_pickle": True})
        assert asked["weights_only"] is False

    def test_names_of_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Are not asked of the hub, and may begin at home."""
        with pytest.raises(InputError, match="folder '.*nothing' does not exist"):
            ClipModule(pretrained=f"hf:{tmp_path}/nothing")
        transformers_folder(tmp_path / "model", *config("chinese_clip"))
        monkeypatch.setenv("HOME", str(tmp_path))
        assert ClipModule(pretrained="hf:~/model").embed_dim == 48

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"do_resize": False}, "has do_resize off"),
            ({"do_rescale": False}, "has do_rescale off"),
            ({"size": {"longest_edge": 32}}, "only squares are supported"),
            ({"crop_size": {"height": 32, "width": 48}}, "only squares are supported"),
            (
                {"size": {"shortest_edge": 24}},
                "resizes to .*24.* and crops to .*32.*: only squares .* of no less$",
            ),
            ({"rescale_factor": -1.0}, "rescales pixels by -1.0: only factors above 0"),
            (
                {"include_top": True, "image_processor_type": "EfficientNetImageProcessor"},
                "normalises twice .include_top.: only",
            ),
            ({"size": {"height": 32, "width": 48}, "do_center_crop": False}, "only squares are supported"),
        ],
    )
    def test_processors_that_do_something_else(self, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
        transformers_folder(tmp_path, *config("metaclip_2"))
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        with pytest.raises(InputError, match=message):
            ClipModule(pretrained=str(tmp_path))

    def test_tokenizers(self, tmp_path: Path) -> None:
        transformers_folder(tmp_path, *config("chinese_clip"))
        bert_tokenizer(tmp_path / "same")
        module = ClipModule(pretrained=str(tmp_path), tokenizer=f"hf:{tmp_path / 'same'}")
        assert module.tokenizer.vocab_size == 45
        with pytest.raises(InputError, match="the tokenizer has 49408 ids but the text tower of .* was trained with 45"):
            ClipModule(pretrained=str(tmp_path), tokenizer="clip")
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (tmp_path / name).unlink(missing_ok=True)
        with pytest.raises(
            InputError, match="the tokenizer of .* cannot be read .*5 ids.*: pass one that belongs to these weights"
        ):
            ClipModule(pretrained=str(tmp_path))
        assert ClipModule(pretrained=str(tmp_path), tokenizer=f"hf:{tmp_path / 'same'}").tokenizer.vocab_size == 45

    def test_a_class_that_is_not_installed(self, tmp_path: Path) -> None:
        """SigLIP's class needs a package of its own: the common form beside it does."""
        transformers_folder(tmp_path, *config("siglip"))
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "SiglipTokenizer"}))
        module = ClipModule(pretrained=str(tmp_path))
        ids = bert_tokenizer(tmp_path / "same")
        assert module.tokenizer.encode(CAPTIONS) == ids(CAPTIONS, truncation=True, max_length=16)["input_ids"]

    @pytest.mark.parametrize("same", [True, False])
    def test_two_forms_of_a_tokenizer(self, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slow class and a tokenizer.json beside it: they must agree, or features would silently be others."""
        transformers_folder(tmp_path, *config("siglip"))
        ids = AutoTokenizer.from_pretrained(tmp_path)

        class Slow:
            is_fast = False

            def __call__(self, texts: list[str]) -> Any:
                return ids(texts if same else [text.lower().replace("!", "") for text in texts])

        monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
        if same:
            assert ClipModule(pretrained=str(tmp_path)).tokenizer.vocab_size == 45
            return
        with pytest.raises(InputError, match="cannot be read .ValueError: its tokenizer.json gives other ids than Slow"):
            ClipModule(pretrained=str(tmp_path))

    def test_sentencepiece_alone(self, tmp_path: Path) -> None:
        transformers_folder(tmp_path, *config("siglip"))
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "SiglipTokenizer"}))
        for name in ("tokenizer.json", "vocab.txt"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "spiece.model").write_bytes(b"")
        with pytest.raises(InputError, match="cannot be read .*SentencePiece's form alone is not read: put its tokenizer.json"):
            ClipModule(pretrained=str(tmp_path))

    def test_naflex_without_its_processor(self, tmp_path: Path) -> None:
        texts = {**CLIP_TEXT, "vocab_size": 45, "max_position_embeddings": 16, "projection_size": 64, "pad_token_id": 0}
        vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
        square = SiglipImageProcessor(size={"height": 32, "width": 32})
        transformers_folder(tmp_path, Siglip2Config(text_config=texts, vision_config=vision), "bert", square)
        with pytest.raises(InputError, match="has no head, or a processor that makes no patches: only SigLIP 2's"):
            ClipModule(pretrained=str(tmp_path))

    def test_sizes_and_processors(self, tmp_path: Path) -> None:
        transformers_folder(tmp_path, *config("metaclip_2"))
        with pytest.raises(InputError, match="image_size 50 is not a multiple of the tower's patch size 8"):
            ClipModule.from_pretrained(tmp_path, image_size=50)
        settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
        settings["size"] = {"shortest_edge": 40}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        module = ClipModule(pretrained=str(tmp_path))
        assert module.transform_settings.resize_to == 40 and module.image_size == 32
        assert ClipModule(**module.to_mapping()).transform_settings == module.transform_settings
        with pytest.raises(InputError, match="resize_to 40 is below the tower's image_size 64: give at least so many pixels"):
            ClipModule.from_pretrained(tmp_path, image_size=64).image_transform(train=False)

    def test_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        transformers_folder(tmp_path / "weights", *config("metaclip_2"))
        monkeypatch.setenv("HOME", str(tmp_path))
        module = ClipModule.from_pretrained("hf:~/weights", tokenizer="hf:~/weights")
        assert torch.equal(module.encode_text(["a"]), ClipModule.from_pretrained(tmp_path / "weights").encode_text(["a"]))
