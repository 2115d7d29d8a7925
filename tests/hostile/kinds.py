"""The kinds of files that the corpus mutates: how each is made, how it is mutated, and how commands read it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from hostile.conftest import recipe_of
from hostile.mutations import mutated, mutated_checkpoint, mutated_json, mutated_tensors, mutated_yaml
from hostile.test_damaged_data import MAKERS, read_all, write_tar
from hostile.watching import ran
from pictures import encoded, gradient
from small import save_checkpoint, small_module, write_folder
from weights.families import TEXT, VIT, bert_tokenizer, open_clip_folder, transformers_folder

from lightning_clip import InputError
from lightning_clip.core.trust import restricted
from lightning_clip.core.yaml_files import read_mapping
from lightning_clip.curation.settings import CurationSettings
from lightning_clip.data.shards.reader import index_path
from lightning_clip.evaluation.suite import Suite
from lightning_clip.export.export import export

SUITE = b"""sets:
  a: {name: classes, templates: ["a {}"], protocols: [zero_shot]}
  b: {name: pairs/captions.jsonl, retrieval: true, protocols: [retrieval]}
output: out
batch_size: 4
num_workers: 0
trainer: {accelerator: cpu, enable_progress_bar: false}
"""
CURATE = b"""data: {name: synthetic, size: 8}
output: out
filters: [{name: size, least: 4}, caption_length]
duplicates: {exact: true, perceptual: 12, against: [test]}
balance: {most: 20, entries: [dog, cat]}
best_scores: 0.5
pairs_per_shard: 10
"""


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        make: writes a folder in which everything is as it should be.
        file: in it, that is mutated; a pattern.
        mutate: by seed.
        read: the folder as commands do; may raise an InputError.
        share: of the number of cases, where reading takes seconds.
    """

    make: Callable[[Path], object]
    file: str
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], object]
    share: float = 1.0


def _write(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)


def _table(name: str) -> Kind:
    return Kind(
        lambda folder: (folder / name).write_bytes(MAKERS[name](folder / name)), name, mutated, lambda f: read_all(f / name)
    )


def _index(folder: Path) -> str:
    write_tar(folder / "a.tar")
    read_all(folder / "a.tar")
    return str(index_path(str(folder / "a.tar")))


def classify(folder: Path, model: str = "model") -> tuple[int, str]:
    (folder / "a.png").write_bytes(encoded(gradient(8, 8), "PNG"))
    return ran("classify", str(folder / "a.png"), "--labels", "a dog,a cat", "--checkpoint", str(folder / model))


def evaluate(folder: Path) -> tuple[int, str]:
    paths = ("--suite", str(folder / "suite.yaml"), "--output", str(folder / "out"))
    return ran("evaluate", "--checkpoint", str(folder / "a.ckpt"), *paths)


def _checkpoint(folder: Path) -> None:
    save_checkpoint(folder / "a.ckpt")


def _plan(folder: Path) -> tuple[int, str]:
    return ran("plan", "--config", str(folder / "recipe.yaml"))


def _recipe(folder: Path) -> None:
    recipe = recipe_of(Path("run"), callbacks=[{"class_path": "lightning_clip.Retrieval"}])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def _ours(folder: Path) -> None:
    bert_tokenizer(folder / "words")
    module = small_module(tokenizer={"name": f"hf:{folder / 'words'}", "context_length": 16})
    module.configure_model()
    export(module, "safetensors", folder / "model")


def _open_clip(folder: Path) -> None:
    bert_tokenizer(folder / "model", 16)
    text = {**TEXT, "context_length": 16, "vocab_size": 64, "hf_tokenizer_name": str(folder / "model")}
    open_clip_folder(folder / "model", {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": text})


def _timm(folder: Path) -> None:
    vision = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    bert_tokenizer(folder / "model", 16)
    text = {**TEXT, "context_length": 16, "vocab_size": 64, "pool_type": "last", "hf_tokenizer_name": str(folder / "model")}
    open_clip_folder(folder / "model", {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})


def _processor(size: int = 32) -> object:
    from transformers import CLIPImageProcessor

    square = {"height": size, "width": size}
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square)


_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_PIXELS = {**_SIZES, "image_size": 32, "patch_size": 8}


def _transformers(family: str, folder: Path) -> None:
    import transformers

    texts = {**_SIZES, "vocab_size": 64, "max_position_embeddings": 32}
    library: object = getattr(transformers, f"{family}Config")
    config = library(text_config=texts, vision_config=_PIXELS, projection_dim=16)  # type: ignore[operator]
    transformers_folder(folder / "model", config, "bert", _processor())


def _evaluated(folder: Path) -> None:
    save_checkpoint(folder / "a.ckpt")
    here = SUITE.replace(b"classes", bytes(folder / "classes")).replace(b"pairs/", bytes(folder / "pairs") + b"/")
    _write("suite.yaml", here, folder)
    write_folder(folder / "pairs")  # and no rendered scenes: a mutated size of these is no fault, and takes for ever
    for number in range(6):
        place = folder / "classes" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / f"pairs/{number}.jpg", place)
    evaluate(folder)


def _read_suite(folder: Path) -> None:
    with restricted("evaluate"):
        Suite.read(str(folder / "suite.yaml"))


def _read_curation(folder: Path) -> None:
    with restricted("data curate"):
        CurationSettings.parse(read_mapping(folder / "curate.yaml", "config"))


_FAMILIES = ("CLIP", "ChineseCLIP", "Siglip")
_INPUTS = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
KINDS: dict[str, Kind] = {
    **{name: _table(name) for name in MAKERS},
    "index of shards": Kind(_index, "a.tar.index", mutated, lambda folder: read_all(folder / "a.tar")),
    "suite.yaml": Kind(partial(_write, "suite.yaml", SUITE), "suite.yaml", mutated_yaml, _read_suite),
    "curate.yaml": Kind(partial(_write, "curate.yaml", CURATE), "curate.yaml", mutated_yaml, _read_curation),
    "recipe.yaml": Kind(_recipe, "recipe.yaml", mutated_yaml, _plan, 0.5),
    "bytes of a checkpoint": Kind(_checkpoint, "a.ckpt", mutated, partial(classify, model="a.ckpt")),
    "content of a checkpoint": Kind(_checkpoint, "a.ckpt", mutated_checkpoint, partial(classify, model="a.ckpt")),
    "lightning_clip.json": Kind(_ours, "model/lightning_clip.json", mutated_json, classify),
    "model.safetensors": Kind(_ours, "model/model.safetensors", mutated_tensors, classify),
    "open_clip_config.json": Kind(_open_clip, "model/open_clip_config.json", mutated_json, classify),
    "open_clip_config.json of timm": Kind(_timm, "model/open_clip_config.json", mutated_json, classify),
    "open_clip_model.safetensors": Kind(_open_clip, "model/open_clip_model.safetensors", mutated_tensors, classify),
    **{
        f"config.json of {kind}": Kind(partial(_transformers, kind), "model/config.json", mutated_json, classify)
        for kind in _FAMILIES
    },
    **{file: Kind(partial(_transformers, "ChineseCLIP"), f"model/{file}", mutated_json, classify) for file in _INPUTS},
    "transformers' weights": Kind(partial(_transformers, "CLIP"), "model/model.safetensors", mutated_tensors, classify),
    "a suite evaluated": Kind(_evaluated, "suite.yaml", mutated_yaml, evaluate, 0.5),
    "kept results": Kind(_evaluated, "out/results/*zero_shot.json", mutated_json, evaluate, 0.25),
    "kept features": Kind(_evaluated, "out/features/*/a-*.safetensors", mutated_tensors, evaluate, 0.25),
    "kept classifiers": Kind(_evaluated, "out/features/*/prompts-*.safetensors", mutated_tensors, evaluate, 0.1),
}  # fmt: skip


def placed(kind: Kind, whole: Path, folder: Path) -> Path:
    """The file that is mutated, in a folder that shares all others with `whole`."""
    import os

    shutil.copytree(whole, folder, copy_function=os.link)
    found = sorted(folder.glob(kind.file))
    assert found, (kind.file, json.dumps([str(path) for path in folder.rglob("*")][:50]))
    for path in folder.rglob("*"):  # what commands write must not reach the shared files
        if path.is_file() and "out" in path.parts:
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
    return found[0]


__all__ = ["KINDS", "InputError", "Kind", "placed"]
