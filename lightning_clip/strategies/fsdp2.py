"""`ClipFSDP2Strategy`: Lightning's ModelParallelStrategy that shards a `ClipModule` by itself."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.strategies.fsdp import _is_sharded_checkpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from lightning_clip.checkpoints.parts import check_parts
from lightning_clip.core.errors import InputError
from lightning_clip.model.space import SharedSpace
from lightning_clip.strategies.optimizer_states import named_state, numbered_state, parameter_names
from lightning_clip.strategies.sharding import gathered_weights, shard_model
from lightning_clip.strategies.whole_folders import whole_folder

__all__ = ["ClipFSDP2Strategy"]

_TYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}


class ClipFSDP2Strategy(ModelParallelStrategy):
    """Weights, gradients and optimizer states spread over the ranks, block by block of each tower (FSDP2).

    The gradient is that of DDP. Precision follows the Trainer: "32-true", or "bf16-mixed" with float32 reduction.
    Activation checkpointing is the module's setting, `execution={"checkpoint": ["image", "text"]}`. In evaluation each rank
    holds the whole model, so that ranks may have different shares of the data.

    Args:
        replicate: copies of the sharded model; the world size divided by it is the number of ranks that share one copy
            (hybrid sharding, for slow networks between machines).
        cpu_offload: keep shards, gradients and optimizer states on the CPU.
        meta_init: ranks but the first build the model without memory and receive their shards.
        sharded_checkpoint: each rank writes its own part into a folder, see `lightning-clip checkpoint consolidate`;
            False assembles one file on the first rank.
        **options: of Lightning's strategy (process_group_backend, timeout).

    Raises:
        InputError: a `replicate` that does not divide the world size, or a precision FSDP2 has not.
    """

    # Every pass through a tower is a collective: ranks must make equally many.
    passes_are_collective = True

    def __init__(
        self,
        replicate: int = 1,
        *,
        cpu_offload: bool = False,
        meta_init: bool = True,
        sharded_checkpoint: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(save_distributed_checkpoint=sharded_checkpoint, **options)
        if replicate < 1:
            raise InputError(f"replicate {replicate} must be at least 1")
        self.replicate, self.cpu_offload, self.meta_init = replicate, cpu_offload, meta_init
        self._gathered: AbstractContextManager[None] | None = None

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        if self._data_parallel_size % self.replicate:
            raise InputError(
                f"replicate {self.replicate} does not divide the {self._data_parallel_size} ranks: each copy of the model "
                "needs equally many"
            )
        super().setup_environment()

    @contextmanager
    def tensor_init_context(self, empty_init: bool | None = None) -> Generator[None, None, None]:
        with super().tensor_init_context(empty_init=self.meta_init and self.global_rank > 0):
            yield

    def setup(self, trainer: pl.Trainer) -> None:
        if trainer.precision not in _TYPES:
            raise InputError(f"clip_fsdp2 does not work with precision {trainer.precision!r}: use one of {', '.join(_TYPES)}")
        model = self._clip_model()
        if not any(hasattr(value, "full_tensor") for value in model.parameters()):
            shard_model(model, self._mesh(), _TYPES[trainer.precision], self.root_device, self.cpu_offload)
        super().setup(trainer)

    def model_to_device(self) -> None:
        if not self.cpu_offload:
            super().model_to_device()

    def on_validation_start(self) -> None:
        self._gather()

    def on_validation_end(self) -> None:
        self._scatter()

    def on_test_start(self) -> None:
        self._gather()

    def on_test_end(self) -> None:
        self._scatter()

    def on_predict_start(self) -> None:
        self._gather()

    def on_predict_end(self) -> None:
        self._scatter()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As one process would write it, unless each rank writes its own part."""
        if self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, optimizer, options=options)
        return numbered_state(state, parameter_names(self.model, optimizer)) if self.global_rank == 0 else state

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Writes a folder that is whole at any moment, or one file.

        Raises:
            InputError: no room, no right to write, or a folder of other things under that name.
        """
        if self._save_distributed_checkpoint:
            with whole_folder(self, filepath, checkpoint["global_step"]) as place:
                super().save_checkpoint(checkpoint, place, storage_options)
        else:  # not Lightning's own, which first removes a folder that has the name
            ParallelStrategy.save_checkpoint(self, checkpoint, self.broadcast(filepath), storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder of shards, or one file of any strategy."""
        path = Path(self.broadcast(checkpoint_path))
        if _is_sharded_checkpoint(path):
            check_parts(path)
            return super().load_checkpoint(path, weights_only=weights_only)
        if path.is_dir():
            raise InputError(
                f"checkpoint {str(path)!r} is a folder that clip_fsdp2 did not write: "
                "lightning-clip checkpoint consolidate FOLDER --output FILE makes one file of it, which every strategy reads"
            )
        assert self.model is not None
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=bool(weights_only), mmap=True)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        assert self.lightning_module is not None
        self.lightning_module.on_load_checkpoint(checkpoint)  # what was locked has no optimizer state to be set
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            named = named_state(state, parameter_names(self.model, optimizer))
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return checkpoint

    def teardown(self) -> None:
        self._scatter()
        super().teardown()

    def _clip_model(self) -> SharedSpace:
        model = getattr(self.lightning_module, "model", None)
        if not isinstance(model, SharedSpace):
            raise InputError(
                f"clip_fsdp2 shards a ClipModule, not {type(self.lightning_module).__name__}: "
                "for other modules use Lightning's ModelParallelStrategy"
            )
        return model

    def _mesh(self) -> DeviceMesh:
        device, ranks = self.root_device.type, self.world_size
        if self.replicate == 1:
            return init_device_mesh(device, (ranks,), mesh_dim_names=("shard",))
        return init_device_mesh(device, (self.replicate, ranks // self.replicate), mesh_dim_names=("replicate", "shard"))

    def _gather(self) -> None:
        self._scatter()
        self._gathered = gathered_weights(self._clip_model())
        self._gathered.__enter__()

    def _scatter(self) -> None:
        if self._gathered is not None:
            self._gathered.__exit__(None, None, None)
            self._gathered = None
