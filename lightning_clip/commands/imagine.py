"""`lightning-clip imagine`: a picture that a model finds most like some words."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_clip.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_arguments", "run"]

# Pictures on the sheet of --progress.
_SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("text", metavar="WORDS", help='what to show, such as "a blue ring"; "a blue ring=2" gives it a weight')
    parser.add_argument("--and", dest="also", action="append", default=[], metavar="WORDS[=WEIGHT]", help="and this")
    parser.add_argument(
        "--not", dest="without", action="append", default=[], metavar="WORDS[=WEIGHT]", help="but not this (weight: 0.5)"
    )
    parser.add_argument(
        "--against", action="append", default=[], metavar="WORDS", help="what else it might be: the margin over these grows"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        metavar="MODEL",
        help="the judge: a .ckpt, open_clip:NAME/TAG, hf:NAME, or a folder; of several the mean counts",
    )
    parser.add_argument("--output", required=True, metavar="FILE.png", help="where the picture goes")
    parser.add_argument("--progress", metavar="FILE.png", help="a sheet of pictures on the way there, as well")
    parser.add_argument("--canvas", default="resolutions", help="resolutions or fourier (default: %(default)s)")
    parser.add_argument("--start", type=float, default=0.5, help="the grey to begin from, 0 to 1 (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of the ascent (default: %(default)s)")
    parser.add_argument("--views", type=int, default=8, help="looked at in each step, moved at random (default: %(default)s)")
    parser.add_argument("--shift", type=float, default=0.15, help="of a view, in sides of the picture (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.02, help="on a view; pixels go from 0 to 1 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of shifts and noise (default: %(default)s)")
    parser.add_argument("--device", help="such as cuda or cpu (default: a GPU where there is one)")


def run(arguments: argparse.Namespace) -> None:
    """Writes the picture, and prints how much it is like the words.

    Raises:
        InputError: an empty text, a weight that is no number, a setting out of range, or a file that cannot be written.
    """
    from rich.progress import Progress

    from lightning_clip.applications.generation import imagine
    from lightning_clip.commands.quiet import quiet
    from lightning_clip.loading import open_predictor

    for path in filter(None, (arguments.output, arguments.progress)):
        if not path.lower().endswith(".png"):
            raise InputError(f"{path!r} must end with .png")
    quiet()
    prompts = dict([weighed(text, 1.0) for text in (arguments.text, *arguments.also)])
    prompts |= {text: -weight for text, weight in (weighed(text, 0.5) for text in arguments.without)}
    predictors = [open_predictor(source) for source in arguments.checkpoint]
    for predictor in predictors:
        _place(predictor.model, arguments.device)
    on_the_way: list[tuple[int, Tensor]] = []
    shown = {1 + round(part * (arguments.steps - 1) / (_SHOWN - 1)) for part in range(_SHOWN)}
    with Progress(transient=True) as bar:
        task = bar.add_task("imagining", total=arguments.steps)

        def watch(step: int, picture: Tensor) -> None:
            if step in shown:
                on_the_way.append((step, (picture * 255).round().byte().cpu()))
            bar.advance(task)

        options = {name: getattr(arguments, name) for name in ("against", "steps", "views", "shift", "noise", "seed")}
        canvas = {"name": arguments.canvas, "start": arguments.start}
        found = imagine(predictors, prompts, canvas=canvas, **options, watch=watch)
    _write(found.image, arguments.output)
    kind = "margin" if arguments.against else "cosine similarity"
    print(f"{arguments.output}: {kind} {found.scores[0]:.3f} at the first step, {found.scores[-1]:.3f} at the last")
    if arguments.progress:
        _sheet(on_the_way, found.scores, arguments.progress)
        print(f"sheet: {arguments.progress}")


def _place(model: Any, device: str | None) -> None:
    import torch

    try:
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def weighed(text: str, usual: float) -> tuple[str, float]:
    """A text and its weight, which may follow behind "=".

    Examples:
        >>> weighed("a blue ring", 1.0), weighed("a star=0.25", 1.0)
        (('a blue ring', 1.0), ('a star', 0.25))
    """
    found = re.fullmatch(r"(.*)=\s*(\d*\.?\d+)\s*", text, re.DOTALL)
    return (found[1].strip(), float(found[2])) if found else (text, usual)


def _write(image: Tensor, path: str) -> None:
    from torchvision.io import encode_png

    from lightning_clip.core.atomic import beside

    with beside(Path(path)) as place:
        place.write_bytes(encode_png(image).numpy().tobytes())


def _sheet(pictures: list[tuple[int, Any]], scores: list[float], path: str) -> None:
    from lightning_clip.reporting.plots import save_figure
    from lightning_clip.reporting.sheets import contact_sheet

    titles = [f"step {step}: {scores[step - 1]:.2f}" for step, _ in pictures]
    save_figure(contact_sheet([picture.numpy() for _, picture in pictures], titles), path)
