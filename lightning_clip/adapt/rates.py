"""Learning rates and weight decay by parameter, by tower and depth."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lightning_clip.adapt.depth import block_names, parameter_depths
from lightning_clip.adapt.settings import AdaptSettings
from lightning_clip.encoders.new_tokens import new_token_names
from lightning_clip.training.optim import OptimizerSettings, Rate

if TYPE_CHECKING:
    from lightning_clip.model.space import SharedSpace

__all__ = ["DepthRates"]


class DepthRates:
    """Rates of the towers' parameters by their depth from the top; knows names alone, so that sharding changes nothing.

    A parameter of a tower with L blocks at depth d (0 before the blocks, L + 1 after them) is trained at
    lr * layer_decay^(L + 1 - d), its head at lr: BEiT's rule (Bao et al. 2021, appendix). New tokens beside a table that may
    rest are trained at lr: they have nothing to be kept.

    Args:
        model: before a strategy wraps it.
        settings: rates of the towers.

    Examples:
        >>> from lightning_clip import ClipModel
        >>> model = ClipModel(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2, "vocab_size": 100}, embed_dim=16,
        ... )
        >>> rates = DepthRates(model, AdaptSettings.of({"image": {"lr": 1.0, "layer_decay": 0.5}}))
        >>> names = ["image_encoder.model.cls_token", "image_encoder.model.blocks.1.attn.qkv.weight", "image_projection.weight"]
        >>> found = rates.of(names, OptimizerSettings(lr=0.1), undecayed=set())
        >>> [found[name].lr for name in names]
        [0.125, 0.5, 1.0]
    """

    def __init__(self, model: SharedSpace, settings: AdaptSettings) -> None:
        self.settings = settings
        self._from_top: dict[str, int] = {}
        for tower in settings.towers:
            if tower not in model.own_columns:
                continue
            encoder = model.tower(tower)
            top = len(block_names(encoder)) + 1
            new = new_token_names(encoder)
            for name, depth in parameter_depths(encoder).items():
                depth = top if name in new else depth
                self._from_top[f"{tower}_encoder.{name}"] = top - depth

    def of(self, names: Collection[str], optimizer: OptimizerSettings, undecayed: Collection[str]) -> dict[str, Rate]:
        """By name.

        Args:
            names: of the parameters that are trained.
            optimizer: what holds where a tower says nothing.
            undecayed: names of parameters without weight decay.
        """
        found = {}
        for name in names:
            tower = self.settings.towers.get(name.partition(".")[0].rpartition("_")[0])
            lr, decay = optimizer.lr, optimizer.weight_decay
            if tower is not None:
                lr = optimizer.lr if tower.lr is None else tower.lr
                lr *= tower.layer_decay ** self._from_top.get(name, 0)
                decay = decay if tower.weight_decay is None else tower.weight_decay
            found[name] = Rate(lr, 0.0 if name in undecayed else decay)
        return found
