"""Tables of a plan or a measured run, and the same as a plain mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_clip.planning.devices import peak_flops_of
from lightning_clip.planning.flops import Flops
from lightning_clip.planning.formatting import (
    accelerator_time,
    duration,
    figure_table,
    flops_text,
    gibibytes,
    share_text,
    short,
)
from lightning_clip.planning.ledger import Span
from lightning_clip.planning.plan import Plan

__all__ = ["compute_table", "plan_mapping", "plan_tables"]

_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations and batch",
    "cast_weights": "half-precision weights",
    "loss": "loss",
    "gathered": "features of other devices",
    "communication": "communication buffers",
}


def plan_tables(plan: Plan, title: str) -> list[RenderableType]:
    """The plan as three tables, the run, FLOPs per sample and memory per device, and a remark if it does not fit."""
    run = figure_table(title, ("", "planned"), _run_rows(plan))
    flops = figure_table("FLOPs per sample", ("part", "forward", "backward", "computed again"), _flops_rows(plan))
    memory = figure_table("Memory per device", ("part", "GiB", "share"), _memory_rows(plan))
    phases = [figure_table("Phases", ("images", "share of the run", "FLOPs per sample"), _phase_rows(plan))]
    return [run, flops, *(phases if len(plan.phases) > 1 else []), memory, *_remarks(plan)]


def compute_table(run: Span, earlier: Span, accelerator_seconds: Mapping[str, float], peak_flops: float | None) -> Table:
    """What a fit took.

    Args:
        run: this fit.
        earlier: the fits it resumed.
        accelerator_seconds: of all of them, by name of device.
        peak_flops: FLOP/s of all devices of this fit together, None if not known.
    """
    steps, resumed = max(1, run.steps), earlier.samples > 0
    rows = [
        ("samples" + (", this run" if resumed else ""), f"{run.samples:,}"),
        *([("samples, with the runs before", f"{run.samples + earlier.samples:,}")] if resumed else []),
        ("optimizer steps", f"{run.steps:,}"),
        ("forward, each step", flops_text(run.forward / steps)),
        ("backward, each step", flops_text(run.backward / steps)),
        ("computed again, each step", flops_text(run.recomputed / steps) if run.recomputed else "none"),
        ("forward and backward in all", flops_text(run.forward + run.backward + earlier.forward + earlier.backward)),
    ]
    if run.samples_per_second and run.flops_per_second:
        rows += [
            ("speed", f"{short(run.samples_per_second)} samples/s"),
            ("forward and backward", flops_text(run.flops_per_second, "FLOP/s")),
            ("MFU", f"{100 * run.flops_per_second / peak_flops:.1f} %" if peak_flops else "peak not known: give peak_flops"),
        ]
    rows += [(name, accelerator_time(seconds)) for name, seconds in accelerator_seconds.items()]
    if len(accelerator_seconds) > 1:
        rows.append(("accelerators together", accelerator_time(sum(accelerator_seconds.values()))))
    return figure_table("Compute", ("", "measured"), rows)


def _run_rows(plan: Plan) -> list[tuple[str, str]]:
    machines = plan.machines
    micro = f" in slices of {plan.batch.micro:,}" if plan.batch.micro else ""
    passes = f" x {plan.accumulate} passes" if plan.accumulate > 1 else ""
    peak = flops_text(peak_flops_of(machines.device, machines.precision), "FLOP/s")
    names = " and ".join(tower.name for tower in plan.towers)
    return [
        ("devices", f"{machines.count:,} x {machines.device.name}, {machines.precision}, {machines.strategy}"),
        ("peak of a device, MFU assumed", f"{peak}, {100 * machines.mfu:g} %"),
        (
            f"weights, {names}",
            " + ".join(f"{tower.parameters / 1e6:,.1f} M" for tower in plan.towers),
        ),
        ("image, captions", f"{plan.image_size} pixels, {plan.caption_length} tokens"),
        ("batch", f"{plan.global_batch_size:,} = {machines.count:,} x {plan.batch.local:,}{passes}{micro}"),
        ("samples", f"{plan.samples:,}"),
        ("optimizer steps", f"{plan.steps:,}"),
        ("forward, all samples", flops_text(plan.flops.forward)),
        ("backward, all samples", flops_text(plan.flops.backward)),
        ("speed", f"{short(plan.samples_per_second)} samples/s"),
        ("wall time", duration(plan.seconds)),
        ("accelerator time", accelerator_time(plan.seconds * machines.count)),
    ]


def _flops_rows(plan: Plan) -> list[tuple[str, ...]]:
    parts = [(f"{tower.name} {tower.kind}", tower.flops) for tower in plan.towers]
    again = Flops(recomputed=sum(tower.flops.forward for tower in plan.towers))
    parts += [("loss", plan.loss), *([("micro-batches", again)] if plan.batch.micro else []), ("sum", plan.flops_per_sample)]
    return [
        (name, *(flops_text(value) if value else "" for value in (flops.forward, flops.backward, flops.recomputed)))
        for name, flops in parts
    ]


def _phase_rows(plan: Plan) -> list[tuple[str, str, str]]:
    rows = []
    for cost in plan.phases:
        size = plan.image_size if cost.phase is None or cost.phase.image_size is None else cost.phase.image_size
        kept = "" if cost.phase is None or cost.phase.keep_tokens == 1 else f", {share_text(cost.phase.keep_tokens)} of patches"
        rows.append((f"{size} pixels{kept}", share_text(cost.share), flops_text(cost.flops.useful)))
    return rows


def _memory_rows(plan: Plan) -> list[tuple[str, str, str]]:
    total, device = plan.memory.total, plan.machines.device
    rows = [(_PARTS[key], gibibytes(size), share_text(size / total)) for key, size in vars(plan.memory).items() if size]
    rows.append(("sum", gibibytes(total), "100 %"))
    if device.memory:
        rows.append((f"{device.name} has", gibibytes(device.memory), f"{100 * total / device.memory:,.0f} % used"))
    return rows


def _remarks(plan: Plan) -> list[Text]:
    told = [Text(f"Not counted: what objective {name} computes besides.") for name in plan.uncounted]
    if plan.fits is not False:
        return told
    advice = []
    if micro := plan.largest_micro_batch():
        advice.append(f"--micro-batch-size {micro} (same gradient, the forward pass twice)")
    if local := plan.largest_local_batch():
        advice.append(f"--data.local_batch_size={local}")
    if plan.fits_sharded():
        advice.append("--strategy clip_fsdp2")
    remedy = f"What would: {', or '.join(advice)}." if advice else "Take devices with more memory or a smaller model."
    return [*told, Text.assemble((f"This does not fit into a {plan.machines.device.name}.", "bold red"), f" {remedy}")]


def plan_mapping(plan: Plan) -> dict[str, Any]:
    """The plan as plain figures: FLOPs, bytes, seconds."""
    return {
        "device": plan.machines.device.name,
        "devices": plan.machines.count,
        "precision": plan.machines.precision,
        "strategy": plan.machines.strategy,
        "peak_flops": peak_flops_of(plan.machines.device, plan.machines.precision),
        "mfu": plan.machines.mfu,
        "samples": plan.samples,
        "steps": plan.steps,
        "local_batch_size": plan.batch.local,
        "micro_batch_size": plan.batch.micro,
        "global_batch_size": plan.global_batch_size,
        "image_size": plan.image_size,
        "caption_length": plan.caption_length,
        "parameters": {tower.name: tower.parameters for tower in plan.towers},
        "flops_per_sample": {tower.name: asdict(tower.flops) for tower in plan.towers} | {"loss": asdict(plan.loss)},
        "phases": [
            {"share": cost.share, **(asdict(cost.phase) if cost.phase else {}), "flops_per_sample": asdict(cost.flops)}
            for cost in plan.phases
        ],
        "not_counted": list(plan.uncounted),
        "flops": asdict(plan.flops),
        "memory_per_device": asdict(plan.memory) | {"total": plan.memory.total, "device": plan.machines.device.memory},
        "fits": plan.fits,
        "samples_per_second": plan.samples_per_second,
        "seconds": plan.seconds,
        "accelerator_years": plan.accelerator_years,
    }
