"""Pictures of an evaluation set as files: what the command that a report prints can be tried on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchvision.io import write_png

from lightning_clip.callbacks.zero_shot import ZeroShotClassification
from lightning_clip.core.atomic import beside, safe_name

__all__ = ["save_pictures"]

_SIDE = 192  # to look at: those of small models are smaller than an icon


def save_pictures(folder: Path, zero_shot: Sequence[ZeroShotClassification], count: int) -> list[tuple[Path, str]]:
    """Writes pictures of the first set that was evaluated, one of each class as far as they go.

    Args:
        folder: of the files, named by class.
        zero_shot: callbacks with their results.
        count: pictures at most.

    Returns:
        Path and true class of each.
    """
    results = [result for callback in zero_shot for result in callback.results.values()]
    if not results or count < 1:
        return []
    found: list[tuple[Path, str]] = []
    for image, label, *_ in results[0].examples:  # (3, S, S)
        name = results[0].class_names[label]
        path = folder / f"{safe_name(name)}.png"
        if len(found) == count or path in (taken for taken, _ in found):
            continue
        times = max(1, _SIDE // image.shape[-1])
        with beside(path) as place:
            write_png(image.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2).contiguous().cpu(), str(place))
        found.append((path, name))
    return found
