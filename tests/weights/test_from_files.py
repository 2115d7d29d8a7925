"""Files that tell their own architecture: OpenAI's and Chinese-CLIP's."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel
from weights.families import CAPTIONS, bert_tokenizer, pictures, shaken

from lightning_clip import ClipModule, InputError
from lightning_clip.encoders import TimmImageEncoder

VIT = {"layers": 2, "width": 128, "head_width": 64, "patch_size": 8, "image_size": 32}
SIZES = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}


def openai_model(**changes: Any) -> Any:
    text = {"width": 64, "heads": 1, "layers": 2}
    return shaken(CLIP(embed_dim=48, vision_cfg={**VIT, **changes}, text_cfg=text, quick_gelu=True))


@pytest.mark.parametrize("resnet", [False, True])
def test_openai(resnet: bool, tmp_path: Path) -> None:
    model = openai_model(**({"layers": [1, 1, 1, 1], "width": 16, "image_size": 64} if resnet else {}))
    torch.save({**{key: value.half() for key, value in model.state_dict().items()}, **SIZES}, tmp_path / "openai.pt")
    module = ClipModule.from_pretrained(tmp_path / "openai.pt")
    model.load_state_dict({key: value.half() for key, value in model.state_dict().items()})
    pixels = pictures(module.image_size)
    normalised = (pixels.float() / 255 - module.model.mean) / module.model.std
    with torch.no_grad():
        image, text = (
            model.encode_image(normalised, normalize=True),
            model.encode_text(open_clip.tokenize(CAPTIONS), normalize=True),
        )
    torch.testing.assert_close(module.encode_image(pixels), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
    larger = ClipModule.from_pretrained(tmp_path / "openai.pt", image_size=96)
    assert larger.encode_image(pictures(96)).shape == (3, 48)


def test_openai_archive(tmp_path: Path) -> None:
    """A TorchScript archive, whose code is only looked at if that is allowed."""
    model = openai_model()
    with torch.no_grad():
        traced = torch.jit.trace_module(
            _Encoder(model, SIZES),
            {"encode": (torch.zeros(1, 3, 32, 32), torch.ones(1, 77, dtype=torch.long))},
            check_trace=False,
        )
    traced.save(tmp_path / "ViT.pt")
    with pytest.raises(InputError, match="holds code: if you trust its author, set allow_pickle=True"):
        ClipModule.from_pretrained(tmp_path / "ViT.pt")
    module = ClipModule.from_pretrained(tmp_path / "ViT.pt", allow_pickle=True)
    with torch.no_grad():
        text = model.encode_text(open_clip.tokenize(CAPTIONS), normalize=True)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)


class _Encoder(CLIP):
    """The model itself under a method that can be traced, with the three sizes as buffers."""

    def __init__(self, model: CLIP, sizes: dict[str, Tensor]) -> None:
        torch.nn.Module.__init__(self)
        self.__dict__.update({key: value for key, value in model.__dict__.items() if not key.startswith("_modules")})
        self._modules = model._modules
        self._buffers = {**model._buffers, **sizes}

    def encode(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode_image(image), self.encode_text(text)


@pytest.mark.parametrize(
    "changes", [{}, pytest.param({"width": 1280, "head_width": 80}, marks=pytest.mark.slow)], ids=["base", "huge"]
)
def test_chinese_clip(changes: dict[str, Any], tmp_path: Path) -> None:
    """The heads of ViT-H-14 are wider than those of the others, as vision_head_width in its configuration says."""
    model = openai_model(**changes)
    sizes = {"vocab_size": 45, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 96}
    bert = shaken(BertModel(BertConfig(**sizes, max_position_embeddings=60), add_pooling_layer=False))
    head = torch.randn(64, 48) * 0.1
    weights = {
        f"module.{key}": value for key, value in model.state_dict().items() if key.startswith(("visual.", "logit_scale"))
    }
    weights |= {f"module.bert.{key}": value for key, value in bert.state_dict().items()} | {"module.text_projection": head}
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "clip_cn.pt")
    tokenizer = bert_tokenizer(tmp_path / "bert")
    with pytest.raises(InputError, match="comes without its tokenizer: pass BERT's Chinese one"):
        ClipModule(pretrained=str(tmp_path / "clip_cn.pt"))
    given = {"name": f"hf:{tmp_path / 'bert'}", "context_length": 52}
    module = ClipModule.from_pretrained(tmp_path / "clip_cn.pt", tokenizer=given)
    assert type(module.model.image_encoder) is TimmImageEncoder and module.transform_settings.resize == "squash"
    normalised = (pictures().float() / 255 - module.model.mean) / module.model.std
    with torch.no_grad():
        image = model.encode_image(normalised, normalize=True)
        ids = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
        text = normalize(bert(**ids).last_hidden_state[:, 0] @ head, dim=-1)
    torch.testing.assert_close(module.encode_image(pictures()), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)


def test_no_architecture(tmp_path: Path) -> None:
    torch.save(shaken(torch.nn.Linear(2, 2)).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(
        InputError, match="does not tell its architecture: name that before the file, as in open_clip:ViT-B-32/"
    ):
        ClipModule(pretrained=str(tmp_path / "weights.pt"))
    torch.save({"epoch": 1}, tmp_path / "empty.pt")
    with pytest.raises(InputError, match="holds no weights by name"):
        ClipModule(pretrained=str(tmp_path / "empty.pt"))


def test_a_class_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles may name anything, once they are allowed."""
    gone = type("Gone", (), {"__module__": "gone"})
    monkeypatch.setitem(sys.modules, "gone", types.SimpleNamespace(Gone=gone))
    torch.save({"weight": torch.zeros(1), "settings": gone()}, tmp_path / "weights.pt")
    monkeypatch.delitem(sys.modules, "gone")
    with pytest.raises(InputError, match="objects of a class that is not here .No module named 'gone'.: install the package"):
        ClipModule(pretrained={"source": str(tmp_path / "weights.pt"), "allow_pickle": True})
