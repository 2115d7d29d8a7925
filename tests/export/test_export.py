"""Weights out: other libraries read what was written, with the same features, and what comes back in is the same."""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from corners import corners
from small import TEXT, save_checkpoint, small_module
from tasks.labelled import module_of
from torch.nn.functional import normalize
from weights.families import CAPTIONS, bert_tokenizer, pictures, shaken
from weights.test_from_open_clip import CONFIGS, written
from weights.test_from_transformers import KINDS, config, transformers_folder

from lightning_clip import ClipModule, InputError
from lightning_clip.data.tokenizers import train_tokenizer
from lightning_clip.encoders import image_encoders
from lightning_clip.export.export import Exported, export
from lightning_clip.export.formats import formats
from lightning_clip.tasks import ClassifierModule
from lightning_clip.weights.shapes import clip_vit
from lightning_clip.weights.siglip import transformers_vision_settings

CLIP_VIT = {"name": "vit_base_patch16_clip_224", "image_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
CLIP_TEXT = {**TEXT, "layers": 2}


def trained_tokenizer() -> dict[str, Any]:
    tokenizer = train_tokenizer(
        ["a dog on the beach, a cat in the house", "一只狗在海边"] * 4, vocab_size=300, context_length=24
    )
    return tokenizer.to_mapping()


def clip_module(**arguments: Any) -> ClipModule:
    """A small model of CLIP's architecture with random weights."""
    module = small_module(**{"image_encoder": CLIP_VIT, "text_encoder": CLIP_TEXT, **arguments})
    module.configure_model()
    shaken(module.model)
    return module.eval()


@pytest.fixture(scope="module")
def in_onnx(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipModule, Path, Exported]:
    """A model, its folder in this format, and what export says of it."""
    module, folder = clip_module(), tmp_path_factory.mktemp("onnx") / "out"
    return module, folder, export(module, "onnx", folder)


def same(first: ClipModule, second: ClipModule) -> None:
    """The same names and bits."""
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("format", ["safetensors", "huggingface", "open_clip"])
@pytest.mark.parametrize("quick_gelu", corners([False, True], True))
def test_clip_round_trip(format: str, quick_gelu: bool, tmp_path: Path) -> None:
    """Tensor for tensor, whichever way."""
    name = "vit_base_patch16_clip_quickgelu_224" if quick_gelu else "vit_base_patch16_clip_224"
    text = {**CLIP_TEXT, "quick_gelu": quick_gelu}
    module = clip_module(image_encoder={**CLIP_VIT, "name": name}, text_encoder=text, transform={"resize": "squash"})
    done = export(module, format, tmp_path / "out")
    assert max(done.image_difference, done.text_difference) <= 1e-5
    again = ClipModule.from_pretrained(tmp_path / "out")
    same(module, again)
    assert again.transform_settings.resize == "squash" and torch.equal(
        again.encode_text(CAPTIONS), module.encode_text(CAPTIONS)
    )


@pytest.mark.parametrize("kind", corners([kind for kind in CONFIGS if kind != "mlp_ratio"], "clip", "siglip", "timm"))
def test_open_clip_in_and_out(kind: str, tmp_path: Path) -> None:
    written(tmp_path / "in", kind)
    module = ClipModule.from_pretrained(tmp_path / "in")
    done = export(module, "open_clip", tmp_path / "out")
    assert max(done.image_difference, done.text_difference) <= 1e-5
    again = ClipModule.from_pretrained(tmp_path / "out")
    same(module, again)
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(CAPTIONS)
    with torch.no_grad():
        text = model.eval().encode_text(tokens, normalize=True)
    torch.testing.assert_close(text, module.encode_text(CAPTIONS), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    corners(
        ["clip", "clip_legacy", "clip_odd", "metaclip_2", "siglip", "chinese_clip", "altclip", "dual"],
        "clip",
        "siglip",
        "chinese_clip",
    ),
)
def test_transformers_in_and_out(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    transformers_folder(tmp_path / "in", *config(kind))
    module = ClipModule.from_pretrained(tmp_path / "in")
    done = export(module, "huggingface", tmp_path / "out")
    assert max(done.image_difference, done.text_difference) <= 1e-5
    same(module, ClipModule.from_pretrained(tmp_path / "out"))
    model, again = (AutoModel.from_pretrained(tmp_path / name) for name in ("in", "out"))
    assert type(again) is type(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    for part in (again.config.text_config, again.config.vision_config):
        assert getattr(part, "projection_dim", module.embed_dim) == module.embed_dim


@pytest.mark.parametrize(
    "kind", corners(["native", "clip", "clip_legacy", "clip_odd", "metaclip_2", "siglip"], "native", "siglip")
)
def test_classes_of_one_tower(kind: str, tmp_path: Path) -> None:
    """transformers' classes with a projection read the folder, whatever its width: 48 and 16 here, not CLIP's 512."""
    import transformers

    if kind == "native":
        module = clip_module()
    else:
        transformers_folder(tmp_path / "in", *config(kind))
        module = ClipModule.from_pretrained(tmp_path / "in")
    export(module, "huggingface", tmp_path / "out")
    name = {"metaclip_2": "MetaClip2", "siglip": "Siglip"}.get(kind, "CLIP")
    end, outputs = ("", ["pooler_output"] * 2) if kind == "siglip" else ("WithProjection", ["image_embeds", "text_embeds"])
    vision, text = (
        getattr(transformers, f"{name}{tower}Model{end}").from_pretrained(tmp_path / "out").eval()
        for tower in ("Vision", "Text")
    )
    pixels = (pictures().float() / 255 - module.model.mean) / module.model.std
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    padding = {"padding": "max_length", "max_length": 16} if kind == "siglip" else {"padding": True}
    ids = tokenizer(CAPTIONS, truncation=True, return_tensors="pt", **padding)
    with torch.no_grad():
        found = getattr(vision(pixels), outputs[0]), getattr(text(**ids), outputs[1])
    torch.testing.assert_close(normalize(found[0], dim=-1), module.encode_image(pictures()), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalize(found[1], dim=-1), module.encode_text(CAPTIONS), rtol=0, atol=1e-5)


def test_the_check_reads_through_classes_of_one_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only they get wrong leaves nothing behind."""
    import transformers

    read = transformers.CLIPTextModelWithProjection.from_pretrained

    def other(*arguments: Any, **options: Any) -> Any:
        model = read(*arguments, **options)
        torch.nn.init.normal_(model.text_projection.weight)
        return model

    monkeypatch.setattr(transformers.CLIPTextModelWithProjection, "from_pretrained", other)
    with pytest.raises(InputError, match="read back by transformers, features differ by"):
        export(clip_module(), "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_in_onnx(in_onnx: tuple[ClipModule, Path, Exported]) -> None:
    onnx = pytest.importorskip("onnx")
    module, folder, _ = in_onnx
    said = {}
    for tower in ("image", "text"):
        graph = onnx.load(folder / f"{tower}.onnx").graph
        for value in (*graph.input, *graph.output):
            said[value.name] = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        inner = {axis.dim_param for value in graph.value_info for axis in value.type.tensor_type.shape.dim if axis.dim_param}
        assert not [sign for sign in inner if sign.startswith("s") and sign[1:].isdigit()]
    size = module.image_size
    assert said == {
        "pixels": ["batch", 3, size, size],
        "image_features": ["batch", module.embed_dim],
        "tokens": ["batch", "length"],
        "mask": ["batch", "length"],
        "text_features": ["batch", module.embed_dim],
    }


def test_chinese_clip_through_open_clip_and_back(tmp_path: Path) -> None:
    """Its text tower is a BERT, which open_clip builds under that name."""
    from transformers import AutoModel

    transformers_folder(tmp_path / "in", *config("chinese_clip"))
    module = ClipModule.from_pretrained(tmp_path / "in")
    done = export(module, "open_clip", tmp_path / "open")
    assert max(done.image_difference, done.text_difference) <= 1e-6
    through = ClipModule.from_pretrained(tmp_path / "open")
    torch.testing.assert_close(through.encode_text(CAPTIONS), module.encode_text(CAPTIONS), rtol=0, atol=1e-6)
    export(through, "huggingface", tmp_path / "out")
    model, again = (AutoModel.from_pretrained(tmp_path / name) for name in ("in", "out"))
    before, after = model.state_dict(), again.state_dict()
    assert type(again) is type(model) and before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_command_of_the_paper(tmp_path: Path) -> None:
    """CLIPModel and CLIPProcessor, with a picture and a text, as their documentation has it."""
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    module = clip_module(transform={"resize": "floor_crop"})
    export(module, "huggingface", tmp_path / "out")
    model, processor = CLIPModel.from_pretrained(tmp_path / "out"), CLIPProcessor.from_pretrained(tmp_path / "out")
    picture = Image.fromarray(pictures(50, 1)[0].permute(1, 2, 0).numpy())
    inputs = processor(text=["a dog", "two cats on a beach"], images=picture, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    expected = module.model.scale() * module.encode_image(picture) @ module.encode_text(["a dog", "two cats on a beach"]).T
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_a_vocabulary_of_ones_own(tmp_path: Path) -> None:
    """Its texts end in id 2, which transformers would misread: the id is exchanged, and nothing else."""
    module = clip_module(tokenizer=trained_tokenizer())
    for format in ("huggingface", "open_clip", "safetensors"):
        done = export(module, format, tmp_path / format)
        assert max(done.image_difference, done.text_difference) <= 1e-5
        again = ClipModule.from_pretrained(tmp_path / format)
        torch.testing.assert_close(again.encode_text(CAPTIONS), module.encode_text(CAPTIONS), rtol=0, atol=1e-5)
    assert "exchanged with the largest" in (tmp_path / "huggingface/README.md").read_text()


def test_a_vocabulary_of_sentencepiece(tmp_path: Path) -> None:
    """Its texts end in id 2 as well (XLM-RoBERTa's do), and its vocabulary is a list."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["<s>", "<pad>", "</s>", "<unk>", *("▁" + letter for letter in "acdo"), *"abcdefghijklmnopqrstuvwxyz", "▁dog"]
    unigram = Tokenizer(models.Unigram([(piece, -float(place)) for place, piece in enumerate(pieces)], unk_id=3))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.add_special_tokens(pieces[:4])
    unigram.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    (tmp_path / "unigram.json").write_text(unigram.to_str())
    module = clip_module(tokenizer={"name": "json", "path": str(tmp_path / "unigram.json"), "context_length": 20})
    export(module, "huggingface", tmp_path / "out")
    again = ClipModule.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(again.encode_text(CAPTIONS), module.encode_text(CAPTIONS), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "vitamin_small_224", "hieradet_small", "naflexvit_base_patch16_map"]
)
def test_shapes_of_other_towers(name: str) -> None:
    """Vision Transformers of other parts than CLIP's and SigLIP's are told from them by what they are made of."""
    with torch.device("meta"):
        encoder = image_encoders.build(name)
    assert clip_vit(encoder) is None and transformers_vision_settings(encoder) is None


@pytest.mark.slow
def test_mixed_towers(tmp_path: Path) -> None:
    """timm's towers and sigmoid losses go to open_clip; a ResNet of CLIP's without its bias, too."""
    module = clip_module(image_encoder={"name": "resnet10t", "image_size": 64}, loss="sigmoid")
    export(module, "open_clip", tmp_path / "timm")
    same(module, ClipModule.from_pretrained(tmp_path / "timm"))
    module = clip_module(image_encoder="resnet50_clip")
    export(module, "open_clip", tmp_path / "resnet")
    again = ClipModule.from_pretrained(tmp_path / "resnet")
    assert again.model.image_projection.bias.abs().max() == 0
    assert torch.equal(again.model.image_projection.weight, module.model.image_projection.weight)


@pytest.mark.parametrize("format", ["huggingface", "open_clip", "safetensors"])
@pytest.mark.parametrize("tokenizer", ["clip", "json"])
def test_new_tokens(format: str, tokenizer: str, tmp_path: Path) -> None:
    """The other library finds them where we do: beside other words, and not inside one."""
    new = {"text": {"new_tokens": ["<sks>", "dax"], "context_length": 90}}
    module = clip_module(tokenizer=trained_tokenizer() if tokenizer == "json" else "clip", adapt=new)
    texts = ["a photo of a <sks> dog", "A DAX, a dax, daxes", "dax<sks>", *CAPTIONS, "dax and " * 60]
    export(module, format, tmp_path / "out")
    again = ClipModule.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(again.encode_text(texts), module.encode_text(texts), rtol=0, atol=1e-5)
    if format == "open_clip":
        import open_clip

        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(texts)
        with torch.no_grad():
            found = model.eval().encode_text(tokens, normalize=True)
        torch.testing.assert_close(found, module.encode_text(texts), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "format"),
    corners(
        [(kind, format) for kind in ("clip", "bert") for format in ("onnx", "torch-export")],
        ("clip", "onnx"),
    ),
)
def test_graphs(format: str, kind: str, tmp_path: Path, in_onnx: tuple[ClipModule, Path, Exported]) -> None:
    """Any number of pictures and texts, of any length."""
    module, folder, done = in_onnx
    if (kind, format) != ("clip", "onnx"):
        if kind == "bert":
            transformers_folder(tmp_path / "in", *config("chinese_clip"))
            module = ClipModule.from_pretrained(tmp_path / "in")
        folder = tmp_path / "out"
        done = export(module, format, folder)
    assert max(done.image_difference, done.text_difference) <= 1e-4
    writer = formats.build(format)
    for count in (1, 4):
        texts = ["a dog in a house and a cat " * count, *CAPTIONS][:count]
        found = writer.features(module, folder, pictures(32, count), texts)
        torch.testing.assert_close(found["image"], module.encode_image(pictures(32, count)), rtol=0, atol=1e-4)
        torch.testing.assert_close(found["text"], module.encode_text(texts), rtol=0, atol=1e-4)
    content = json.loads((folder / "inference.json").read_text())
    assert content["image_size"] == 32 and content["tokenizer"]["context_length"] == module.tokenizer.context_length


@pytest.mark.parametrize("image", ["clip", "dino"])
def test_towers_of_two_families(image: str, tmp_path: Path) -> None:
    """Any image tower of transformers, or CLIP's, beside a BERT: VisionTextDualEncoder."""
    bert_tokenizer(tmp_path / "bert")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    text = {"model_type": "bert", **small, "vocab_size": 45, "max_position_embeddings": 40}
    dino = {"model_type": "dinov2", **small, "image_size": 32, "patch_size": 8}
    module = clip_module(
        image_encoder=CLIP_VIT if image == "clip" else {"name": "hf", "config": dino},
        text_encoder={"name": "hf", "config": text, "pooling": "pooler"},
        tokenizer={"name": f"hf:{tmp_path / 'bert'}", "context_length": 24},
    )
    export(module, "huggingface", tmp_path / "out")
    again = ClipModule.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(again.encode_image(pictures()), module.encode_image(pictures()), rtol=0, atol=1e-5)
    torch.testing.assert_close(again.encode_text(CAPTIONS), module.encode_text(CAPTIONS), rtol=0, atol=1e-5)


def test_adapters_are_merged(tmp_path: Path) -> None:
    module = clip_module(adapt={"image": {"lora": {"rank": 2}}})
    expected = module.encode_image(pictures())
    assert any(".lora_" in key for key in module.state_dict())
    export(module, "huggingface", tmp_path / "out")
    again = ClipModule.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(again.encode_image(pictures()), expected, rtol=0, atol=1e-5)


def test_what_checkpoints_leave_out_is_written(tmp_path: Path) -> None:
    """A module that knows its base by name; what is exported knows itself."""
    base = save_checkpoint(tmp_path / "base.ckpt")
    module = ClipModule.from_pretrained(str(base), training={"adapt": {"image": {"lock": True}, "store": "trained"}})
    export(module, "safetensors", tmp_path / "out")
    base.unlink()
    assert torch.equal(ClipModule.from_pretrained(tmp_path / "out").encode_text(CAPTIONS), module.encode_text(CAPTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
@pytest.mark.parametrize("kind", ["resnet", "coca", "pooled", "siglip", "timm", "timm_mlp", *KINDS[2:]])
def test_graphs_of_every_family(format: str, kind: str, tmp_path: Path) -> None:
    if kind in CONFIGS:
        written(tmp_path / "in", kind)
    else:
        transformers_folder(tmp_path / "in", *config(kind))
    done = export(ClipModule.from_pretrained(tmp_path / "in"), format, tmp_path / "out")
    print(f"{format}, {kind}: images {done.image_difference:.1e}, texts {done.text_difference:.1e}")
    assert max(done.image_difference, done.text_difference) <= 1e-6


class TestMistakes:
    def test_weights_beside_the_towers(self, tmp_path: Path) -> None:
        module = clip_module()
        module.head = torch.nn.Linear(2, 2)
        with pytest.raises(InputError, match="has weights beside its towers .head., which .* does not hold"):
            export(module, "onnx", tmp_path / "out")

    def test_towers_that_a_classifier_has_trained(self, tmp_path: Path) -> None:
        module = module_of(ClassifierModule).eval()
        with pytest.raises(InputError, match=r"beside its towers .classes., .* export its towers alone .--towers"):
            export(module, "open_clip", tmp_path / "out")
        export(module, "safetensors", tmp_path / "out", towers=True)
        again = ClipModule.from_pretrained(tmp_path / "out")
        assert torch.equal(again.encode_text(["a dog"]), module.encode_text(["a dog"]))
        assert "classes" in dict(module.model.named_children())

    def test_what_a_format_cannot_hold(self, tmp_path: Path) -> None:
        module = clip_module(projection="mlp")
        expected = (
            "format 'huggingface' cannot hold this model exactly: its image projection is a MlpProjection.*can: onnx, saf"
        )
        with pytest.raises(InputError, match=expected):
            export(module, "huggingface", tmp_path / "out")
        with pytest.raises(InputError, match="transformers' clip models have no bias of the logits.*can: onnx, open_clip"):
            export(clip_module(loss="sigmoid"), "huggingface", tmp_path / "out")
        with pytest.raises(InputError, match="no model of a TimmImageEncoder .resnet10t. and a ClipTextTransformer"):
            export(clip_module(image_encoder="resnet10t"), "huggingface", tmp_path / "out")
        with pytest.raises(
            InputError, match="open_clip builds timm's 'vit_tiny_patch16_224' without options, and this one has"
        ):
            export(small_module(), "open_clip", tmp_path / "out")
        with pytest.raises(
            InputError, match="open_clip projects 288 features of timm's 'mobilenetv3_small_050', which has 1024"
        ):
            export(clip_module(image_encoder="mobilenetv3_small_050"), "open_clip", tmp_path / "out")
        with pytest.raises(InputError, match="its towers have different activations"):
            export(clip_module(text_encoder={**CLIP_TEXT, "quick_gelu": True}), "open_clip", tmp_path / "out")
        with pytest.raises(InputError, match="no preprocessing that pads"):
            export(clip_module(transform={"resize": "pad"}), "huggingface", tmp_path / "out")
        with pytest.raises(InputError, match="unknown export format 'onx': did you mean 'onnx'"):
            export(module, "onx", tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_what_onnx_cannot_say(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: Any, **__: Any) -> None:
            raise RuntimeError("Failed to decompose the FX graph.\nNext steps:\n- Create an issue")

        monkeypatch.setattr("torch.onnx.export", fails)
        with pytest.raises(
            InputError, match=r"convert the image tower .RuntimeError: Failed to decompose the FX graph..: choose"
        ):
            export(clip_module(), "onnx", tmp_path / "out")

    def test_half_precision(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match="weights of this module are torch.bfloat16, and exports are float32: call module.float.. first"
        ):
            export(clip_module().bfloat16(), "safetensors", tmp_path / "out")

    def test_outputs(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="exists and is never replaced"):
            export(clip_module(), "safetensors", tmp_path)
        with pytest.raises(InputError, match="there is no folder"):
            export(clip_module(), "safetensors", tmp_path / "a/b")

    def test_disk_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full)
        for format in ("safetensors", "open_clip"):
            with pytest.raises(InputError, match="the disk is full .*Nothing was left there: make room"):
                export(clip_module(), format, tmp_path / "out")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("format", corners(formats.names(), "huggingface", "torch-export"))
    def test_files_that_cannot_grow(self, format: str, tmp_path: Path) -> None:
        """As the system says it, to every library that writes; torch's writer of archives used to end the process."""
        module = clip_module()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(InputError, match="the disk is full .*Nothing was left there: make room"):
                export(module, format, tmp_path / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(tmp_path.iterdir())

    def test_another_result(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A library that reads something else than was meant is found out."""
        module = clip_module()
        writer = type(formats.build("open_clip"))
        monkeypatch.setattr(
            writer, "features", lambda *_: {"image": normalize(torch.randn(5, 16)), "text": normalize(torch.randn(7, 16))}
        )
        with pytest.raises(InputError, match="read back by open_clip, features differ by .*nothing was written"):
            export(module, "open_clip", tmp_path / "out")
        assert not list(tmp_path.iterdir())
