"""`lightning-clip export`: a checkpoint or published weights as a folder that another library reads."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from lightning_clip.core.trust import typed

if TYPE_CHECKING:
    from lightning_clip.export.evaluated import Evaluation

__all__ = ["add_arguments", "run"]

_EVALUATION = (
    "for the model card: what `lightning-clip evaluate` wrote (default: a report on these very weights in a folder beside the "
    "checkpoint)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "checkpoint", metavar="MODEL", help="a .ckpt, open_clip:NAME/TAG_OR_FILE, hf:NAME_OR_FOLDER or a folder"
    )
    parser.add_argument(
        "--format",
        required=True,
        help="huggingface, onnx, open_clip, safetensors, timm (its image tower), torch-export or one of a module of yours",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="to create; an existing one is never replaced")
    parser.add_argument(
        "--towers",
        action="store_true",
        help="its towers alone, without what stands beside them, such as a classifier's head",
    )
    parser.add_argument("--recipe", metavar="FILE.yaml", help="for the model card (default: config.yaml beside the checkpoint)")
    parser.add_argument("--evaluation", metavar="FOLDER", help=_EVALUATION)
    parser.add_argument(
        "--allow-pickle", action="store_true", help="read files that may run code; only if you trust the author"
    )
    parser.add_argument("--push-to-hub", metavar="REPOSITORY", help="then upload the folder, such as me/my-clip")


def run(arguments: argparse.Namespace) -> None:
    """Writes, reads back, compares and prints the largest differences.

    Raises:
        InputError: weights that cannot be read, or a format that cannot hold them.
    """
    from lightning_clip.commands.quiet import quiet
    from lightning_clip.evaluation.models import PredictorModel
    from lightning_clip.export.card import Run
    from lightning_clip.export.export import export, push_to_hub
    from lightning_clip.loading import open_for_use

    quiet()
    with typed() if arguments.allow_pickle else nullcontext():
        module = open_for_use(arguments.checkpoint, allow_pickle=arguments.allow_pickle)
        known = Run.of(
            arguments.checkpoint,
            arguments.recipe,
            arguments.evaluation,
            arguments.allow_pickle,
            identity=lambda: PredictorModel(module.predictor).identity,
        )
    done = export(module, arguments.format, arguments.output, known, towers=arguments.towers)
    size = sum(file.stat().st_size for file in done.folder.rglob("*") if file.is_file())
    print(f"wrote {done.folder} ({size / 1e6:,.1f} MB), with a model card in README.md")
    if known.evaluation is not None:
        print(_evaluated(known.evaluation, len(known.evaluation.figures(known.identity))))
    print(f"read back: {_differences(done.differences)}")
    if arguments.push_to_hub:
        print(f"uploaded to {push_to_hub(done.folder, arguments.push_to_hub)}")


def _evaluated(evaluation: Evaluation, figures: int) -> str:
    """Which report the card has, and whether its figures are those of these weights."""
    if figures:
        return f"evaluation: {evaluation.place}, {figures} figures in the card's model-index"
    names = ", ".join(evaluation.models) or "which, it does not say"
    return f"evaluation: {evaluation.place} measured other weights ({names}): its table is in the card, no model-index"


def _differences(found: Mapping[str, float]) -> str:
    """In words, column by column."""
    named = {"image": "images", "text": "texts"}
    columns = sorted(found, key=lambda column: (column not in named, column))
    words = [f"{named.get(column, f'weights of {column}')}{{}} by {{}}{found[column]:.1e}" for column in columns]
    return ", ".join([words[0].format(" differ", "at most "), *(word.format("", "") for word in words[1:])])
