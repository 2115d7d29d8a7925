"""Adaptation: the locks, rates and adapters of a model, and what its checkpoints hold."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_clip.adapt.base import Base
from lightning_clip.adapt.cache import Cached, FeatureCache
from lightning_clip.adapt.locking import Locks
from lightning_clip.adapt.lora import add_adapters
from lightning_clip.adapt.rates import DepthRates
from lightning_clip.adapt.settings import AdaptSettings
from lightning_clip.checkpoints.trained_only import TrainedOnly
from lightning_clip.core.errors import InputError
from lightning_clip.core.types import PairBatch
from lightning_clip.data.feature_store import FeatureStore
from lightning_clip.encoders.new_tokens import has_new_tokens, new_token_names, without_new_tokens
from lightning_clip.training.optim import OptimizerSettings, Rate

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from lightning.pytorch.strategies import Strategy

    from lightning_clip.model.space import SharedSpace

__all__ = ["NEVER_LEARNED", "Adaptation"]

NEVER_LEARNED = (
    "adapt.text.new_tokens would never be learned: this module leaves words as they are. Learn them with ClipModule or "
    "FlypModule, and start from that run's checkpoint (lightning-clip checkpoint merge)"
)

log = logging.getLogger(__name__)


class Adaptation:
    """Settings applied to a model; holds names alone.

    Args:
        model: before a strategy wraps it; it gets its adapters, and its locks are set for the first step.
        settings: what is trained, and how.
        strategy: of the Trainer, where there is one.
        base: what can be reloaded.

    Raises:
        InputError: settings that do not fit the model or the strategy.
    """

    def __init__(
        self, model: SharedSpace, settings: AdaptSettings, strategy: Strategy | None = None, base: Base | None = None
    ) -> None:
        if settings.stages and _is_deepspeed(strategy):
            raise InputError(
                "adapt.stages cannot change what DeepSpeed trains once it has taken the weights apart: use strategy 'ddp' or "
                "'clip_fsdp2', or one run for each stage"
            )
        self.settings = settings
        self._learning = {without_new_tokens(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
        add_adapters(model, settings)
        self.locks = Locks(model, settings)
        self.new_tokens = new_token_names(model)
        if self.new_tokens - self.locks.ever_trained():
            raise InputError(NEVER_LEARNED)
        self._rates = DepthRates(model, settings)
        self.base_arguments: Mapping[str, Any] = {}
        self.partial: TrainedOnly | None = None
        if settings.stores_trained_only:
            _check_store(strategy)
            base = base or Base()
            self.partial = self._partial(model, base, training=strategy is not None)
            self.base_arguments = base.arguments
        self.cache: FeatureCache | None = None
        self.locks.enter(model, 0)
        if not settings.ordinary:
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # of Lightning: here it is meant

    def open_cache(self, module: Cached) -> FeatureStore | None:
        """Where training keeps features of a locked image tower; None where it does not (adapt.image.cache)."""
        if (folder := self.settings.image.cache) is None:
            return None
        if self.cache is not None:
            self.cache.store.flush()
        self.cache = FeatureCache(module, folder)
        return self.cache.store

    def fill(self, batch: PairBatch, model: SharedSpace, slice_size: int | None) -> PairBatch:
        """The batch with kept features in the place of pixels, where they are kept."""
        return batch if self.cache is None else self.cache.fill(batch, model, slice_size)

    def rates(self, optimizer: OptimizerSettings, undecayed: Collection[str]) -> Mapping[str, Rate] | None:
        """Of every parameter that is ever trained; None where one rate serves all."""
        if self.settings.ordinary:
            return None
        return self._rates.of(self.locks.ever_trained(), optimizer, undecayed)

    def forget(self, model: SharedSpace) -> Adaptation:
        """That of an ordinary training, for a model whose adapters were merged into its weights."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._learning)
        return Adaptation(model, AdaptSettings())

    def resume(self, model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
        """Sets the locks of the last step before a checkpoint, so that the optimizer's state finds what it was of."""
        if not self.settings.stages:
            return  # nothing changes, and what a user has frozen by hand stays so
        self.locks.enter(model, self.locks.stage_at(max(0, checkpoint.get("global_step", 0) - 1), checkpoint.get("epoch", 0)))

    def each_stage(self, model: nn.Module) -> Iterator[None]:
        """The model as it will be in this stage and in those that follow, for checks before a run; in the end as it was."""
        if not self.settings.stages:
            yield
            return
        now = self.locks.stage
        for stage in range(now, len(self.settings.stages) + 1):
            self.locks.enter(model, stage)
            yield
        self.locks.enter(model, now)

    def show_most(self, model: nn.Module) -> None:
        """Marks in a copy of the model what is trained in the stage that trains most, for plans of memory and time."""
        if not self.settings.stages:
            return
        most = max((self.locks.trained(stage) for stage in range(len(self.settings.stages) + 1)), key=len)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in most)

    def proceed(self, trainer: pl.Trainer, model: nn.Module) -> None:
        """Called before each batch: goes on to the stage of the coming step."""
        stage = self.locks.stage_at(trainer.global_step, trainer.current_epoch)
        if stage == self.locks.stage:
            return
        self.locks.enter(model, stage)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if not parameter.requires_grad:
                        optimizer.state.pop(parameter, None)
        _wrap_again(trainer.strategy)

    def _partial(self, model: SharedSpace, base: Base, training: bool) -> TrainedOnly:
        """What checkpoints leave out: what is never trained and comes from a source, or from none at all."""
        trained = self.locks.ever_trained()
        parameters = {name for name, _ in model.named_parameters()}
        frozen = {
            name
            for name in model.state_dict()
            if name not in trained
            and (name in parameters or self.locks.always_still(name))
            and not has_new_tokens([name])  # under its second name, in towers that hold their table twice
        }
        names = {name for name in frozen if base.holds(name)} if base.source else frozen
        if names and base.source is None and training:
            log.warning(
                "checkpoints will hold only what is trained (adapt.store), and the weights that this run begins with have no "
                "name: keep them, start from a file of them (pretrained), or set adapt.store to full"
            )
        return TrainedOnly({f"model.{name}" for name in names}, base.source)


def _is_deepspeed(strategy: Strategy | None) -> bool:
    if strategy is None:
        return False
    from lightning.pytorch.strategies import DeepSpeedStrategy  # here and below: what opens weights starts without Lightning

    return isinstance(strategy, DeepSpeedStrategy)


def _check_store(strategy: Strategy | None) -> None:
    if _is_deepspeed(strategy) or getattr(strategy, "_save_distributed_checkpoint", False):
        raise InputError(
            f"{type(strategy).__name__} writes checkpoints in parts, which hold all weights: set adapt.store to full, or use "
            "strategy 'ddp' or 'clip_fsdp2' without sharded_checkpoint"
        )


def _wrap_again(strategy: Strategy) -> None:
    """DDP reduces the gradients of those parameters that were trained when it wrapped the module: others need a new one."""
    from lightning.pytorch.strategies import DDPStrategy

    wrapped = strategy.model
    if isinstance(strategy, DDPStrategy) and isinstance(wrapped, DistributedDataParallel):
        wrapped._remove_autograd_hooks()  # type: ignore[no-untyped-call]
        strategy.model = wrapped.module
        strategy.configure_ddp()
