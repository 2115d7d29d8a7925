"""`lightning-clip start`: a recipe for a folder or a table that nobody has described yet."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_clip.commands.sources import add_table_arguments, source_settings
from lightning_clip.core.errors import InputError

if TYPE_CHECKING:
    from lightning_clip.planning.first_look import Look

__all__ = ["add_arguments", "run"]

_VOCABULARY = 4096
_FOREIGN = 0.3  # share of letters that are not Latin from which a vocabulary is learnt
_LENGTHS = (16, 77)  # tokens of a caption, at least and at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("data", metavar="FOLDER", help="a folder, a table (jsonl, csv, tsv, parquet), or shards")
    add_table_arguments(parser)
    parser.add_argument("--label-column", help="column with the class, to classify by; beside captions it is one of them")
    parser.add_argument("--output", default="recipe.yaml", help="the recipe to write (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=20, help="that the run may take (default: %(default)s)")
    parser.add_argument("--weights", metavar="MODEL", help="a published model or checkpoint to adapt, as fit's pretrained")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="to train on (default: cuda where there is one)")


def run(arguments: argparse.Namespace) -> None:
    """Looks at the data, measures this machine, and writes the recipe."""
    import torch

    from lightning_clip.commands.quiet import quiet
    from lightning_clip.core.atomic import beside
    from lightning_clip.core.trust import typed
    from lightning_clip.planning.first_choices import choose, measured_speed
    from lightning_clip.planning.first_look import look_at
    from lightning_clip.planning.first_recipe import Start, recipe_text

    quiet()
    if not arguments.minutes > 0:
        raise InputError(f"--minutes {arguments.minutes:g} must be above 0")
    output = Path(arguments.output)
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {arguments.output!r} must end in .yaml")
    settings = source_settings(arguments)
    if Path(arguments.data).expanduser().exists():
        settings["name"] = str(Path(arguments.data).expanduser().absolute())  # a recipe may be used from anywhere
    if arguments.label_column:
        settings["label_column"] = arguments.label_column
    with typed():
        look = look_at(settings)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, length = (None, _LENGTHS[1]) if arguments.weights else _vocabulary(look, output)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    choices = choose(look, arguments.minutes, device, measured_speed(device), length, cores)
    labelled = arguments.label_column if look.inspection.captions else None
    start = Start(look, choices, output.stem, arguments.data, arguments.minutes, tokenizer, arguments.weights, labelled)
    with beside(output) as place:
        Path(place).write_text(recipe_text(start), encoding="utf-8")
    _say(arguments.output, start)


def _vocabulary(look: Look, output: Path) -> tuple[str | None, int]:
    """A vocabulary beside the recipe where CLIP's does not know the captions' script, and the tokens that they need."""
    from lightning_clip.data.tokenizers import tokenizers, train_tokenizer

    if look.foreign > _FOREIGN:
        place = output.with_suffix(".tokenizer.json")
        learnt = train_tokenizer(look.captions, _VOCABULARY, _LENGTHS[1])
        learnt.save(str(place))
        return str(place.absolute()), _length(learnt.encode(look.captions[:1000]))
    if not look.captions:
        return None, _LENGTHS[0]
    clip: Any = tokenizers.build({"name": "clip", "context_length": _LENGTHS[1]})
    return None, _length(clip.encode(look.captions[:1000]))


def _length(ids: list[list[int]]) -> int:
    """Tokens that 99 % of the captions need, a multiple of 8."""
    lengths = sorted(map(len, ids))
    needed = lengths[min(len(lengths) - 1, len(lengths) * 99 // 100)]
    return max(_LENGTHS[0], min(_LENGTHS[1], -(-needed // 8) * 8))


def _say(output: str, start: Any) -> None:
    from lightning_clip.planning.first_recipe import expected_time

    look, choices, folder = start.look, start.choices, f"runs/{start.name}"
    tower = start.weights or f"{choices.rung.image['name']} at {choices.rung.image_size} px"
    print(f"{look.pairs:,} training pairs; {look.stages.why}")
    if look.other_texts:
        print(f"other columns of texts, for --caption-column: {', '.join(look.other_texts)}")
    print(f"wrote {output}: {tower}, {choices.epochs} epochs, about {expected_time(start)} on {choices.device}. Next:")
    print(f"  lightning-clip fit --config {output}")
    if look.stages.test is not None or "split" in look.stages.train:
        print(f"  lightning-clip test --config {output} --ckpt_path {folder}/last.ckpt")
    more = "".join(f" --{key} {look.stages.train[key]}" for key in ("images",) if key in look.stages.train)
    print(f"  lightning-clip index build --data {start.data}{more} --checkpoint {folder}/last.ckpt --output {folder}/index")
    print(f"  lightning-clip serve {folder}/index --open      # and {folder}/report.html")
