"""NaFlex towers: pictures of any resolution and shape as patches, SigLIP 2's of transformers and timm's `naflexvit`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_clip.core.errors import InputError
from lightning_clip.core.patches import cut
from lightning_clip.core.settings import in_range
from lightning_clip.encoders.base import ImageEncoder, image_encoders
from lightning_clip.encoders.huggingface_towers import checkpoint_layers, describe, load
from lightning_clip.encoders.timm_image import check_options

__all__ = ["NaflexImageEncoder"]

_FAMILY = "siglip2"


@image_encoders.register("naflex")
class NaflexImageEncoder(ImageEncoder):
    """A Vision Transformer that reads patches with their places, so that a picture keeps its shape (SigLIP 2's NaFlex,
    Tschannen et al. 2025, arXiv 2502.14786; timm's `naflexvit`). The transform that makes them is `resize: patches`.

    Args:
        architecture: a timm name that begins with "naflexvit"; None with `config`.
        config: of SigLIP 2's image tower in transformers, {"model_type": "siglip2", "vision_config": {...}}.
        max_patches: the most patches of a picture; says the side of the square pictures that `plan` and `export` take.
        token_budget: tokens, padding among them, that are encoded at a time: pictures of like length go together. None
            encodes a batch at once. The features are the same.
        pretrained: load timm's published weights.
        **options: handed on to `timm.create_model`.

    Raises:
        InputError: both or neither of architecture and config, or another kind of tower.

    Examples:
        >>> tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> config = {"model_type": "siglip2", "vision_config": {**tiny, "num_patches": 16, "patch_size": 8}}
        >>> NaflexImageEncoder(config=config, max_patches=16)(torch.zeros(2, 3, 16, 32)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        architecture: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        max_patches: int = 256,
        token_budget: int | None = None,
        pretrained: bool = False,
        **options: Any,
    ) -> None:
        in_range("naflex: max_patches", max_patches, 1, whole=True)
        if token_budget is not None:
            in_range("naflex: token_budget", token_budget, max_patches, whole=True)
        if (architecture is None) == (config is None):
            raise InputError("naflex needs either an architecture of timm's (naflexvit_...) or a config of SigLIP 2's")
        model: Any = _siglip2(config) if config is not None else _timm(str(architecture), pretrained, options)
        patch = model.config.patch_size if config is not None else model.embeds.patch_size
        self_patch = int(patch if isinstance(patch, int) else patch[0])
        width = model.config.hidden_size if config is not None else model.num_features
        super().__init__(output_dim=int(width), image_size=math.isqrt(max_patches) * self_patch)
        self.timm_name, self.options = architecture, options
        self.max_patches, self.token_budget, self.patch_size = max_patches, token_budget, self_patch
        self.model = model
        self.architecture = architecture or _FAMILY

    def forward(self, image: Tensor, places: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        """Pictures of one shape or of several -> features (B, output_dim).

        Args:
            image: normalised float pixels (B, 3, H, W), sides multiples of the patch; or patches (B, L, P) with the others.
            places: row and column of each patch, int64 (B, L, 2).
            there: bool (B, L), False on padding.
        """
        if places is None or there is None:
            return self._of_pixels(image)[0]
        counts = there.sum(dim=1).tolist()  # padding is cut off by what they are
        if self.token_budget is None:
            longest = max(counts, default=0)
            return self._of_patches(image[:, :longest], places[:, :longest], there[:, :longest])[0]
        features: list[Tensor] = []
        groups = grouped(counts, self.token_budget)
        for rows in groups:
            longest = counts[rows[-1]]
            part = torch.tensor(rows, device=image.device)
            features.append(self._of_patches(image[part, :longest], places[part, :longest], there[part, :longest])[0])
        back = torch.tensor([row for rows in groups for row in rows]).argsort().to(image.device)
        return torch.cat(features)[back]  # (B, W), in the order of the batch

    def forward_tokens(self, image: Tensor, places: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        """As `forward` -> (B, L, W): the last hidden states; on padding they mean nothing."""
        return self.forward_both(image, places, there)[1]

    def forward_both(self, image: Tensor, places: Tensor | None = None, there: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `forward` -> features (B, output_dim) and tokens (B, L, W), in one pass."""
        if places is None or there is None:
            return self._of_pixels(image)
        return self._of_patches(image, places, there)

    def blocks(self) -> list[nn.Module]:
        """The Transformer's layers."""
        return list(self.model.blocks if self.timm_name else self.model.encoder.layers)

    def checkpoint_blocks(self) -> None:
        """By the library's own checkpointing."""
        if self.timm_name:
            self.model.set_grad_checkpointing()
        else:
            checkpoint_layers(self.model, "image")

    def to_mapping(self) -> dict[str, Any]:
        """All settings."""
        own = {"architecture": self.timm_name, **self.options} if self.timm_name else {"config": describe(self.model)}
        return {"name": "naflex", **own, "max_patches": self.max_patches, "token_budget": self.token_budget}

    def _of_patches(self, patches: Tensor, places: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, L, P) of several shapes -> features (B, W), tokens (B, L, W)."""
        if self.timm_name:
            found = self.model.forward_features(patches, patch_coord=places, patch_valid=there)
            return self.model.forward_head(**found), found["patches"]
        shapes = (places * there.unsqueeze(2)).amax(dim=1) + 1  # (B, 2)
        outputs = self.model(pixel_values=patches, pixel_attention_mask=there.long(), spatial_shapes=shapes)
        return outputs.pooler_output, outputs.last_hidden_state

    def _of_pixels(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) -> features (B, W), tokens (B, L, W), with nothing that is asked of values, for `export`."""
        if self.timm_name:
            hidden = self.model.forward_features(image)
            return self.model.forward_head(hidden), hidden
        embeddings, rows, columns = self.model.embeddings, *(side // self.patch_size for side in image.shape[-2:])
        side = embeddings.position_embedding_size
        table = embeddings.position_embedding.weight.view(side, side, -1).permute(2, 0, 1)[None].float()
        grid = interpolate(table, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)
        hidden = embeddings.patch_embedding(cut(image, self.patch_size))  # (B, 3, H, W) -> (B, L, W)
        hidden = hidden + grid.flatten(2).mT.to(hidden.dtype)  # (1, W, h, w) -> (1, L, W)
        hidden = self.model.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        hidden = self.model.post_layernorm(hidden)
        return self.model.head(hidden), hidden


def grouped(counts: list[int], budget: int) -> list[list[int]]:
    """Rows in groups of like length, each of at most `budget` tokens with its padding, short ones first.

    Examples:
        >>> grouped([4, 1, 4, 2], 8)
        [[1, 3], [0, 2]]
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(counts)), key=counts.__getitem__):
        if groups and (len(groups[-1]) + 1) * counts[row] <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _siglip2(config: Mapping[str, Any]) -> Any:
    if config.get("model_type") != _FAMILY or "vision_config" not in config:
        raise InputError(
            f"naflex config of {config.get('model_type')!r} must be {{'model_type': 'siglip2', 'vision_config': {{...}}}}"
        )
    return load(None, "image", False, config)


def _timm(architecture: str, pretrained: bool, options: dict[str, Any]) -> Any:
    if not architecture.startswith("naflexvit") or not timm.is_model(architecture):
        known = ", ".join(timm.list_models("naflexvit*"))
        raise InputError(f"naflex architecture {architecture!r} is none of timm's that read patches: {known}")
    check_options(options)
    try:
        return timm.create_model(architecture, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        raise InputError(f"timm's {architecture!r} does not take these options: {error}") from error
