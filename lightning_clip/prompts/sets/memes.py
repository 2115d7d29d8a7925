"""Hateful Memes: pictures with words on them, hateful or not, from the authors' JSON lines."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from lightning_clip.core.errors import InputError
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.sets.counted import LabelledPictures
from lightning_clip.prompts.sets.known import register
from lightning_clip.prompts.sets.lazy import LazySource
from lightning_clip.prompts.sets.paper_words import paper_class_names
from lightning_clip.prompts.sets.templates import SET_TEMPLATES

__all__: list[str] = []

_FILES = {"test": ("dev_seen.jsonl", "dev.jsonl"), "train": ("train.jsonl",)}  # labels of the authors' test are not public


def _split(place: Path, split: str) -> LabelledPictures:
    found = next((place / name for name in _FILES[split] if (place / name).is_file()), None)
    if found is None:
        raise InputError(f"{str(place)!r} has no {' or '.join(_FILES[split])}: unpack Hateful Memes there")
    try:
        rows = [json.loads(line) for line in found.read_text("utf-8").splitlines() if line.strip()]
        pictures = [(place / row["img"], int(row["label"])) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(found)!r} has a line without img and label ({error}): unpack it again") from error
    return LabelledPictures(pictures, [str(name) for name in paper_class_names("hateful_memes")])


def _hateful_memes(place: Path) -> EvaluationSet:
    """dev_seen.jsonl and train.jsonl with img/*.png; the former is the test split, as in the paper."""
    test = _split(place, "test")
    train = LazySource(partial(_split, place, "train"))
    return EvaluationSet(test, test.class_names, SET_TEMPLATES["hateful_memes"], train)


register("hateful_memes", _hateful_memes)
