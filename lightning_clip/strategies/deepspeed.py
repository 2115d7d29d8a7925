"""`ClipDeepSpeedStrategy`: Lightning's DeepSpeedStrategy with a clamped scale, evaluation on uneven shares and clear errors."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy

from lightning_clip.checkpoints.parts import check_parts
from lightning_clip.core.errors import InputError
from lightning_clip.strategies.whole_folders import whole_folder

__all__ = ["ClipDeepSpeedStrategy"]

_STAGES = (1, 2, 3)


class ClipDeepSpeedStrategy(DeepSpeedStrategy):
    """ZeRO (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054): optimizer states, gradients and weights over the ranks.

    Clipping, gradient accumulation and precision are taken from the Trainer, the optimizer from the module. DeepSpeed
    writes its own folder of files; `lightning-clip checkpoint consolidate` makes one .ckpt of it.

    Args:
        stage: 1 spreads the optimizer's states, 2 the gradients too, 3 the weights too.
        cpu_offload: keep what is spread in the CPU's memory.
        config: DeepSpeed's own configuration (a mapping or a JSON file) instead of the one built from these settings.
        **options: of Lightning's strategy, such as `reduce_bucket_size` (elements) or `timeout`.

    Raises:
        InputError: DeepSpeed is not installed, an unknown stage, or (when a run starts) no CUDA device.
    """

    # DeepSpeed takes gradients out of `parameter.grad` during backward, clips and steps by itself.
    keeps_gradients = True

    def __init__(
        self,
        stage: int = 2,
        *,
        cpu_offload: bool = False,
        config: str | Path | dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if find_spec("deepspeed") is None:
            raise InputError(
                f"strategy clip_deepspeed_stage_{stage} needs DeepSpeed, which is not installed: "
                "pip install 'lightning-clip[deepspeed]', or use strategy 'clip_fsdp2', which needs nothing more"
            )
        if stage not in _STAGES:
            raise InputError(f"DeepSpeed stage {stage} is none of {', '.join(map(str, _STAGES))}")
        offload = {"offload_optimizer": cpu_offload, "offload_parameters": cpu_offload and stage == 3}
        super().__init__(stage=stage, config=config, **{**offload, **options})
        self._gathered = ExitStack()

    @property
    def passes_are_collective(self) -> bool:
        """Whether each pass through a tower waits for the other ranks."""
        return self.zero_stage_3

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Ranks build whole models and DeepSpeed then takes them apart: towers that draw or load their weights after they
        are built would find none left under `deepspeed.zero.Init`.
        """
        self._init_config_if_needed()
        yield

    def setup_environment(self) -> None:
        self._check_device()
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        self._check_module()
        # The engine wants all weights of one type; the optimizer's copies are float32.
        self.lightning_module.model.keeps_precision = False  # type: ignore[union-attr]
        super().setup(trainer)

    def optimizer_step(self, *arguments: Any, **options: Any) -> Any:
        """Steps, then clamps the scale where DeepSpeed keeps it: the module's parameter is only a copy."""
        result = super().optimizer_step(*arguments, **options)
        module: Any = self.lightning_module
        norm = self.deepspeed_engine.get_global_grad_norm()
        if norm is not None and module.trainer.global_step % module.trainer.log_every_n_steps == 0:
            module.log("train/gradient_norm", float(norm))
        if module.model.logit_scale.requires_grad:
            _clamp(module.model.logit_scale, math.log(module.objective.max_scale))
        return result

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Writes a folder that is whole at any moment.

        Raises:
            InputError: no room, no right to write, or a folder of other things under that name.
        """
        with whole_folder(self, filepath, checkpoint["global_step"]) as place:
            super().save_checkpoint(checkpoint, place, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder that DeepSpeed wrote.

        Raises:
            InputError: a checkpoint of another strategy.
        """
        path = Path(checkpoint_path)
        if not (path / "checkpoint").is_dir():
            raise InputError(
                f"checkpoint {str(path)!r} was not written by DeepSpeed, whose strategies cannot go on with it: resume under "
                "the strategy that wrote it, under 'ddp' or 'clip_fsdp2', or start anew from ClipModule.load_from_checkpoint"
            )
        check_parts(path)
        return super().load_checkpoint(checkpoint_path, weights_only=weights_only)

    def on_validation_start(self) -> None:
        self._gather()

    def on_validation_end(self) -> None:
        self._gathered.close()

    def on_test_start(self) -> None:
        self._gather()

    def on_test_end(self) -> None:
        self._gathered.close()

    def on_predict_start(self) -> None:
        self._gather()

    def on_predict_end(self) -> None:
        self._gathered.close()

    def teardown(self) -> None:
        self._gathered.close()
        super().teardown()

    def _gather(self) -> None:
        """Stage 3: each rank holds all weights meanwhile, so that ranks may make different numbers of passes."""
        self._gathered.close()
        if self.zero_stage_3:
            from lightning_clip.strategies.deepspeed_gather import gathered_weights

            self._gathered.enter_context(gathered_weights(self.deepspeed_engine))

    def _check_device(self) -> None:
        if not isinstance(self.accelerator, CUDAAccelerator):
            raise InputError(
                f"DeepSpeed runs on CUDA devices, not on {type(self.accelerator).__name__}: "
                "use strategy 'clip_fsdp2', which also runs on CPUs, or accelerator 'gpu'"
            )

    def _check_module(self) -> None:
        settings = getattr(self.lightning_module, "training_settings", None)
        if settings is None:
            raise InputError(
                f"clip_deepspeed trains a ClipModule, not {type(self.lightning_module).__name__}: "
                "for other modules use Lightning's 'deepspeed' strategies"
            )
        if settings.execution.non_finite == "skip":
            raise InputError(
                "execution.non_finite 'skip' needs gradients that can be dropped, and DeepSpeed keeps its own: "
                "use 'stop' or 'ignore', or strategy 'clip_fsdp2'"
            )


def _clamp(parameter: Any, highest: float) -> None:
    """Limits a parameter and the optimizer's full-precision copy, of which this rank may hold a part or nothing."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param

    with torch.no_grad():
        parameter.clamp_(max=highest)
        if hasattr(parameter, "ds_id"):  # stage 3
            parameter.ds_tensor.clamp_(max=highest)
            safe_set_local_fp32_param(parameter, safe_get_local_fp32_param(parameter).clamp(max=highest))
        elif parameter._hp_mapping is not None:  # stages 1 and 2, on the rank that holds it
            parameter._hp_mapping.get_hp_fragment().clamp_(max=highest)
