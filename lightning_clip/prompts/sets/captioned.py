"""Sets with captions for retrieval: Flickr30k, COCO, Crossmodal-3600, and the Chinese ones that Chinese-CLIP measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.types import Pair
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.prompts.evaluation_sets import EvaluationSet, evaluation_sets
from lightning_clip.prompts.sets.foldered import first_folder
from lightning_clip.prompts.sets.known import open_known, opener_of, register

__all__ = ["CrossmodalCaptions"]

_PICTURES = {"flickr30k": ("flickr30k-images", "flickr30k_images", "Images", "images"), "coco": ("images", ".")}


class CrossmodalCaptions(PairSource):
    """Pictures of Crossmodal-3600 with their captions in one language.

    Args:
        path: folder with captions.jsonl and images/.
        language: a key of the lines, such as "sw" or "zh".

    Raises:
        InputError: no such files, or no captions in that language.
    """

    def __init__(self, path: Path, language: str = "en") -> None:
        file, self._folder = path / "captions.jsonl", first_folder(path, "images")
        try:
            rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise InputError(f"{str(file)!r} cannot be read as lines of JSON ({error}): unpack captions.zip there") from error
        known = [key for key, value in rows[0].items() if isinstance(value, dict) and "caption" in value] if rows else []
        if language not in known:
            raise InputError(f"{str(file)!r} has no captions in language {language!r}: {nearest(language, known)}")
        self._rows = [(row["image/key"], tuple(row[language]["caption"])) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Pair:
        key, captions = self._rows[index]
        return Pair((self._folder / f"{key}.jpg").read_bytes(), captions, key)

    def captions(self, index: int) -> tuple[str, ...]:
        """Those in the language."""
        return self._rows[index][1]


@evaluation_sets.register("crossmodal3600")
def _crossmodal3600(root: str | None = None, language: str = "en") -> EvaluationSet:
    """Crossmodal-3600 in one of its 36 languages.

    Args:
        root: of all sets; None for `datasets_folder()`.
        language: such as "sw" or "zh".
    """

    def read(place: Path) -> EvaluationSet:
        return EvaluationSet(CrossmodalCaptions(place, language), [], ["{}"])

    return open_known("crossmodal3600", opener_of("crossmodal3600", read), root)


def _karpathy(file: str, folders: Sequence[str], place: Path) -> EvaluationSet:
    """Karpathy's JSON of the splits, and a folder of pictures."""
    if not (place / file).is_file():
        raise InputError(f"{str(place)!r} has no {file}: put Karpathy's splits there (caption_datasets.zip)")
    pictures = str(first_folder(place, *folders))
    table = {"name": str(place / file), "images": pictures, "where": {"split": "test"}}
    return EvaluationSet(pair_sources.build(table), [], ["{}"])


def _chinese_clip(split: str, place: Path) -> EvaluationSet:
    """SPLIT_imgs.tsv and SPLIT_texts.jsonl, as Chinese-CLIP hands them out."""
    return EvaluationSet(pair_sources.build({"name": "chinese_clip", "path": str(place), "split": split}), [], ["{}"])


register("flickr30k", partial(_karpathy, "dataset_flickr30k.json", _PICTURES["flickr30k"]))
register("coco_captions", partial(_karpathy, "dataset_coco.json", _PICTURES["coco"]))
register("flickr30k_cn", partial(_chinese_clip, "test"))
register("coco_cn", partial(_chinese_clip, "test"))
register("muge", partial(_chinese_clip, "valid"))
