"""open_clip's models here and there: the same features, tokens and pixels for every kind of tower."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import open_clip
import pytest
import torch
from corners import corners
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from transformers import AutoConfig
from weights.families import CAPTIONS, TEXT, VIT, bert_tokenizer, open_clip_folder, pictures, shaken

from lightning_clip import ClipModule, InputError
from lightning_clip.encoders import ClipTextTransformer, TimmImageEncoder
from lightning_clip.export.export import export
from lightning_clip.weights import from_open_clip

BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
BERT |= {"vocab_size": 45, "max_position_embeddings": 40, "pad_token_id": 0}
SMALL_TEXT = {**TEXT, "vocab_size": 45, "context_length": 16}
HF = {"hf_model_name": "bert", "hf_tokenizer_name": "bert", "context_length": 16}
TINY_TIMM = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
RESNET = {"layers": [1, 2, 1, 1], "width": 8, "image_size": 64, "head_width": 16}
POOLED = {"pool_type": "last", "no_causal_mask": True, "proj_bias": True}
SIGLIP = {**SMALL_TEXT, **POOLED, "hf_tokenizer_name": "bert", "tokenizer_kwargs": {"clean": "canonicalize"}}
CUSTOM: dict[str, Any] = {"custom_text": True, "embed_dim": 48}
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT},
    "quick_gelu": {**CUSTOM, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "mlp_ratio": {"embed_dim": 48, "vision_cfg": {**VIT, "mlp_ratio": 4.9231}, "text_cfg": TEXT},
    "eos": {
        "embed_dim": 48,
        "vision_cfg": VIT,
        "text_cfg": {**SMALL_TEXT, "hf_tokenizer_name": "bert", "pool_type": "eos", "eos_id": 3},
    },
    "resnet": {"embed_dim": 48, "vision_cfg": RESNET, "text_cfg": TEXT},
    "coca": {
        **CUSTOM,
        "vision_cfg": {
            **VIT,
            "attentional_pool": True,
            "attn_pooler_queries": 4,
            "attn_pooler_heads": 4,
            "output_tokens": True,
        },
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "context_length": 76, "vocab_size": 49408, "attn_pooler_heads": 2},
    },
    "pooled": {
        **CUSTOM,
        "vision_cfg": {**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True, "ls_init_value": 0.1},
        "text_cfg": {**TEXT, **POOLED, "context_length": 24},
        "init_logit_bias": -10,
    },
    "siglip": {
        **CUSTOM,
        "embed_dim": 192,
        "vision_cfg": {**TINY_TIMM, "timm_pool": "token", "timm_proj": "none"},
        "text_cfg": {**SIGLIP, "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}},
        "init_logit_bias": -10,
    },
    "timm": {
        "embed_dim": 48,
        "vision_cfg": {**TINY_TIMM, "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {**HF, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"},
    },
    "timm_mlp": {
        "embed_dim": 48,
        "vision_cfg": {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "mlp", "image_size": 64},
        "text_cfg": {**HF, "hf_proj_type": "linear", "hf_pooler_type": "cls_pooler"},
    },
    "timm_head": {
        "embed_dim": 48,
        "vision_cfg": {**TINY_TIMM, "timm_pool": "avg", "timm_proj": ""},
        "text_cfg": {**HF, "hf_proj_type": "linear", "hf_pooler_type": "cls_last_hidden_state_pooler"},
    },
}


def written(folder: Path, kind: str) -> tuple[Any, Any]:
    """The folder's model and tokenizer, by open_clip."""
    from transformers import BertConfig

    config = {**CONFIGS[kind], "text_cfg": dict(CONFIGS[kind]["text_cfg"])}
    bert_tokenizer(folder)
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_name"] = str(folder / "bert")
        BertConfig(**{key: value for key, value in BERT.items() if key != "model_type"}).save_pretrained(folder / "bert")
    return open_clip_folder(folder, config), open_clip.get_tokenizer(f"local-dir:{folder}")


def change(folder: Path, **text_settings: Any) -> None:
    """Other settings of the text tower in a folder's configuration."""
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"] |= text_settings
    path.write_text(json.dumps(content))


def features(model: Any, tokenizer: Any, module: ClipModule) -> tuple[Tensor, Tensor]:
    """By open_clip, of the pixels and captions that the tests use."""
    mean, std = (
        torch.tensor(value).view(1, 3, 1, 1) for value in (module.transform_settings.mean, module.transform_settings.std)
    )
    pixels = (pictures(module.image_size).float() / 255 - mean) / std
    with torch.no_grad():
        return model.encode_image(pixels, normalize=True), model.encode_text(tokenizer(CAPTIONS), normalize=True)


@pytest.mark.parametrize("kind", corners([*CONFIGS], *(set(CONFIGS) - {"timm", "timm_mlp"})))
def test_same_features(kind: str, tmp_path: Path) -> None:
    model, tokenizer = written(tmp_path, kind)
    module = ClipModule.from_pretrained(tmp_path)
    image, text = features(model, tokenizer, module)
    torch.testing.assert_close(module.encode_image(pictures(module.image_size)), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
    ids = tokenizer(CAPTIONS)  # padded to the full length, without a mask: read at the end of the text
    with torch.no_grad():
        torch.testing.assert_close(module.model.eval().encode_text(ids), text, rtol=0, atol=1e-5)
    assert module.model.logit_scale.item() == model.logit_scale.item()
    assert (module.model.logit_bias is None) == (model.logit_bias is None)
    assert module.to_mapping()["objective"]["loss"]["name"] == ("softmax" if model.logit_bias is None else "sigmoid")
    assert len(module.model.text_encoder.blocks()) == 2 and module.model.image_encoder.blocks()
    assert type(module.model.text_encoder) is ClipTextTransformer or kind not in ("clip", "quick_gelu", "mlp_ratio", "eos")
    assert type(module.model.image_encoder) is TimmImageEncoder or kind not in ("clip", "quick_gelu", "siglip", "timm", "eos")
    tokens, mask = module.tokenizer(CAPTIONS)
    assert module.model.text_encoder.forward_tokens(tokens, mask).shape[:2] == tokens.shape
    if kind != "resnet":
        assert module.model.image_encoder.forward_tokens(torch.zeros(1, 3, module.image_size, module.image_size)).ndim == 3
    saved = tmp_path / "again.ckpt"
    from small import small_trainer

    trainer = small_trainer(tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(saved)
    shutil.rmtree(tmp_path / "bert", ignore_errors=True)
    for other in tmp_path.glob("*.*"):
        if other != saved:
            other.unlink()
    again = ClipModule.load_from_checkpoint(saved)  # needs nothing of the source any more
    assert torch.equal(again.encode_text(CAPTIONS), module.encode_text(CAPTIONS))
    assert torch.equal(again.encode_image(pictures(module.image_size)), module.encode_image(pictures(module.image_size)))


def test_padding_on_the_left_before_absolute_positions(tmp_path: Path) -> None:
    kind = next(name for name, config in CONFIGS.items() if "hf_model_name" in config["text_cfg"])
    written(tmp_path, kind)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "left"}))
    with pytest.raises(InputError, match="pads on the left, where texts of a 'bert' tower of open_clip get other positions"):
        ClipModule.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["mt5", "m2m_100"])
def test_encoders_of_translation_models(family: str, tmp_path: Path) -> None:
    """mT5's and NLLB's: open_clip takes their encoders alone, and so do we, in and out and in checkpoints."""
    sizes: dict[str, dict[str, Any]] = {
        "mt5": {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4},
        "m2m_100": {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    }
    settings = {**sizes[family], "d_model": 32, "vocab_size": 45, "pad_token_id": 0}
    AutoConfig.for_model(family, **settings).save_pretrained(tmp_path / "in/bert")
    bert_tokenizer(tmp_path / "in", 16)
    text = {**HF, "hf_model_name": str(tmp_path / "in/bert"), "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}
    model = open_clip_folder(tmp_path / "in", {**CUSTOM, "vision_cfg": VIT, "text_cfg": text})
    module = ClipModule.from_pretrained(tmp_path / "in")
    _, expected = features(model, open_clip.get_tokenizer(f"local-dir:{tmp_path / 'in'}"), module)
    torch.testing.assert_close(module.encode_text(CAPTIONS), expected, rtol=0, atol=1e-5)
    assert not any("decoder" in key for key in module.state_dict())
    for format in ("open_clip", "safetensors"):
        export(module, format, tmp_path / format)
        again = ClipModule.from_pretrained(tmp_path / format)
        torch.testing.assert_close(again.encode_text(CAPTIONS), expected, rtol=0, atol=1e-5)
    grown = ClipModule.from_pretrained(tmp_path / "in", training={"adapt": {"text": {"new_tokens": ["dax"]}}})
    export(grown, "open_clip", tmp_path / "grown")
    again = ClipModule.from_pretrained(tmp_path / "grown")
    torch.testing.assert_close(again.encode_text(["a dax"]), grown.encode_text(["a dax"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("preprocess", [{}, {"resize_mode": "squash", "interpolation": "bilinear"}, {"resize_mode": "longest"}])
def test_same_pixels(preprocess: dict[str, Any], tmp_path: Path) -> None:
    model = open_clip_folder(tmp_path, CONFIGS["clip"], preprocess)
    module = ClipModule.from_pretrained(tmp_path)
    theirs = image_transform_v2(PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)), is_train=False)
    for size in ((53, 71), (80, 40), (39, 46)):
        noise = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        smooth = torch.nn.functional.avg_pool2d(noise.float(), 5, 1, 2).to(torch.uint8)
        picture = Image.fromarray(smooth.permute(1, 2, 0).numpy())
        ours = module.image_transform(train=False)(smooth)
        ours = ((ours.float() / 255 - module.model.mean) / module.model.std)[0]
        expected: Any = theirs(picture)
        difference = (ours - expected) * module.model.std[0]
        assert difference.abs().max() < 1.01 / 255  # one level: PIL and torchvision round differently


@pytest.mark.slow
def test_published_names(tmp_path: Path) -> None:
    """A real size by its name, with the prefixes that trainers leave, and the activation of OpenAI's weights."""
    model = shaken(open_clip.create_model("RN50-quickgelu"))
    weights = {f"module._orig_mod.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "epoch_1.pt")
    module = ClipModule.from_pretrained(f"open_clip:RN50-quickgelu/{tmp_path / 'epoch_1.pt'}")
    assert type(module.model.image_encoder) is TimmImageEncoder and module.embed_dim == 1024
    image, text = features(model, open_clip.get_tokenizer("RN50"), module)
    torch.testing.assert_close(module.encode_image(pictures(224)), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
    sizes = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**model.state_dict(), **sizes}, tmp_path / "openai.pt")
    openai = ClipModule.from_pretrained(f"open_clip:RN50/{tmp_path / 'openai.pt'}")
    assert torch.equal(openai.encode_text(CAPTIONS), module.encode_text(CAPTIONS))


def test_activation_of_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the tag counts where it tells one; where it tells none, that of the architecture."""
    monkeypatch.setattr(open_clip, "list_models", lambda: ["small"])
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: {"quick_gelu": True})
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["silent", "told"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"quick_gelu": False} if tag == "told" else {})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda settings: str(tmp_path / "weights.pt"))
    found = {tag: from_open_clip._named(f"small/{tag}").config["quick_gelu"] for tag in ("silent", "told")}
    assert found == {"silent": True, "told": False}


@pytest.mark.parametrize("kind", ["clip", "quick_gelu"])
def test_older_names(kind: str, tmp_path: Path) -> None:
    """Text towers used to have no prefix, or have one now; masks and scales were stored in other forms."""
    model, _ = written(tmp_path, kind)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    if kind == "quick_gelu":
        weights = {key.removeprefix("text."): value for key, value in weights.items()}
    else:
        weights = {key if key.startswith(("visual.", "logit")) else f"text.{key}": value for key, value in weights.items()}
    expected = ClipModule.from_pretrained(tmp_path)
    weights |= {"logit_scale": weights["logit_scale"].reshape(1), "attn_mask": torch.zeros(77, 77)}
    (tmp_path / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": weights}, tmp_path / "open_clip_pytorch_model.bin")
    module = ClipModule.from_pretrained(tmp_path)
    for key, value in expected.model.state_dict().items():
        assert torch.equal(value, module.model.state_dict()[key]), key


@pytest.mark.parametrize("kind", corners(["clip", "pooled", "resnet", "timm"], "pooled"))
def test_other_sizes(kind: str, tmp_path: Path) -> None:
    """As open_clip resizes them; captions that fit a shorter context keep their features."""
    written(tmp_path, kind)
    size = {"clip": 48, "pooled": 48, "resnet": 96, "timm": 64}[kind]
    module = ClipModule.from_pretrained(tmp_path, image_size=size, context_length=12)
    assert module.image_size == size and module.tokenizer.context_length == 12
    if kind != "resnet":
        model = open_clip.create_model(f"local-dir:{tmp_path}", force_image_size=size).eval()
        image, _ = features(model, open_clip.get_tokenizer(f"local-dir:{tmp_path}"), module)
        torch.testing.assert_close(module.encode_image(pictures(size)), image, rtol=0, atol=1e-5)
    else:
        assert module.encode_image(pictures(size)).shape == (3, 48)
    if kind in ("clip", "timm"):
        short = ["a dog", "a cat"]
        torch.testing.assert_close(module.encode_text(short), ClipModule.from_pretrained(tmp_path).encode_text(short))
    if kind == "clip":
        longer = ClipModule.from_pretrained(tmp_path, context_length=100)
        model = open_clip.create_model(f"local-dir:{tmp_path}", force_context_length=100).eval()
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}", context_length=100)(["dog " * 90])
        with torch.no_grad():
            expected = model.encode_text(tokens, normalize=True)
        torch.testing.assert_close(longer.encode_text(["dog " * 90]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", corners(["siglip", "timm", "eos", "clip"], "eos", "clip"))
def test_a_tokenizer_that_is_passed(kind: str, tmp_path: Path) -> None:
    """Where that of the source cannot be had, the towers are the same with one of the user's."""
    model, tokenizer = written(tmp_path, kind)
    change(tmp_path, hf_tokenizer_name="bert", tokenizer_kwargs={"strip_sep_token": True})
    with pytest.raises(InputError, match="changes the ids of its tokenizer in a way that is not supported: pass a tokenizer"):
        ClipModule.from_pretrained(tmp_path)
    settings = {"clean": "canonicalize" if kind == "siglip" else "whitespace", "context_length": 16}
    own = {"name": "clip"} if kind == "clip" else {"name": f"hf:{tmp_path / 'tokens'}", **settings}
    bert_tokenizer(tmp_path / "tokens", 16)
    module = ClipModule.from_pretrained(tmp_path, tokenizer=own)
    _, text = features(model, tokenizer, module)
    torch.testing.assert_close(module.encode_text(CAPTIONS), text, rtol=0, atol=1e-5)
    if kind == "siglip":  # which feels its padding
        assert ClipModule.from_pretrained(tmp_path, tokenizer={**own, "pad_id": 4}).model.text_encoder.pad_id == 4


class TestMistakes:
    def test_names(self) -> None:
        with pytest.raises(InputError, match="must be open_clip:NAME/WEIGHTS, such as"):
            ClipModule(pretrained="open_clip:ViT-B-32")
        with pytest.raises(InputError, match="open_clip has no model 'ViT-B-33': did you mean"):
            ClipModule(pretrained="open_clip:ViT-B-33/openai")
        with pytest.raises(InputError, match="open_clip has no weights 'opena' of ViT-B-32: did you mean 'openai'"):
            ClipModule(pretrained="open_clip:ViT-B-32/opena")

    def test_files_behind_names(self, tmp_path: Path) -> None:
        (tmp_path / "weights.pt").touch()
        with pytest.raises(InputError, match="the file of ViT-B-32's weights '.*weight.pt' does not exist.* 'weights.pt'"):
            ClipModule(pretrained=f"open_clip:ViT-B-32/{tmp_path / 'weight.pt'}")
        numpy.savez(tmp_path / "weights.npz", a=numpy.zeros(1))
        with pytest.raises(InputError, match=r"weights.npz' does not fit open_clip:.*: .npz files hold big_vision's weights"):
            ClipModule(pretrained=f"open_clip:RN50/{tmp_path / 'weights.npz'}")

    def test_settings_of_a_folder(self, tmp_path: Path) -> None:
        open_clip_folder(tmp_path, CONFIGS["clip"])
        path = tmp_path / "open_clip_config.json"
        content = json.loads(path.read_text())
        content["preprocess_cfg"]["resize_mode"] = "short"
        path.write_text(json.dumps(content))
        with pytest.raises(
            InputError, match="unknown resize_mode 'short' in open_clip's preprocessing: did you mean 'shortest'"
        ):
            ClipModule(pretrained=str(tmp_path))
        path.write_text("{")
        with pytest.raises(InputError, match="cannot be loaded .JSONDecodeError.* Is the folder complete, with settings that"):
            ClipModule(pretrained=str(tmp_path))

    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr(open_clip, "download_pretrained", fail)
        with pytest.raises(
            InputError, match="cannot be loaded .OSError: no route to host.*Without network give a folder or a file"
        ):
            ClipModule(pretrained="open_clip:ViT-B-32/openai")

    def test_code_beside_the_weights(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A configuration cannot ask for it."""
        written(tmp_path, "siglip")
        change(tmp_path, tokenizer_kwargs={"trust_remote_code": True})
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        settings |= {"auto_map": {"AutoTokenizer": [None, "theirs.Theirs"]}, "tokenizer_class": "Theirs"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        code = "from transformers import PreTrainedTokenizerFast\nprint('it ran')\nclass Theirs(PreTrainedTokenizerFast): ..."
        (tmp_path / "theirs.py").write_text(code)
        with pytest.raises(InputError, match="the tokenizer of .* cannot be loaded .*custom code.* 'clean': 'whitespace'"):
            ClipModule.from_pretrained(tmp_path)
        assert "it ran" not in capsys.readouterr().out

    def test_another_architecture(self, tmp_path: Path) -> None:
        written(tmp_path, "clip")
        open_clip_folder(tmp_path / "other", CONFIGS["mlp_ratio"])
        shutil.copy(tmp_path / "other/open_clip_model.safetensors", tmp_path)
        expected = r"do not fit: 6 of another shape: visual.transformer.resblocks.\*.mlp.c_fc.bias .2."
        with pytest.raises(InputError, match=expected):
            ClipModule(pretrained=str(tmp_path))

    def test_sizes(self, tmp_path: Path) -> None:
        written(tmp_path, "clip")
        with pytest.raises(InputError, match="image_size 50 is not a multiple of the tower's patch size 8: use 48 or 56"):
            ClipModule.from_pretrained(tmp_path, image_size=50)
        written(tmp_path / "resnet", "resnet")
        with pytest.raises(InputError, match="image_size 50 is not a multiple of 32"):
            ClipModule.from_pretrained(tmp_path / "resnet", image_size=50)

    def test_files(self, tmp_path: Path) -> None:
        written(tmp_path, "clip")
        file = tmp_path / "open_clip_model.safetensors"
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="is no complete file of weights .truncated"):
            ClipModule(pretrained=str(tmp_path))
        file.unlink()
        with pytest.raises(InputError, match="has open_clip's configuration but no weights"):
            ClipModule(pretrained=str(tmp_path))
        archive = torch.jit.script(torch.nn.Linear(2, 2))
        archive.save(tmp_path / "jit.pt")
        with pytest.raises(InputError, match="is a TorchScript archive, which holds code.*allow_pickle=True"):
            ClipModule(pretrained=f"open_clip:ViT-B-32/{tmp_path / 'jit.pt'}")
        with pytest.raises(InputError, match="do not fit: .* missing: .*2 unexpected: bias, weight"):
            ClipModule(pretrained={"source": f"open_clip:ViT-B-32/{tmp_path / 'jit.pt'}", "allow_pickle": True})
