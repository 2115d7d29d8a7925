"""Models opened for use, from a checkpoint of ours or weights of others: the module, or its predictor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_clip.checkpoints.fit import check_finite_weights
from lightning_clip.checkpoints.reading import is_ours
from lightning_clip.model.predictor import Predictor
from lightning_clip.weights.names import existing_source
from lightning_clip.weights.trained import TrainedModel, open_checkpoint_plainly, open_trained

if TYPE_CHECKING:
    from lightning_clip.module.clip_module import ClipModule

__all__ = ["is_name", "open_for_use", "open_module", "open_predictor"]


def is_name(source: str) -> bool:
    """Whether a source names weights of a library or a hub, and not a path.

    Args:
        source: as for `open_module`.

    Examples:
        >>> is_name("open_clip:ViT-B-32/openai"), is_name("runs/mine/last.ckpt")
        (True, False)
    """
    return source.startswith(("open_clip:", "hf:"))


def open_module(source: str | Path, *, allow_pickle: bool = False) -> ClipModule:
    """A checkpoint of ours as the class that wrote it, or whatever else `ClipModule.from_pretrained` takes.

    Args:
        source: a .ckpt, `open_clip:NAME/TAG_OR_FILE`, `hf:NAME_OR_FOLDER`, a folder or a file of weights.
        allow_pickle: read files that may run code; only if you trust the author.

    Raises:
        InputError: nothing of that name, weights that do not fit or are not finite, or weights that would have to be
            downloaded without network.
    """
    from lightning_clip.module.clip_module import ClipModule  # here: what only uses a model starts without Lightning

    if (path := _checkpoint(str(source))) is None:
        module = ClipModule.from_pretrained(str(source), allow_pickle=allow_pickle)
    else:
        module = ClipModule.load_from_checkpoint(path, weights_only=not allow_pickle)
    check_finite_weights(str(source), module.model.state_dict())
    return module


def open_for_use(source: str | Path, *, allow_pickle: bool = False) -> TrainedModel | ClipModule:
    """A model that is used and not trained: without Lightning where that goes, else the module.

    It goes for all but checkpoints of subclasses of `ClipModule` and of adapted models.

    Args:
        source: as for `open_module`.
        allow_pickle: as for `open_module`.

    Raises:
        InputError: as `open_module`.
    """
    if (path := _checkpoint(str(source))) is None:
        found: TrainedModel | None = open_trained(source, allow_pickle=allow_pickle)
    else:
        found = open_checkpoint_plainly(path, allow_pickle=allow_pickle)
    if found is None:
        return open_module(source, allow_pickle=allow_pickle)
    check_finite_weights(str(source), found.model.state_dict())
    return found


def _checkpoint(source: str) -> Path | None:
    """The path of a checkpoint of ours; None for other sources.

    Raises:
        InputError: a path where nothing is.
    """
    if is_name(source):
        return None
    kind = "checkpoint" if source.endswith(".ckpt") else "model (a checkpoint, open_clip:NAME/WEIGHTS, hf:NAME or a folder)"
    path = existing_source(source, kind)
    return path if path.is_file() and (path.suffix == ".ckpt" or is_ours(path)) else None


def open_predictor(source: str | Path, *, allow_pickle: bool = False) -> Predictor:
    """The predictor of a checkpoint of ours or of weights of others, on the CPU: what a program that uses a model needs.

    Args:
        source: as for `open_module`.
        allow_pickle: as for `open_module`.

    Raises:
        InputError: as `open_module`.

    Examples:
        >>> predictor = open_predictor("open_clip:ViT-B-32/openai")  # doctest: +SKIP
        >>> predictor.scores(image, ["a cat", "a dog"]).softmax(dim=-1)  # doctest: +SKIP
    """
    return open_for_use(source, allow_pickle=allow_pickle).predictor
