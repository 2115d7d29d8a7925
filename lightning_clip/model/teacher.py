"""`Teacher`: a copy of towers that is not trained: it stays as it began, or follows them as a moving average."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import nn
from typing_extensions import Self

from lightning_clip.core.errors import InputError
from lightning_clip.model.space import SharedSpace

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

__all__ = ["Teacher"]


class Teacher(nn.Module):
    """Towers and heads as they are now, frozen, in evaluation mode for ever; a checkpoint holds them with the model.

    Args:
        space: the model, before a strategy sees it.
        columns: whose towers are copied.
        parts: further parts of the model, by name.

    Examples:
        >>> from lightning_clip import ClipModel
        >>> image = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1}
        >>> model = ClipModel(image, {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}, embed_dim=16)
        >>> teacher = Teacher(model, ["image"])
        >>> teacher.space.encode_image(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16])
    """

    def __init__(self, space: SharedSpace, columns: Collection[str], parts: Collection[str] = ()) -> None:
        super().__init__()
        own = copy.copy(space)
        keeps = {f"{space.share.get(column, column)}_{part}" for column in columns for part in ("encoder", "projection")} | set(
            parts
        )
        own._modules = {name: part for name, part in space._modules.items() if name in keeps}
        self.space = copy.deepcopy(own)
        self.space.own_columns = tuple(column for column in space.own_columns if f"{column}_encoder" in keeps)
        self.space.share = {column: owner for column, owner in space.share.items() if owner in self.space.own_columns}
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, so that nothing is dropped from what it sees."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, space: SharedSpace, momentum: float) -> None:
        """T <- m T + (1 - m) S for each weight.

        Args:
            space: the model S.
            momentum: m, in [0, 1].

        Raises:
            InputError: the towers have been changed since, as adapters do.
        """
        students = dict(space.named_parameters())
        for name, weight in self.space.named_parameters():
            if name not in students:
                raise InputError(
                    f"a teacher cannot follow {name!r}, which adapters replace: omit adapt, or train without a teacher"
                )
            weight.lerp_(students[name].detach().to(weight.dtype), 1 - momentum)
        statistics = dict(space.named_buffers())
        for name, value in self.space.named_buffers():
            if name in statistics:
                value.copy_(statistics[name])

    @staticmethod
    def check_strategy(strategy: Strategy, name: str) -> None:
        """Refuses strategies that would not shard a teacher as they shard its towers.

        Args:
            strategy: of the run.
            name: of the objective.

        Raises:
            InputError: FSDP2 or DeepSpeed.
        """
        from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy  # which use alone does not need

        if isinstance(strategy, ModelParallelStrategy | DeepSpeedStrategy):
            raise InputError(f"objective {name!r} has a teacher, which sharding strategies do not support: use strategy 'ddp'")
