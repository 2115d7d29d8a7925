"""Any timm backbone as an image tower, by its name and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lightning_clip.core.errors import IMPORT_HINT, InputError, UnknownName, nearest
from lightning_clip.core.settings import in_range
from lightning_clip.encoders.base import ImageEncoder
from lightning_clip.encoders.dense import DenseView
from lightning_clip.encoders.dense_maps import timm_map
from lightning_clip.encoders.dense_vits import TimmVit
from lightning_clip.encoders.fewer_tokens import drop_tokens, take_sizes
from lightning_clip.encoders.lean_block import LeanBlock, make_lean, through
from lightning_clip.encoders.patches import use_products
from lightning_clip.encoders.recomputed import untouched

__all__ = ["TimmImageEncoder", "build_timm", "check_options"]

# Where timm's families keep their repeated layers.
_BLOCK_ATTRIBUTES = ("blocks", "stages", "layers")
# Options of timm that are sizes or counts; a negative one would only be met in the middle of a tower.
_SIZES = {"image_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "in_chans"}


class TimmImageEncoder(ImageEncoder):
    """A timm model without its classification head.

    Args:
        architecture: any name timm knows, such as "vit_tiny_patch16_224" or "resnet50_clip".
        image_size: side of the square input in pixels; None takes the architecture's own.
        pretrained: load timm's published weights (needs the network once). A checkpoint never downloads them again.
        **options: handed on to `timm.create_model` (patch_size, drop_path_rate, depth, in_chans, ...).

    Raises:
        InputError: timm does not know the name, or the architecture cannot take the options.

    Examples:
        >>> import torch
        >>> encoder = TimmImageEncoder("vit_tiny_patch16_224", image_size=32, patch_size=8, depth=1)
        >>> encoder(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 192])
    """

    architecture: str

    def __init__(self, architecture: str, image_size: int | None = None, *, pretrained: bool = False, **options: Any) -> None:
        if not timm.is_model(architecture):
            raise UnknownName(
                f"unknown image encoder {architecture!r}: it is neither registered nor a timm model; "
                f"{_nearest_timm(architecture)}",
                "image encoder",
                architecture,
            )
        check_options(options)
        for name, value in {"image_size": image_size, **options}.items():
            if name in _SIZES and value is not None:
                for part in value if isinstance(value, list | tuple) else (value,):
                    in_range(f"image encoder {architecture!r}: {name}", part, 0, open_low=True)
        model: Any = build_timm(architecture, image_size, options, pretrained=pretrained)[0]
        if any(isinstance(layer, nn.Linear) and not layer.out_features for layer in model.modules()):
            model.reset_classifier(0)  # timm before 1.0.31 makes a classifier of no classes for some networks, not none
        size = image_size or int(model.pretrained_cfg["input_size"][-1])
        # Mobile networks have a hidden layer after their pooling, which widens the features.
        width = int(getattr(model, "head_hidden_size", None) or model.num_features)
        super().__init__(output_dim=width, image_size=size)
        self.architecture, self.options = architecture, options
        self.channels = int(options.get("in_chans", 3))
        use_products(model)
        make_lean(model)
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> (B, output_dim)."""
        if reads_class_token(self.model):
            return at_class_token(self.model, image)
        features: Tensor = self.model(image)  # (B, 3, S, S) -> (B, W)
        return features

    def forward_tokens(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> (B, L, W): what timm's model hands to its pooling."""
        model: Any = self.model
        return tokens_of(model.forward_features(image))

    def forward_both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float pixels (B, 3, S, S) -> features (B, output_dim) and tokens (B, L, W), in one pass."""
        model: Any = self.model
        hidden: Tensor = model.forward_features(image)  # (B, 3, S, S) -> (B, L, W) or a map (B, W, rows, columns)
        features: Tensor = model.forward_head(hidden)  # -> (B, W), without a classifier: `num_classes` is 0
        return features, tokens_of(hidden)

    def dense_view(self) -> DenseView:
        """A plain ViT block by block; of other models what comes before their pooling."""
        return timm_view(self.model)

    def drop_tokens(self, share: float) -> None:
        """From now on a ViT drops that share of its patches in training."""
        drop_tokens(self.model, share)

    def take_sizes(self) -> None:
        """From now on takes smaller images, too: a ViT interpolates its positions."""
        take_sizes(self.model)

    def blocks(self) -> list[nn.Module]:
        """The layers of the list that timm's family keeps them in, or a ResNet's four stages."""
        for name in _BLOCK_ATTRIBUTES:
            layers = getattr(self.model, name, None)
            if isinstance(layers, nn.Sequential | nn.ModuleList):
                return list(layers)
        return [layer for name, layer in self.model.named_children() if name.startswith("layer")]

    def checkpoint_blocks(self) -> None:
        """By timm's own checkpointing.

        Raises:
            InputError: the architecture has none.
        """
        try:
            self.model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise InputError(
                f"timm's {self.architecture!r} cannot checkpoint its activations: omit 'image' from execution.checkpoint"
            ) from error

    def to_mapping(self) -> dict[str, Any]:
        """The architecture's name, image size and options."""
        return {"name": self.architecture, "image_size": self.image_size, **self.options}


def timm_view(model: nn.Module, head: nn.Module | None = None) -> DenseView:
    """Any model of timm's as a dense view.

    Args:
        model: without a classifier.
        head: what follows it; None for nothing.
    """
    return TimmVit(model, head) if untouched(model, VisionTransformer) else timm_map(model, head)


def tokens_of(hidden: Tensor) -> Tensor:
    """What comes before a tower's pooling as tokens: a map (B, W, rows, columns), or tokens (B, L, W) -> (B, L, W)."""
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden  # (B, W, r, c) -> (B, r c, W)


def reads_class_token(model: nn.Module) -> bool:
    """Whether a model's features are those of its class token alone, and it is timm's plain ViT, so that how they come about
    is known.
    """
    vit: Any = model
    if not (untouched(model, VisionTransformer) and vit.global_pool == "token" and vit.attn_pool is None and vit.blocks):
        return False
    return isinstance(vit.blocks[-1], LeanBlock)


def at_class_token(model: Any, image: Tensor) -> Tensor:
    """What timm's ViT gives (B, W), its last block computed for the class token alone."""
    hidden = model.patch_drop(model._pos_embed(model.patch_embed(image)))  # (B, 3, S, S) -> (B, L, W)
    hidden = model.norm_pre(hidden)
    *blocks, last = model.blocks
    for block in blocks:
        hidden = through(block, hidden, model.grad_checkpointing)
    hidden = through(last, hidden, model.grad_checkpointing, read=0)  # (B, L, W) -> (B, 1, W)
    features: Tensor = model.forward_head(model.norm(hidden))
    return features


def check_options(options: dict[str, Any]) -> None:
    """Refuses what makes timm read a file: it unpickles whatever stands in it."""
    settings = [options.get(key) for key in ("pretrained_cfg", "pretrained_cfg_overlay")]
    if "checkpoint_path" in options or any(isinstance(given, dict) and "file" in given for given in settings):
        raise InputError(
            "image_encoder.checkpoint_path (or pretrained_cfg.file) is not read, as timm would run what is in the file: give "
            "the weights of a whole model as pretrained"
        )


def build_timm(
    architecture: str, image_size: int | None, options: Mapping[str, Any], *, num_classes: int = 0, pretrained: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """A timm model, and the arguments that it took beside its name: only those with position tables (ViT, Swin) take a size.

    Args:
        architecture: a name that timm knows.
        image_size: side of the square input in pixels; None takes the architecture's own.
        options: handed on to `timm.create_model`.
        num_classes: width of its last layer; 0 for none.
        pretrained: load timm's published weights.

    Raises:
        InputError: the architecture does not take the options.
    """
    arguments = dict(options)
    sized = {"img_size": image_size, **arguments} if image_size else arguments
    try:
        return timm.create_model(architecture, pretrained=pretrained, num_classes=num_classes, **sized), sized
    except TypeError as error:
        if "img_size" not in str(error) or not image_size:
            raise InputError(f"timm's {architecture!r} does not take these options: {error}") from error
    try:
        return timm.create_model(architecture, pretrained=pretrained, num_classes=num_classes, **arguments), arguments
    except TypeError as error:
        raise InputError(f"timm's {architecture!r} does not take these options: {error}") from error


def _nearest_timm(name: str) -> str:
    matches = nearest(name, timm.list_models()).split(" Known:")[0]
    return matches if matches.startswith("did you mean") else f"timm.list_models() lists them all. {IMPORT_HINT}"
