"""What an objective has a say in beside the loss: which parameters learn, its parts before a run, its metrics after one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch

from lightning_clip.adapt import AdaptSettings
from lightning_clip.adapt.adaptation import NEVER_LEARNED
from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput, PairBatch, Tokens
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.losses import ContrastiveLoss
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.space import SharedSpace
from lightning_clip.module.evaluated import LossSums
from lightning_clip.module.running import say_untrained, share_statistics
from lightning_clip.objectives import Objective
from lightning_clip.strategies import ClipDeepSpeedStrategy, ClipFSDP2Strategy
from lightning_clip.training.averaged import use_averaged, use_trained
from lightning_clip.training.compiling import compile_for_run
from lightning_clip.training.guard import drop_gradients, gradient_norm
from lightning_clip.training.micro_batches import check_micro_batches
from lightning_clip.training.throughput import Throughput

__all__ = [
    "before_step",
    "begin_steps",
    "check_adapters",
    "check_finite",
    "collators",
    "data_of",
    "empty_output",
    "encode_columns",
    "end_validation",
    "evaluate_batch",
    "log_measured",
    "log_progress",
    "prepare",
    "refresh",
    "start",
    "still",
]


class _Learns(Protocol):
    """A LightningModule with an objective, as it is asked here."""

    objective: Objective
    tokenizer: Tokenizer
    trainer: Any
    has_weights: bool
    losses: LossSums

    @property
    def embed_dim(self) -> int: ...

    @property
    def model(self) -> SharedSpace: ...

    @property
    def predictor(self) -> Predictor: ...

    def read_data(self, data: Any) -> None: ...

    def reads(self) -> tuple[str, ...]: ...


def data_of(module: Any) -> Any | None:
    """The data module of the run, or None."""
    return None if module._trainer is None else getattr(module.trainer, "datamodule", None)


def still(model: SharedSpace, objective: Objective) -> None:
    """Puts what the objective leaves frozen into evaluation mode, so that batch statistics and dropout are off, too.

    Where adapters learn in a frozen tower, it is trained.
    """
    learns = objective.learns()
    for name, part in model.named_children():
        own = list(part.parameters())
        if own and not f"{name}.".startswith(learns) and not any(parameter.requires_grad for parameter in own):
            part.eval()


def check_finite(objective: Objective, stop: bool) -> None:
    """Losses refuse features that are not finite where that stops the run; elsewhere the guard looks at the loss."""
    for part in objective.modules():
        if isinstance(part, ContrastiveLoss):
            part.check_finite = stop


def collators(model: SharedSpace, columns: Collection[str]) -> dict[str, Callable[[list[Any]], Any] | None]:
    """How a batch of raw values of each column is put together; None for images, texts and views.

    Args:
        model: whose towers read them.
        columns: those that are wanted; "text" also where no tower reads it.
    """
    known = ("image", "text", *model.share)
    wanted = [column for column in dict.fromkeys((*model.columns, "text")) if column in columns]
    return {column: None if column in known else type(model.tower(column)).collate for column in wanted}


def check_adapters(model: SharedSpace, objective: Objective, settings: AdaptSettings, grown: bool) -> None:
    """Refuses adapters and new words that would never get a gradient.

    Args:
        model: frozen by now as far as the objective says.
        objective: what is learned.
        settings: what is added to the towers.
        grown: whether the text tower got new words.

    Raises:
        InputError: `adapt` adds to a tower that the objective does not run, or words to a frozen table.
    """
    if grown and not any(parameter.requires_grad for parameter in model.tower("text").parameters()):
        raise InputError(NEVER_LEARNED)
    for column, adapt in (("image", settings.image), ("text", settings.text)):
        if adapt.lora is not None and column in model.columns and column not in objective.runs():
            raise InputError(
                f"adapt.{column}.lora would never be learned: objective {type(objective).__name__} runs the {column} tower "
                "only before the first step. Omit it, or learn with FlypModule or CoopModule"
            )


def prepare(module: Any) -> None:
    """Lets a module take from the data what it is made of, as far as there is data by now."""
    data = data_of(module)
    if data is None:
        module.objective.prepare(None, module.tokenizer)
    else:
        module.read_data(data)
    module._prepared = True


def encode_columns(module: _Learns, batch: PairBatch, columns: Collection[str]) -> ClipOutput:
    """Features of some columns, as far as the batch has them."""
    given = {column: batch.value(column) for column in columns}
    image, text = given.pop("image", None), given.pop("text", None) or Tokens(None)
    tokens_of = [column for column in module.objective.reads_tokens() if column in columns]
    output: ClipOutput = module.model(image, *text, tokens_of=tokens_of, **given)
    return output


def empty_output(module: _Learns) -> ClipOutput:
    """What a batch gives of which no sample could be used: features (0, D) of all columns that are read."""
    none = {column: module.model.logit_scale.new_empty(0, module.embed_dim) for column in module.reads()}
    return ClipOutput(none, module.model.logit_scale.detach().exp())


def evaluate_batch(module: Any, batch: PairBatch) -> ClipOutput:
    """Features of a batch in evaluation; adds up the loss of its own pairs, where the objective has one without training.

    Args:
        module: a `ClipModule`.
        batch: maybe without samples.
    """
    if not batch.size:
        return empty_output(module)
    if not (module.objective.evaluated and module.objective.is_given(batch)):
        found: ClipOutput = module.encode(batch)
        return found
    output: ClipOutput = module.encode_batch(batch)
    parts = module.compute_loss(output, batch)
    module.losses.add(parts, batch.size)
    module.objective.measure(output, batch)
    return output


@torch.no_grad()
def start(module: _Learns, split: str) -> None:
    """The objective checks the data and fills its parts before a fit ("train") or an evaluation ("val", "test")."""
    if split == "train":
        module.has_weights = True
    else:
        say_untrained(module)
        use_averaged(module.trainer.optimizers)
        module.losses.clear()
        share_statistics(module.model)
    module.objective.start(module.predictor, data_of(module), split)


def before_step(module: Any) -> None:
    """Logs the norm of the gradients before clipping, and drops them where the step is skipped.

    Args:
        module: whose gradients are there.
    """
    if module._skip_step:
        drop_gradients(module.model.parameters())
        module._skip_step = False
        module.log("train/skipped_steps", float(module._guard.skipped))
    elif getattr(module.trainer.strategy, "keeps_gradients", False):
        return  # and logs their norm
    elif module.trainer.global_step % module.trainer.log_every_n_steps == 0:
        module.log("train/gradient_norm", gradient_norm(module.model.parameters()))


def end_validation(module: Any, throughput: Throughput) -> None:
    """Goes on with the weights that are trained; the time of a validation is none of training.

    Args:
        module: after a validation, in a fit or not.
        throughput: of this rank.
    """
    throughput.restart()
    if module.trainer.state.fn == "fit" and not module.trainer.sanity_checking:
        use_trained(module.trainer.optimizers)


@torch.no_grad()
def refresh(module: _Learns) -> None:
    """The objective brings up to date what depends on the weights."""
    module.objective.refresh(module.predictor, data_of(module))


def log_measured(module: Any, objective: Objective, stage: str) -> None:
    """Logs the losses and the objective's metrics of an evaluation as `stage/NAME`."""
    for name, value in module.losses.take().items():
        module.log(f"{stage}/{name}", value)
    for name, value in objective.measured().items():
        module.log(f"{stage}/{name}", value, sync_dist=True)


def log_progress(module: Any, throughput: Throughput) -> None:
    """Logs learning rate and samples/s of all ranks, every `log_every_n_steps` steps.

    Args:
        module: in training.
        throughput: of this rank.
    """
    step = module.trainer.global_step
    if step and step % module.trainer.log_every_n_steps == 0:
        module.log("train/learning_rate", max(group["lr"] for group in module.trainer.optimizers[0].param_groups))
        if speed := throughput.read() * module.trainer.world_size:
            module.log("train/samples_per_second", speed)


def begin_steps(module: Any) -> None:
    """Before the first step: checks what needs the built model, and compiles it where that pays.

    Strategies that spread weights over ranks compile only what is asked for.

    Args:
        module: about to train.

    Raises:
        InputError: as `check_micro_batches`.
    """
    check_slices(module)
    use_trained(module.trainer.optimizers)
    strategy = module.trainer.strategy
    spread = isinstance(strategy, ClipFSDP2Strategy | ClipDeepSpeedStrategy)
    if module.training_settings.execution.compile == "auto" and not spread:
        compile_for_run(module.model, module.device, module.trainer.estimated_stepping_batches)


def check_slices(module: Any) -> None:
    """Refuses a `micro_batch_size` that does not divide the batch, or towers whose result depends on it, in any stage.

    Args:
        module: about to train.

    Raises:
        InputError: as `check_micro_batches`.
    """
    if module.micro_batch_size is not None:
        local_batch_size = getattr(module.trainer.datamodule, "local_batch_size", None)
        for _ in module.adaptation.each_stage(module.model):
            check_micro_batches(module.model, module.micro_batch_size, local_batch_size)
