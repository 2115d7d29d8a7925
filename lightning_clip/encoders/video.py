"""Video towers over an image tower: frames are encoded as one batch of images, and pooled over time (CLIP4Clip)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import Self

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range, mapping
from lightning_clip.encoders.base import ImageEncoder, Tower, image_encoders, towers
from lightning_clip.encoders.lean_block import LeanBlock
from lightning_clip.encoders.projection import projections

__all__ = ["MeanPooledVideo", "SequentialVideo", "VideoTower", "masked_mean", "padded_frames"]

# Of CLIP's training images (openai/CLIP), as in `SharedSpace`, which stands above this floor.
_OF_CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def padded_frames(values: list[Any]) -> tuple[Tensor, Tensor]:
    """Frames of B videos as one tensor, short ones padded with black frames.

    Args:
        values: uint8 (T_i, 3, H, W) each, of one size.

    Returns:
        Frames (B, T, 3, H, W), T being the longest video's, and bool (B, T), True on frames that are there.

    Raises:
        InputError: a value of another shape, a video without frames, or videos of different sizes.

    Examples:
        >>> frames, mask = padded_frames([torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8)])
        >>> frames.shape, mask.tolist()
        (torch.Size([2, 2, 3, 8, 8]), [[True, True], [True, False]])
    """
    clips = [torch.as_tensor(value) for value in values]
    for clip in clips:
        if clip.ndim != 4 or clip.shape[1] != 3 or not len(clip):
            raise InputError(
                f"a video of shape {tuple(clip.shape)} is none: give its frames as uint8 (T, 3, H, W), T at least 1"
            )
    sizes = sorted({tuple(clip.shape[2:]) for clip in clips})
    if len(sizes) > 1:
        raise InputError(f"videos of different sizes in one batch, {sizes[0]} and {sizes[-1]}: set size in their source")
    lengths = torch.tensor([len(clip) for clip in clips])
    frames = pad_sequence(clips, batch_first=True)  # B x (T_i, 3, H, W) -> (B, T, 3, H, W)
    return frames, torch.arange(frames.shape[1])[None, :] < lengths[:, None]


def masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """The mean of unit features over the frames that are there (CLIP4Clip, section 3.3, parameter-free).

    Args:
        frames: (B, T, W), of any length.
        mask: bool (B, T), True on frames that are there, at least one a row.

    Returns:
        (B, W), of unit length.
    """
    there = mask.unsqueeze(2).to(frames.dtype)  # (B, T, 1)
    unit = normalize(frames, dim=-1) * there
    return normalize(unit.sum(dim=1) / there.sum(dim=1), dim=-1)  # (B, T, W) -> (B, W)


class VideoTower(Tower):
    """Base of towers that encode each frame as an image tower does; a subclass says in `pool` what becomes of them over time.

    Args:
        image: the image tower: a name, a mapping or an `ImageEncoder`. None, as in `pretrained=...` with an image-text model,
            takes over that model's tower, its head and its normalisation.
        width: W of the features, into which the frames' are projected before they are pooled, as CLIP4Clip does; None keeps the
            image tower's. Use it with `projection: none` and `embed_dim` of that width.
        head: of the frames, where there is a width: "linear", "mlp" or a mapping.
        normalise: {"mean": [r, g, b], "std": [r, g, b]} for pixels in [0, 1]; None takes CLIP's.
        frozen: the image tower and its head are not trained.

    Raises:
        InputError: no image tower, or a width below 1.
    """

    column = "video"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image: Any = None,
        width: int | None = None,
        *,
        head: Any = "linear",
        normalise: Mapping[str, Any] | None = None,
        frozen: bool = False,
    ) -> None:
        if image is None:
            raise InputError(
                "a video tower needs an image tower: give image: NAME, or pretrained: an image-text model whose tower it takes"
            )
        built: ImageEncoder = image_encoders.build(image)
        if width is not None:
            in_range("video width", width, 1, whole=True)
        super().__init__(output_dim=width or built.output_dim)
        self.image, self.width, self.head = image, width, head
        self.image_size = built.image_size
        self.image_encoder = built
        sizes = {"input_dim": built.output_dim, "embed_dim": self.output_dim}
        self.image_projection = projections.build("none" if width is None else head, **sizes)
        self.normalise = {**_OF_CLIP, **mapping(normalise, "video tower's normalise")}
        for name in _OF_CLIP:
            self.register_buffer(name, torch.tensor(self.normalise[name]).view(1, -1, 1, 1), persistent=False)
        self.frozen = frozen
        if frozen:
            self.image_encoder.requires_grad_(False)
            self.image_projection.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As everywhere, but a frozen image tower stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.image_encoder.eval()
        return self

    @staticmethod
    def collate(values: list[Any]) -> tuple[Tensor, Tensor]:
        """As `padded_frames`."""
        return padded_frames(values)

    def example(self, size: int) -> tuple[Tensor, Tensor]:
        """Eight frames each."""
        frames = torch.zeros(size, 8, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return frames, torch.ones(size, 8, dtype=torch.bool)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Pixels (B, T, 3, H, W), uint8 or already normalised, and mask bool (B, T) -> (B, output_dim)."""
        return self.pool(self.frame_features(frames), mask)

    def frame_features(self, frames: Tensor) -> Tensor:
        """Pixels (B, T, 3, H, W) -> (B, T, output_dim), each frame as the image tower and its head see it."""
        flat = self._normalised(frames.flatten(0, 1))  # (B, T, 3, H, W) -> (B * T, 3, S, S)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: Tensor = self.image_projection(self.image_encoder(flat))  # -> (B * T, W)
        return features.view(*frames.shape[:2], -1)  # -> (B, T, W)

    @abstractmethod
    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames (B, T, W) and mask bool (B, T), True on those that are there -> (B, W)."""

    def blocks(self) -> list[nn.Module]:
        """Those of the image tower."""
        return self.image_encoder.blocks()

    def checkpoint_blocks(self) -> None:
        """Those of the image tower.

        Raises:
            InputError: it cannot.
        """
        self.image_encoder.checkpoint_blocks()

    def to_mapping(self) -> dict[str, Any] | None:
        """All settings, the image tower as it describes itself; None for one that was passed as an object and cannot."""
        image = self.image_encoder.to_mapping() or (self.image if isinstance(self.image, str | Mapping) else None)
        if image is None or not isinstance(self.head, str | Mapping):
            return None
        own = {key: getattr(self, key) for key in ("width", "head", "frozen", "normalise")}
        return {"image": image, **own}

    def _normalised(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            wide = pixels.float()
            size = (self.image_size, self.image_size)
            small = interpolate(wide, size, mode="bicubic", antialias=True, align_corners=False)
            pixels = small.round().clamp(0, 255).to(torch.uint8) if pixels.dtype == torch.uint8 else small
        if pixels.dtype == torch.uint8:
            pixels = (pixels.float() / 255 - self.mean.float()) / self.std.float()
        dtype = next((weight.dtype for weight in self.parameters() if weight.is_floating_point()), pixels.dtype)
        return pixels.to(dtype)


@towers.register("meanP")
class MeanPooledVideo(VideoTower):
    """The mean over frames (CLIP4Clip's meanP; Luo et al. 2021, arXiv 2104.08860, section 3.3): no parameter beyond the image
    tower's, and blind to the order of frames.

    Examples:
        >>> tower = MeanPooledVideo({"name": "resnet10t", "image_size": 32}, width=16)
        >>> tower(*tower.collate([torch.zeros(3, 3, 32, 32), torch.ones(2, 3, 32, 32)])).shape
        torch.Size([2, 16])
    """

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """As `masked_mean`."""
        return masked_mean(frames, mask)

    def to_mapping(self) -> dict[str, Any] | None:
        """All settings."""
        found = super().to_mapping()
        return None if found is None else {"name": "meanP", **found}


@towers.register("seqTransf")
class SequentialVideo(VideoTower):
    """A Transformer over the frames with learned places, its output added to its input, then their mean (CLIP4Clip's
    seqTransf, section 3.3, sequential type).

    Args:
        layers: of the Transformer, 4 in the paper.
        heads: of each layer; None takes one for each 64 of the width, as the paper.
        most_frames: places that are learned; longer videos are refused.

    Raises:
        InputError: a number below 1, or a width that is no multiple of the heads.

    Examples:
        >>> tower = SequentialVideo({"name": "resnet10t", "image_size": 32}, width=16, layers=1, heads=2)
        >>> tower(*tower.collate([torch.zeros(3, 3, 32, 32), torch.ones(2, 3, 32, 32)])).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        image: Any = None,
        width: int | None = None,
        *,
        head: Any = "linear",
        normalise: Mapping[str, Any] | None = None,
        frozen: bool = False,
        layers: int = 4,
        heads: int | None = None,
        most_frames: int = 64,
    ) -> None:
        super().__init__(image, width, head=head, normalise=normalise, frozen=frozen)
        heads = max(1, self.output_dim // 64) if heads is None else heads
        for name, value in (("layers", layers), ("heads", heads), ("most_frames", most_frames)):
            in_range(f"seqTransf: {name}", value, 1, whole=True)
        if self.output_dim % heads:
            raise InputError(f"seqTransf: width {self.output_dim} is not a multiple of heads {heads}")
        self.layers, self.heads, self.most_frames = layers, heads, most_frames
        self.places = nn.Parameter(torch.empty(most_frames, self.output_dim))
        self.temporal = nn.ModuleList(
            LeanBlock(self.output_dim, heads, qkv_bias=True, act_layer=nn.GELU, norm_layer=nn.LayerNorm) for _ in range(layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As CLIP's text Transformer, so that a new one is near mean pooling, but with places that are seen at once."""
        nn.init.normal_(self.places, std=0.5)
        residual = self.output_dim**-0.5 * (2 * self.layers) ** -0.5
        block: Any
        for block in self.temporal:
            stds = {block.attn.qkv: self.output_dim**-0.5, block.attn.proj: residual, block.mlp.fc2: residual}
            for layer, std in {**stds, block.mlp.fc1: (2 * self.output_dim) ** -0.5}.items():
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """As `masked_mean` of the frames after they have looked at each other."""
        length = frames.shape[1]
        if length > self.most_frames:
            raise InputError(
                f"a video of {length} frames is longer than seqTransf's most_frames {self.most_frames}: set frames in the "
                "source, or most_frames"
            )
        looked = frames + self.places[:length].to(frames.dtype)  # (B, T, W)
        there = mask[:, None, None, :].expand(-1, 1, length, -1)  # (B, T) -> (B, 1, T, T): nobody looks at padding
        for block in self.temporal:
            looked = block(looked, attn_mask=there)
        return masked_mean(looked + frames, mask)

    def blocks(self) -> list[nn.Module]:
        """Those of the image tower, then the temporal ones."""
        return [*super().blocks(), *self.temporal]

    def to_mapping(self) -> dict[str, Any] | None:
        """All settings."""
        found = super().to_mapping()
        own = {"layers": self.layers, "heads": self.heads, "most_frames": self.most_frames}
        return None if found is None else {"name": "seqTransf", **found, **own}
