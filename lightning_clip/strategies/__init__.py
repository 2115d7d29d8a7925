"""Strategies for two-tower models, by name for `Trainer(strategy=...)`: importing this registers them with Lightning."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_clip.strategies.checks import check_launch, check_strategy
from lightning_clip.strategies.deepspeed import ClipDeepSpeedStrategy
from lightning_clip.strategies.fsdp2 import ClipFSDP2Strategy

__all__ = ["ClipDeepSpeedStrategy", "ClipFSDP2Strategy", "check_launch", "check_strategy"]

StrategyRegistry.register("clip_fsdp2", ClipFSDP2Strategy, description="FSDP2 over the blocks of both towers")
for _stage in (1, 2, 3):
    StrategyRegistry.register(
        f"clip_deepspeed_stage_{_stage}", ClipDeepSpeedStrategy, description=f"DeepSpeed's ZeRO, stage {_stage}", stage=_stage
    )
