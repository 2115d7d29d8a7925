"""Strategies for two-tower models, by name for `Trainer(strategy=...)`: importing this registers them with Lightning."""

from lightning.pytorch.strategies import StrategyRegistry

from lightning_clip.strategies.checks import check_strategy
from lightning_clip.strategies.fsdp2 import ClipFSDP2Strategy

__all__ = ["ClipFSDP2Strategy", "check_strategy"]

StrategyRegistry.register("clip_fsdp2", ClipFSDP2Strategy, description="FSDP2 over the blocks of both towers")
