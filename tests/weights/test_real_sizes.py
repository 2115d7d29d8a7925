"""Published sizes with random weights, in and out: minutes, so only with `-m slow`."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer
from transformers import (
    AlignConfig,
    ChineseCLIPConfig,
    CLIPConfig,
    CLIPImageProcessor,
    EfficientNetImageProcessor,
    SiglipConfig,
    SiglipImageProcessor,
)
from weights.families import CAPTIONS, bert_tokenizer, pictures, transformers_folder
from weights.test_from_open_clip import features
from weights.test_from_transformers import features as transformers_features

from lightning_clip import ClipModule
from lightning_clip.checkpoints.fit import check_fit
from lightning_clip.encoders import ClipTextTransformer, OpenClipTextEncoder, TimmImageEncoder
from lightning_clip.export.export import export
from lightning_clip.model.clip import ClipModel
from lightning_clip.weights.open_clip_images import read_image
from lightning_clip.weights.open_clip_texts import read_text

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "RN101", "convnext_base", "coca_ViT-B-32", "ViT-B-16-SigLIP"])
def test_open_clip(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = open_clip.create_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    if "SigLIP" in name:  # its own vocabulary is on the hub
        bert_tokenizer(tmp_path / "bert")
        made = HFTokenizer(str(tmp_path / "bert"), context_length=64, clean="canonicalize")
        monkeypatch.setattr(open_clip, "get_tokenizer", lambda *_, **__: made)
    module = ClipModule.from_pretrained(f"open_clip:{name}/{tmp_path / 'weights.pt'}")
    image, text = features(model, open_clip.get_tokenizer(name), module)
    torch.testing.assert_close(module.encode_image(pictures(module.image_size)), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
    assert type(module.model.image_encoder) is TimmImageEncoder or name == "coca_ViT-B-32"
    wrapped = name in ("coca_ViT-B-32", "ViT-B-16-SigLIP")
    assert type(module.model.text_encoder) is (OpenClipTextEncoder if wrapped else ClipTextTransformer)
    monkeypatch.undo()
    done = export(module, "open_clip", tmp_path / "out")
    print(f"{name}: out and back, images {done.image_difference:.1e}, texts {done.text_difference:.1e}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(6))
def test_every_architecture_of_open_clip(part: int) -> None:
    """Each maps, name by name and shape by shape; Hugging Face texts, whose settings are on the hub, are replaced."""
    kinds: Counter[tuple[str, str]] = Counter()
    for name in open_clip.list_models()[part::6]:
        config: Any = deepcopy(open_clip.get_model_config(name))
        if config["text_cfg"].get("hf_model_name"):
            config["text_cfg"] = {"width": 64, "heads": 1, "layers": 1}
        custom = config.pop("custom_text", False)
        cls = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
        with torch.device("meta"):
            model = cls(**config)
            image = read_image(model.visual, config, None, name)
            text, _ = read_text(model, config, {"name": "clip", "context_length": 77}, None)
            heads = {"image": image.head, "text": text.head}
            own = ClipModel(image.spec, text.spec, embed_dim=config["embed_dim"], projection=heads)
        wanted = {key: value for key, value in own.state_dict().items() if key not in ("mean", "std", "logit_scale")}
        check_fit(name, wanted, {**image.weights, **text.weights})
        kinds[type(own.image_encoder).__name__, type(own.text_encoder).__name__] += 1
    print(dict(kinds))


@pytest.mark.parametrize("family", ["clip", "siglip", "chinese_clip"])
def test_transformers(family: str, tmp_path: Path) -> None:
    square = {"height": 224, "width": 224}
    processor: Any = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=square)
    config: Any = CLIPConfig(text_config={"eos_token_id": 49407}) if family == "clip" else ChineseCLIPConfig()
    if family == "siglip":
        config, processor = SiglipConfig(text_config={"max_position_embeddings": 16}), SiglipImageProcessor(size=square)
    if family != "clip":  # a vocabulary of the size of the test's
        config.text_config.vocab_size = 45
    model = transformers_folder(tmp_path / "in", config, "clip" if family == "clip" else "bert", processor)
    module = ClipModule.from_pretrained(tmp_path / "in")
    image, text = transformers_features(model, tmp_path / "in", module)
    torch.testing.assert_close(module.encode_image(pictures(224)), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
    done = export(module, "huggingface", tmp_path / "out")
    print(f"{family}: out and back, images {done.image_difference:.1e}, texts {done.text_difference:.1e}")


def test_align(tmp_path: Path) -> None:
    """With the processor that transformers' script of conversion writes."""
    config = AlignConfig(vision_config={"image_size": 289, "hidden_dim": 640})
    config.text_config.vocab_size = 45
    processor = EfficientNetImageProcessor(
        do_center_crop=True, rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False, include_top=False, resample=2
    )
    model = transformers_folder(tmp_path / "in", config, "bert", processor)
    module = ClipModule.from_pretrained(tmp_path / "in")
    assert module.image_size == 289 and module.transform_settings.resize_to == 346
    image, text = transformers_features(model, tmp_path / "in", module)
    torch.testing.assert_close(module.encode_image(pictures(289)), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
