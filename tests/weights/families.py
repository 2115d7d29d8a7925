"""Small models of every family with random weights, made by the libraries themselves, as folders that those libraries read."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

CAPTIONS = ["a dog", "a photo of two cats on the beach", "一只狗在海边", "A Red bus, in the rain!", ""]
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz一只狗在海边,.!",
    "##a",
    "##o",
    "##t",
    "dog",
    "cat",
]
VIT = {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32}
TEXT = {"width": 32, "heads": 4, "layers": 2}


def shaken(model: nn.Module) -> Any:
    """Random numbers on top of the initial ones: gains of 1 and biases of 0 would hide a mix-up."""
    torch.manual_seed(0)
    statistics = [value for key, value in model.named_buffers() if "running_" in key]
    for value in [*model.parameters(), *statistics]:
        value.data += 0.02 * torch.randn_like(value)
    return model.eval()


def bert_tokenizer(folder: Path, length: int = 32) -> Any:
    """A BERT tokenizer with a vocabulary of its own."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), "utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


@cache
def _clip_tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizerFast

    bpe = SimpleTokenizer()
    encoder = dict(bpe.encoder)
    encoder["<|startoftext|>"] = encoder.pop("<start_of_text>")
    encoder["<|endoftext|>"] = encoder.pop("<end_of_text>")
    merges = [pair for pair, _ in sorted(bpe.bpe_ranks.items(), key=lambda item: item[1])]
    return CLIPTokenizerFast(vocab=encoder, merges=merges, model_max_length=77)


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer as transformers keeps it, from the vocabulary that open_clip carries.

    A copy: a call with `truncation=` changes the tokenizer and what it saves.
    """
    tokenizer = copy.deepcopy(_clip_tokenizer())
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def open_clip_folder(folder: Path, config: dict[str, Any], preprocess: dict[str, Any] | None = None) -> Any:
    """Writes a folder that open_clip reads and returns its model."""
    from open_clip import create_model

    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], **(preprocess or {})}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    model = shaken(create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return model


def transformers_folder(folder: Path, config: Any, tokenizer: str, processor: Any) -> Any:
    """Writes a folder that transformers reads and returns its model."""
    from transformers import AutoModel

    model = shaken(AutoModel.from_config(config))
    model.save_pretrained(folder)
    (clip_tokenizer if tokenizer == "clip" else bert_tokenizer)(folder)
    processor.save_pretrained(folder)
    return model


def pictures(size: int = 32, count: int = 3) -> Tensor:
    """Random uint8 pixels (count, 3, size, size)."""
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
