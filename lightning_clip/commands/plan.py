"""`lightning-clip plan`: time and memory of a run, before it begins."""

from __future__ import annotations

import argparse
import json

from lightning_clip.core.errors import InputError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command; others, such as --data.local_batch_size=64, change the recipe as in `fit`."""
    parser.add_argument("--config", "-c", action="append", required=True, metavar="RECIPE.yaml", help="may be repeated")
    parser.add_argument("--devices", type=int, help="how many in all (default: the recipe's devices x num_nodes)")
    parser.add_argument("--device", default="h100", help="such as v100, a100, h100, l4, mi300x (default: %(default)s)")
    parser.add_argument("--precision", help="such as bf16-mixed (default: the recipe's)")
    parser.add_argument("--strategy", help="ddp, clip_fsdp2, clip_deepspeed_stage_1|2|3 (default: the recipe's)")
    parser.add_argument("--micro-batch-size", type=int, help="pairs encoded at a time (default: the recipe's)")
    parser.add_argument("--mfu", type=float, default=0.3, help="share of the peak that is reached (default: %(default)s)")
    parser.add_argument("--samples", help="pairs seen in all, such as 12.8e9 (default: what the recipe comes to)")
    parser.add_argument("--caption-length", type=int, help="tokens of a padded caption (default: the tokenizer's most)")
    parser.add_argument("--peak-flops", type=float, help="FLOP/s of a device that is not known, or measured, such as 2e13")
    parser.add_argument("--device-memory", type=float, metavar="GIB", help="memory of a device that is not known")
    parser.add_argument("--json", action="store_true", help="plain figures: FLOPs, bytes, seconds")
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> None:
    """Prints the plan."""
    from rich.table import Table

    from lightning_clip.commands.quiet import quiet
    from lightning_clip.commands.recipe import read_recipe
    from lightning_clip.planning import Machines, find_device, make_plan
    from lightning_clip.planning.tables import plan_mapping, plan_tables
    from lightning_clip.reporting.terminal import PlainConsole

    quiet()
    recipe = read_recipe(arguments.config, arguments.overrides)
    memory = None if arguments.device_memory is None else arguments.device_memory * 2**30
    machines = Machines(
        find_device(arguments.device, arguments.peak_flops, memory),
        recipe.devices if arguments.devices is None else arguments.devices,
        arguments.precision or str(recipe.trainer.get("precision") or "32-true"),
        arguments.strategy or recipe.strategy,
        arguments.mfu,
    )
    micro = arguments.micro_batch_size
    accumulate = int(recipe.trainer.get("accumulate_grad_batches") or 1)
    local = recipe.data.local_batch_size
    given = arguments.samples
    samples = recipe.samples(local * machines.count * accumulate) if given is None else _count(given)
    recipe.module.read_data(recipe.data)
    plan = make_plan(
        recipe.module,
        machines,
        samples=samples,
        local_batch_size=local,
        micro_batch_size=recipe.module.micro_batch_size if micro is None else micro,
        accumulate=accumulate,
        caption_length=arguments.caption_length,
    )
    if arguments.json:
        print(json.dumps(plan_mapping(plan), indent=2))
    else:
        console = PlainConsole(highlight=False)
        for table in plan_tables(plan, "Plan of " + " + ".join(arguments.config)):
            console.print(table, soft_wrap=not isinstance(table, Table))
            console.print()


def _count(text: str) -> int:
    try:
        number = float(text)
    except ValueError as error:
        raise InputError(f"--samples {text!r} is no number: write 400000000 or 4e8") from error
    if number < 1:
        raise InputError(f"--samples {text} must be at least 1")
    return int(number)
