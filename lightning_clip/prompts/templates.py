"""Prompt templates, strings with {} for the class name, by the name of a set or as given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_clip.core.errors import InputError, nearest

__all__ = ["TEMPLATE_SETS", "resolve_templates", "templates"]


def _imagenet() -> list[str]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES  # here: importing open_clip is slow

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]


def _imagenet_simple() -> list[str]:
    from open_clip import SIMPLE_IMAGENET_TEMPLATES

    return [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES]


# A set of your own: TEMPLATE_SETS["food"] = lambda: ["a photo of {}, a type of food."]
TEMPLATE_SETS: dict[str, Callable[[], list[str]]] = {
    "plain": lambda: ["{}"],
    "simple": lambda: ["a photo of a {}."],
    "imagenet": _imagenet,
    "imagenet_simple": _imagenet_simple,
}


def templates(name: str) -> list[str]:
    """A named set: "plain", "simple", CLIP's 80 for "imagenet", its best 7 for "imagenet_simple".

    The last two are OpenAI's, as open_clip ships them
    (https://github.com/openai/CLIP/blob/main/notebooks/Prompt_Engineering_for_ImageNet.ipynb).

    Args:
        name: a key of `TEMPLATE_SETS`.

    Returns:
        Strings with {} where the class name goes.

    Raises:
        InputError: no such set; the message lists the known ones and the nearest.

    Examples:
        >>> templates("simple")
        ['a photo of a {}.']
    """
    if name not in TEMPLATE_SETS:
        raise InputError(
            f"unknown template set {name!r}: {nearest(name, TEMPLATE_SETS)}. "
            "A template of your own has {} where the class name goes."
        )
    return TEMPLATE_SETS[name]()


def resolve_templates(spec: str | Sequence[str]) -> list[str]:
    """Templates from a set's name, one template, or a list of templates.

    Args:
        spec: a string with braces is a template, one without a set's name.

    Returns:
        At least one string, each with {} where the class name goes.

    Raises:
        InputError: an unknown set, an empty list, or a template without {}.

    Examples:
        >>> resolve_templates("a drawing of a {}")
        ['a drawing of a {}']
        >>> resolve_templates(["{}的照片", "一张{}的图片"])
        ['{}的照片', '一张{}的图片']
    """
    if isinstance(spec, str):
        return resolve_templates([spec]) if "{" in spec else templates(spec)
    if not isinstance(spec, Sequence):
        raise InputError(f"templates {spec!r} must be a set's name, one template such as 'a photo of a {{}}.', or a list")
    if len(spec) == 0:
        raise InputError("templates is an empty list: give at least one, such as 'a photo of a {}.'")
    for template in spec:
        if not isinstance(template, str):
            raise InputError(f"template {template!r} must be a string such as 'a photo of a {{}}.': CLIP's own sets have names")
        if "{}" not in template:
            raise InputError(
                f"template {template!r} must have one {{}} where the class name goes, such as 'a photo of a {{}}.'"
            )
    return list(spec)
