"""The suite "limits": what models of this family find hard, without a file of one's own."""

from __future__ import annotations

from typing import Any

from lightning_clip.prompts.sets.roots import datasets_folder

__all__ = ["WORDS", "limits_suite"]

# Common English nouns of three to ten letters, some spelt alike.
WORDS = [
    "house",
    "mouse",
    "horse",
    "boat",
    "coat",
    "goat",
    "table",
    "cable",
    "apple",
    "bottle",
    "river",
    "silver",
    "window",
    "winter",
    "school",
    "garden",
    "market",
    "pocket",
    "rocket",
    "bridge",
    "kitchen",
    "chicken",
    "mountain",
    "fountain",
    "umbrella",
    "elephant",
    "telephone",
    "newspaper",
    "hospital",
    "library",
    "paper",
    "pepper",
    "letter",
    "lettuce",
    "button",
    "cotton",
    "candle",
    "handle",
    "hammer",
    "summer",
]
_SIDE = 224
_SIGNS = ["a sign that says {}", "the word {}", "a picture of the word {}"]
_OBJECTS = ["a {}", "a picture of a {}", "a photo of a {}"]


def limits_suite() -> dict[str, Any]:
    """Settings of the suite; MNIST is part of it where torchvision's files are in `datasets_folder()`.

    Examples:
        >>> list(limits_suite()["sets"])[-3:]
        ['reading', 'signs', 'objects']
    """
    scenes = {"split": "test", "image_size": _SIDE}
    puzzles = {"name": "puzzles", **scenes, "size": 600, "protocols": ["choices"]}
    sets: dict[str, Any] = {"digits": {"name": "digits", "protocols": ["zero_shot"]}}
    if (datasets_folder() / "MNIST" / "raw").is_dir():
        sets["mnist"] = {"name": "mnist", "protocols": ["zero_shot"]}
    sets |= {kind: {**puzzles, "kind": kind} for kind in ("counting", "relations", "twins")}
    read = {"templates": _SIGNS, "protocols": ["reading"]}
    sets["reading"] = {"name": "rendered_text", "texts": WORDS, "size": 400, "image_size": _SIDE, **read}
    sets["signs"] = {"name": "signs", "show": "sign", **scenes, "size": 400, **read}
    sets["objects"] = {
        **{"name": "signs", "show": "object", **scenes, "size": 400, "val": {"split": "val"}},
        **{"templates": _OBJECTS, "protocols": ["zero_shot", "typography"]},
    }
    return {"output": "limits", "sets": sets}
