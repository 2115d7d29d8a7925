"""SigLIP from open_clip's form into transformers' and back: the same features, the same numbers, and what cannot be held."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import _registry as registry
from weights.families import CAPTIONS, bert_tokenizer, open_clip_folder, pictures, transformers_folder
from weights.test_from_transformers import config

from lightning_clip import ClipModule, InputError
from lightning_clip.encoders import HuggingFaceImageEncoder, TimmImageEncoder
from lightning_clip.export.export import export

TEXT = {"context_length": 16, "vocab_size": 45, "hf_tokenizer_name": ".", "width": 32, "heads": 4, "layers": 2}
TEXT |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "mlp_ratio": 3.5}
TANH = {"act_kwargs": {"approximate": "tanh"}}
NAMES = {"gelu": "vit_small_patch8_siglip_32", "gelu_pytorch_tanh": "vit_smaller_patch8_siglip_32"}


@pytest.fixture(autouse=True)
def small_towers() -> Iterator[None]:
    """timm has SigLIP's towers from 93 million parameters on: here are two small ones, built by the functions of large ones."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 1.75}
    for name, large in zip(NAMES.values(), ("vit_base_patch16_siglip_224", "vit_base_patch32_siglip_256"), strict=True):
        registry._model_entrypoints[name] = partial(_small, timm.model_entrypoint(large), sizes)
        registry._module_to_models["vision_transformer"].add(name)
        registry._model_to_module[name] = "vision_transformer"
    yield
    for name in NAMES.values():
        del registry._model_entrypoints[name], registry._model_to_module[name]
        registry._module_to_models["vision_transformer"].discard(name)


def _small(make: Any, sizes: dict[str, Any], pretrained: bool = False, **options: Any) -> Any:
    return make(pretrained, **{**sizes, **options})


def written(folder: Path, act: str, side: str = "right", **changes: Any) -> Any:
    """A folder of open_clip with SigLIP's towers."""
    vision = {"timm_model_name": NAMES[act], "timm_pool": "map", "timm_proj": "none", "image_size": 32}
    text = {**TEXT, **(TANH if act != "gelu" else {}), **changes}
    settings = {"embed_dim": 64, "custom_text": True, "init_logit_bias": -10, "vision_cfg": vision, "text_cfg": text}
    bert_tokenizer(folder, 16)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": side}))
    return open_clip_folder(folder, settings, {"resize_mode": "squash"})


def test_padding_on_the_left_there_and_back(tmp_path: Path) -> None:
    """From open_clip to transformers and back: both pad where the tokenizer says, and the features stay."""
    import open_clip
    from transformers import AutoTokenizer, SiglipModel

    model = written(tmp_path / "in", "gelu", side="left")
    module = ClipModule.from_pretrained(tmp_path / "in")
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'in'}")(CAPTIONS)
    assert (ids[0, 0], ids[0, -1]) != (ids[0, -1], ids[0, 0]) and ids[0, 0] == module.tokenizer.pad_id
    with torch.no_grad():
        expected = model.encode_text(ids, normalize=True)
    torch.testing.assert_close(module.encode_text(CAPTIONS), expected, rtol=0, atol=1e-5)
    tokens, mask = module.tokenizer(CAPTIONS)
    torch.testing.assert_close(module.model.text_encoder.forward_both(tokens, mask)[0], module.model.text_encoder(tokens, mask))
    done = export(module, "huggingface", tmp_path / "out")
    assert max(done.image_difference, done.text_difference) <= 1e-6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(CAPTIONS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = SiglipModel.from_pretrained(tmp_path / "out").eval().text_model(ids).pooler_output
    torch.testing.assert_close(torch.nn.functional.normalize(theirs, dim=-1), expected, rtol=0, atol=1e-5)
    read = ClipModule.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(read.encode_text(CAPTIONS), expected, rtol=0, atol=1e-5)
    export(read, "open_clip", tmp_path / "again")
    again = ClipModule.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(again.encode_text(CAPTIONS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("act", sorted(NAMES))
def test_from_open_clip_to_transformers_and_back(act: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

    written(tmp_path / "in", act)
    module = ClipModule.from_pretrained(tmp_path / "in")
    assert type(module.model.image_encoder) is TimmImageEncoder
    done = export(module, "huggingface", tmp_path / "out")
    print(f"{act}: images {done.image_difference:.1e}, texts {done.text_difference:.1e}")
    assert max(done.image_difference, done.text_difference) <= 1e-6
    model = SiglipModel.from_pretrained(tmp_path / "out").eval()
    assert {model.config.vision_config.hidden_act, model.config.text_config.hidden_act} == {act}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(CAPTIONS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")["input_ids"]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(list(pictures()), do_resize=False, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits_per_image
    scale, bias = module.model.scale().detach(), module.model.logit_bias.detach()
    expected = scale * module.encode_image(pictures()) @ module.encode_text(CAPTIONS).T + bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)

    read = ClipModule.from_pretrained(tmp_path / "out")
    assert type(read.model.image_encoder) is HuggingFaceImageEncoder
    export(read, "open_clip", tmp_path / "again")
    before, after = (load_file(tmp_path / name / "open_clip_model.safetensors") for name in ("in", "again"))
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value.reshape(after[key].shape), after[key]), key


@pytest.mark.parametrize("clean", ["canonicalize", "lower", "whitespace"])
def test_cleaning_of_captions(clean: str, tmp_path: Path) -> None:
    """What open_clip does to captions before its tokenizer is in transformers' tokenizer, too."""
    from transformers import AutoTokenizer

    written(tmp_path / "in", "gelu", tokenizer_kwargs={"clean": clean})
    module = ClipModule.from_pretrained(tmp_path / "in")
    export(module, "huggingface", tmp_path / "out")
    texts = ["A Dog,  a cat!", " on_the_dog.\n", "Cat's (two) [cats]", "A~B^C\\D-E", *CAPTIONS]
    found = AutoTokenizer.from_pretrained(tmp_path / "out")(texts, truncation=True, max_length=16)["input_ids"]
    assert found == module.tokenizer.encode(texts)
    assert "omits the repair of broken letters" in (tmp_path / "out/README.md").read_text()


def test_processor(tmp_path: Path) -> None:
    """What it gives goes into the model as it is: a mask would hide the padding, which SigLIP reads."""
    from transformers import AutoModel, AutoProcessor

    transformers_folder(tmp_path / "in", *config("siglip"))
    module = ClipModule.from_pretrained(tmp_path / "in")
    export(module, "huggingface", tmp_path / "out")
    model, processor = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModel, AutoProcessor))
    picture = pictures(count=1)[0]
    inputs = processor(text=CAPTIONS, images=picture, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model.eval()(**inputs).logits_per_image
    image = module.encode_image(module.image_transform(train=False)(picture)[None])
    expected = module.model.scale().detach() * image @ module.encode_text(CAPTIONS).T + module.model.logit_bias.detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_from_transformers_to_open_clip_and_back(tmp_path: Path) -> None:
    transformers_folder(tmp_path / "in", *config("siglip"))
    module = ClipModule.from_pretrained(tmp_path / "in")
    done = export(module, "open_clip", tmp_path / "out")
    assert max(done.image_difference, done.text_difference) <= 1e-6
    settings = json.loads((tmp_path / "out/open_clip_config.json").read_text())["model_cfg"]
    assert settings["vision_cfg"]["timm_model_name"] == NAMES["gelu_pytorch_tanh"]
    assert settings["text_cfg"]["act_kwargs"] == {"approximate": "tanh"} and settings["init_logit_bias"] != 0
    again = ClipModule.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(again.encode_text(CAPTIONS), module.encode_text(CAPTIONS), rtol=0, atol=1e-6)
    export(again, "huggingface", tmp_path / "again")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "again"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


class TestRefusals:
    @pytest.mark.parametrize(
        ("tower", "act", "message"),
        [
            (
                "vision_config",
                "quick_gelu",
                "timm, where none of SigLIP's has these sizes and the activation 'quick_gelu'",
            ),
            ("text_config", "relu", "open_clip has no text tower with the activation 'relu'"),
        ],
    )
    def test_activations_that_open_clip_lacks(self, tower: str, act: str, message: str, tmp_path: Path) -> None:
        settings, *rest = config("siglip")
        getattr(settings, tower).hidden_act = act
        transformers_folder(tmp_path / "in", settings, *rest)
        with pytest.raises(InputError, match=message):
            export(ClipModule.from_pretrained(tmp_path / "in"), "open_clip", tmp_path / "out")

    def test_settings_that_transformers_lacks(self, tmp_path: Path) -> None:
        written(tmp_path / "in", "gelu", ls_init_value=0.1)
        with pytest.raises(InputError, match="transformers has no model of a TimmImageEncoder .* and a OpenClipTextEncoder"):
            export(ClipModule.from_pretrained(tmp_path / "in"), "huggingface", tmp_path / "out")

    def test_without_a_bias_of_the_logits(self, tmp_path: Path) -> None:
        written(tmp_path / "in", "gelu")
        with pytest.raises(InputError, match="transformers' siglip models have a bias of the logits"):
            export(ClipModule.from_pretrained(tmp_path / "in", objective="softmax"), "huggingface", tmp_path / "out")

    def test_heads_of_ones_own(self, tmp_path: Path) -> None:
        written(tmp_path / "in", "gelu")
        arguments = ClipModule.from_pretrained(tmp_path / "in").to_mapping()
        towers = {column: {**settings, "projection": "linear"} for column, settings in arguments["towers"].items()}
        module = ClipModule(**{**arguments, "towers": towers})
        with pytest.raises(InputError, match="its projections are not SigLIP's: none of the image, a linear one with a bias"):
            export(module, "huggingface", tmp_path / "out")
