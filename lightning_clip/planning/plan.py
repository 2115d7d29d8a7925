"""The plan of a run: FLOPs, memory, time and accelerator-years."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch.nn.modules.batchnorm import _BatchNorm

from lightning_clip.core.errors import InputError
from lightning_clip.losses import SigmoidContrastiveLoss
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.planning.flops import Flops
from lightning_clip.planning.loss import loss_flops
from lightning_clip.planning.machines import SECONDS_PER_YEAR, Machines
from lightning_clip.planning.memory import Batch, Memory, State, memory_of, state_of
from lightning_clip.planning.objectives import measure_objectives, texts_per_pair, uncounted
from lightning_clip.planning.phases import PhaseCost, mean_costs, measure_phases
from lightning_clip.planning.strategies import sharding_of
from lightning_clip.planning.towers import TowerCost, fake_clip, freeze_unused, measure_towers
from lightning_clip.training.micro_batches import check_micro_batches
from lightning_clip.training.optim import build_optimizer, undecayed_names

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """What a run will cost.

    Args:
        machines: what trains.
        towers: one for each column that has a tower of its own, and one for what each objective adds.
        loss: FLOPs of the loss per sample.
        memory: on each device.
        samples: pairs seen in all.
        batch: on each device and pass.
        accumulate: passes per optimizer step.
        image_size: pixels; 0 where no tower reads images.
        caption_length: tokens; 0 where no tower reads texts.
        embed_dim: width of the shared space.
        state: bytes of weights, gradients and optimizer before a strategy divides them.
        sliceable: whether micro-batches would be exact, which batch normalisation rules out.
        phases: of the run, the last one with whole images; `towers` has their means.
        uncounted: names of objectives that compute more than is counted.
    """

    machines: Machines
    towers: tuple[TowerCost, ...]
    loss: Flops
    memory: Memory
    samples: int
    batch: Batch
    accumulate: int
    image_size: int
    caption_length: int
    embed_dim: int
    state: State = field(repr=False)
    sliceable: bool = True
    phases: tuple[PhaseCost, ...] = ()
    uncounted: tuple[str, ...] = ()

    @property
    def global_batch_size(self) -> int:
        """Pairs per optimizer step."""
        return self.batch.local * self.batch.world_size * self.accumulate

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return math.ceil(self.samples / self.global_batch_size)

    @property
    def flops_per_sample(self) -> Flops:
        """Of all towers and the loss; micro-batches compute the towers' forward pass twice."""
        towers = sum((tower.flops for tower in self.towers), Flops())
        again = towers.forward if self.batch.micro else 0
        return towers + self.loss + Flops(recomputed=again)

    @property
    def flops(self) -> Flops:
        """Of the whole run."""
        return self.flops_per_sample * self.samples

    @property
    def seconds(self) -> float:
        """Wall time."""
        return (self.flops.useful + self.flops.recomputed) / self.machines.flops_per_second

    @property
    def samples_per_second(self) -> float:
        """Over all devices."""
        return self.samples / self.seconds

    @property
    def accelerator_years(self) -> float:
        """Time of all devices together."""
        return self.seconds * self.machines.count / SECONDS_PER_YEAR

    @property
    def fits(self) -> bool | None:
        """Whether the parts fit into a device's memory; None if that is not known."""
        return None if not self.machines.device.memory else self.memory.total <= self.machines.device.memory

    def largest_micro_batch(self) -> int | None:
        """The largest divisor of `local_batch_size` that fits as `micro_batch_size`; None if none does or none is exact."""
        if not self.sliceable:
            return None
        return self._largest(lambda size: replace(self.batch, micro=size))

    def largest_local_batch(self) -> int | None:
        """The largest divisor of `local_batch_size` that fits in its place; None if not even 1 does."""
        return self._largest(lambda size: replace(self.batch, local=size, micro=None))

    def fits_sharded(self) -> bool:
        """Whether the same batch fits once "clip_fsdp2" divides weights, gradients and optimizer."""
        machines = replace(self.machines, strategy="clip_fsdp2")
        return _memory(machines, self.state, self.towers, self.batch, self.embed_dim).total <= self._room

    @property
    def _room(self) -> float:
        """Bytes to fill: a tenth stays free for what is short-lived."""
        return 0.9 * self.machines.device.memory

    def _largest(self, batch_of: Callable[[int], Batch]) -> int | None:
        sizes = [size for size in range(1, self.batch.local + 1) if self.batch.local % size == 0]
        memory = {size: _memory(self.machines, self.state, self.towers, batch_of(size), self.embed_dim) for size in sizes}
        return max((size for size in sizes if memory[size].total <= self._room), default=None)


def make_plan(
    module: ClipModule,
    machines: Machines,
    *,
    samples: int,
    local_batch_size: int,
    micro_batch_size: int | None = None,
    accumulate: int = 1,
    caption_length: int | None = None,
) -> Plan:
    """Reckons what it costs to train a module, without training it.

    Args:
        module: with names or mappings for towers, so that it is built without memory.
        machines: what trains.
        samples: pairs seen in all, each epoch counting anew.
        local_batch_size: pairs per device and pass.
        micro_batch_size: pairs encoded at a time; None encodes all at once.
        accumulate: passes per optimizer step.
        caption_length: tokens to which captions are padded; None takes the tokenizer's most.

    Raises:
        InputError: a size that is not positive, captions longer than the text tower takes, or micro-batches that cannot be.

    Examples:
        >>> from lightning_clip.planning import Machines, find_device
        >>> machines = Machines(find_device("v100"), 256, "16-mixed", mfu=0.2)
        >>> text = {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}
        >>> module = ClipModule({"name": "vit_tiny_patch16_224", "depth": 2}, text, embed_dim=16)
        >>> plan = make_plan(module, machines, samples=12_800_000_000, local_batch_size=128)
        >>> plan.steps, round(plan.towers[0].flops.forward / 1e9, 2)
        (390625, 0.29)
    """
    length = _caption_length(module, caption_length)
    sizes = {"samples": samples, "local_batch_size": local_batch_size, "accumulate_grad_batches": accumulate}
    for name, size in {**sizes, "caption_length": length, "micro_batch_size": micro_batch_size}.items():
        if size is not None and size < 1:
            raise InputError(f"{name} {size} must be at least 1")
    fake = fake_clip(module, machines.precision)
    if micro_batch_size is not None:
        check_micro_batches(fake.model, micro_batch_size, local_batch_size)
    if length is not None and "text" in fake.model.columns and length > (most := fake.model.tower("text").context_length):
        raise InputError(f"caption_length {length} exceeds the text tower's context_length {most}: give at most that")
    image_size = fake.model.tower("image").image_size if "image" in fake.model.columns else 0
    length = length or 0
    objective, caption = module.objective, length

    def measured(size: int) -> tuple[TowerCost, ...]:
        return (*measure_towers(fake, size, caption, objective), *measure_objectives(fake, objective, size, caption))

    phases = measure_phases(fake, module.training_settings.phases, image_size, measured)
    towers = mean_costs(phases)
    freeze_unused(fake)
    optimizer = build_optimizer(fake.model, module.training_settings.optimizer, undecayed_names(fake.model))
    state = state_of(fake.model, optimizer)
    # A pair arrives as uint8 pixels, int64 token ids and a bool mask.
    micro = micro_batch_size if micro_batch_size != local_batch_size else None
    texts = texts_per_pair(objective)
    batch = Batch(local_batch_size, machines.count, micro, 3 * image_size**2 + 9 * length, max(1, texts))
    return Plan(
        machines=machines,
        towers=towers,
        loss=_loss_flops(module, local_batch_size, machines.count, texts),
        memory=_memory(machines, state, towers, batch, module.embed_dim),
        samples=samples,
        batch=batch,
        accumulate=accumulate,
        image_size=image_size,
        caption_length=length,
        embed_dim=module.embed_dim,
        state=state,
        sliceable=not any(isinstance(layer, _BatchNorm) for layer in fake.model.modules()),
        phases=phases,
        uncounted=uncounted(objective),
    )


def _memory(machines: Machines, state: State, towers: tuple[TowerCost, ...], batch: Batch, embed_dim: int) -> Memory:
    sharding = sharding_of(machines.strategy, machines.count)
    mixed = machines.precision.endswith("-mixed")
    return memory_of(state, towers, batch, sharding, embed_dim=embed_dim, mixed=mixed)


def _caption_length(module: ClipModule, given: int | None) -> int | None:
    """Tokens of a caption; None where no tower reads texts."""
    if module.tokenizer is None:
        return None
    return module.tokenizer.context_length if given is None else given


def _loss_flops(module: ClipModule, local: int, world_size: int, texts: int) -> Flops:
    """Of the product of all rows with all columns, where columns are compared."""
    if not texts:
        return Flops()
    return loss_flops(local, world_size, module.embed_dim, texts=texts, twice=not _is_sigmoid(module))


def _is_sigmoid(module: ClipModule) -> bool:
    """Whether the loss sums over tiles once, without a pass for maxima first."""
    return any(isinstance(part, SigmoidContrastiveLoss) for part in module.objective.modules())
