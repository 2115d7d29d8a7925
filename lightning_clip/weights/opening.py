"""Weights from anywhere: a name, folder or file arrives, arguments of `ClipModule` and its weights leave."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.network import hub_or_cache, is_hub_name
from lightning_clip.core.settings import expanded
from lightning_clip.data.tokenizers import tokenizers
from lightning_clip.encoders.padding import side_mapping
from lightning_clip.model.recipe import DEFAULT_EMBED_DIM, NO_TOWER, Recipe, TowerSpec
from lightning_clip.objectives import build_objective
from lightning_clip.weights.names import existing_source
from lightning_clip.weights.over_images import over_images
from lightning_clip.weights.own import SETTINGS_FILE, open_checkpoint, open_folder
from lightning_clip.weights.source import Pretrained, Source

__all__ = ["open_pretrained", "start_from"]

_KINDS = "pretrained (a checkpoint, open_clip:NAME/TAG, hf:NAME or a folder)"


def open_pretrained(value: str | Path | Mapping[str, Any] | Source) -> Pretrained:
    """Opens weights from anywhere, on the CPU; nothing in a file is executed unless `allow_pickle` says so.

    Raises:
        InputError: nothing of that name, no network, a file that is broken or of another architecture, or a size that the
            towers cannot take.
    """
    source = Source.of(value)
    # Here and below: each of these libraries is slow to import.
    if source.source.startswith("open_clip:"):
        from lightning_clip.weights.from_open_clip import open_open_clip

        name = source.source.removeprefix("open_clip:")
        with hub_or_cache(f"pretrained {source.source!r}") if _may_download(name) else nullcontext():
            return open_open_clip(name, source)
    if source.source.startswith("hf:"):
        from lightning_clip.weights.from_transformers import open_transformers

        name = expanded(source.source.removeprefix("hf:"))
        with hub_or_cache(f"pretrained {source.source!r}") if is_hub_name(name) else nullcontext():
            return open_transformers(name, source)
    return _open_path(existing_source(source.source, _KINDS), source)


def _open_path(path: Path, source: Source) -> Pretrained:
    if (path / SETTINGS_FILE).is_file():
        return open_folder(path, source)
    if (path / "open_clip_config.json").is_file():
        from lightning_clip.weights.from_open_clip import open_open_clip

        return open_open_clip(f"local-dir:{path}", source)
    if (path / "config.json").is_file():
        from lightning_clip.weights.from_transformers import open_transformers

        return open_transformers(str(path), source)
    return open_checkpoint(path, source)


def _may_download(name: str) -> bool:
    """Whether weights of open_clip are named by a tag or a repository, and not by a file or folder."""
    return not name.startswith("local-dir:") and is_hub_name(name.partition("/")[2])


def start_from(pretrained: str | Mapping[str, Any] | Source | None, given: Recipe) -> tuple[Recipe, Pretrained | None]:
    """Completes what a user gave: with what `pretrained` brings, or with the defaults.

    Args:
        pretrained: see `Source`; None starts from random weights.
        given: the user's, None meaning not given. A tower that is given is new, and so is its head; a mapping for
            `transform` changes single settings.

    Returns:
        The whole recipe, and the weights.

    Raises:
        InputError: as `open_pretrained`, or arguments that leave nothing of the source.
    """
    if pretrained is None:
        return replace(given, embed_dim=given.embed_dim or DEFAULT_EMBED_DIM, objective=_chosen(given, "pairs")), None
    found = open_pretrained(pretrained)
    given, found.inside = over_images(given, found)
    new = _new_towers(given, found)
    recipe = Recipe(
        {column: _completed(column, given, found, column in new) for column in {**found.recipe.towers, **given.towers}},
        found.recipe.embed_dim,
        _chosen(given, build_objective(found.recipe.objective).inherited() or "pairs"),
        _tokenizer(given, found, "text" in new),
    )
    found.replaced = tuple(prefix for column in new for prefix in _prefixes(column))
    found.weights = {key: value for key, value in found.weights.items() if not key.startswith(found.replaced)}
    found.parts = {} if new else found.parts  # which belong to the towers that were there
    if found.parts and given.objective is not None:  # whose vocabulary may be another one
        scoring = build_objective(found.recipe.objective).scoring_parts
        found.parts = {key: value for key, value in found.parts.items() if key.partition(".")[0] not in scoring}
    return recipe, found


def _chosen(given: Recipe, otherwise: Any) -> Any:
    """The objective that was given, be it an empty list, which is refused later."""
    return otherwise if given.objective is None else given.objective


def _prefixes(column: str) -> tuple[str, str]:
    """How the names of the weights of a column's tower and head begin."""
    return f"{column}_encoder.", f"{column}_projection."


def _new_towers(given: Recipe, found: Pretrained) -> list[str]:
    """Columns whose tower the user gave, which then begins with random weights."""
    new = [column for column, spec in given.towers.items() if spec.tower is not None]
    if new and set(found.recipe.towers) <= set(new):
        raise InputError(f"both towers are given, so that nothing of pretrained {found.name!r} is left: omit one of them")
    if given.embed_dim not in (None, found.recipe.embed_dim):
        raise InputError(
            f"embed_dim {given.embed_dim} is not that of pretrained {found.name!r}, {found.recipe.embed_dim}: omit it"
        )
    return new


def _completed(column: str, given: Recipe, found: Pretrained, new: bool) -> TowerSpec:
    """A column's tower: the source's with the user's settings, or the user's own with a plain linear head."""
    own, theirs = given.towers.get(column, TowerSpec()), found.recipe.towers.get(column, TowerSpec())
    if own.share is not None:
        return own
    if new:
        return own.over(TowerSpec(None, "linear", theirs.transform))
    spec = own.over(theirs)
    if column == "text" and given.tokenizer is not None and found.recipe.tokenizer is None:
        spec = replace(spec, tower=_padded_by(given.tokenizer, spec.tower))
    return spec


def _tokenizer(given: Recipe, found: Pretrained, new_text: bool) -> Any:
    """The user's tokenizer or the source's."""
    if new_text:
        return given.tokenizer
    if given.tokenizer is None:
        if found.problem is not None and _reads_texts(given):
            raise found.problem
        return found.recipe.tokenizer
    if found.recipe.tokenizer is not None:
        _check_vocabulary(found, given.tokenizer)
    return given.tokenizer


def _reads_texts(given: Recipe) -> bool:
    spec = given.towers.get("text")
    return spec is None or spec.tower != NO_TOWER


def _padded_by(tokenizer: Any, tower: Any) -> Any:
    """A text tower that pads captions itself, with the id and on the side of the tokenizer if the source told none."""
    if tower.get("pad_id", 0) is not None:
        return tower
    built = tokenizers.build(tokenizer)
    return {**tower, "pad_id": built.pad_id, **side_mapping(built.padding_side)}


def _check_vocabulary(found: Pretrained, tokenizer: Any) -> None:
    given, expected = tokenizers.build(tokenizer), tokenizers.build(found.recipe.tokenizer)
    if given.vocab_size != expected.vocab_size:
        raise InputError(
            f"the tokenizer has {given.vocab_size} ids but the text tower of {found.name!r} was trained with "
            f"{expected.vocab_size}: omit tokenizer, or give the one that belongs to these weights"
        )
