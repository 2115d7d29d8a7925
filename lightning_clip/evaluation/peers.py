"""Models of open_clip and transformers, as they are, for evaluation beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.errors import InputError, nearest
from lightning_clip.evaluation.models import EvaluatedModel, file_in, unreachable

__all__ = ["HuggingFaceModel", "OpenClipModel", "open_hugging_face", "open_open_clip"]

_RESIZES = {"shortest": "crop", "longest": "pad", "squash": "squash"}
_RESAMPLES = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


class OpenClipModel(EvaluatedModel):
    """A model of open_clip with its tokenizer.

    Args:
        model: `open_clip.create_model(...)`.
        tokenizer: strings -> ids (B, L).
        name: in tables.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        from open_clip import get_model_preprocess_cfg

        settings = get_model_preprocess_cfg(model)
        size = settings["size"]
        mode = settings.get("resize_mode", "shortest")
        transform = ImageTransformSettings(
            resize=_RESIZES[mode], interpolation=settings.get("interpolation", "bicubic").replace("random", "bicubic")
        )
        super().__init__(name, int(size[0] if isinstance(size, tuple | list) else size), transform)
        self.model, self.tokenizer = model, tokenizer
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"]).view(1, 3, 1, 1), persistent=False)

    @property
    def scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        visual, pixels = self.model.visual, (image.float() / 255 - self.mean) / self.std
        projection = getattr(visual, "proj", None)
        if isinstance(projection, Tensor):
            visual.proj = None
            try:
                backbone = visual(pixels)
            finally:
                visual.proj = projection
            features = backbone @ projection
        elif hasattr(visual, "trunk"):  # a timm tower
            backbone = visual.trunk(pixels)
            features = visual.head(backbone)
        else:  # CLIP's ResNets project inside their attention pooling
            backbone = features = visual(pixels)
        return normalize(features, dim=-1).float(), backbone.float()

    def encode_tokens(self, texts: Sequence[str]) -> Tensor:
        tokens: Tensor = self.tokenizer(list(texts)).to(self.device)
        features: Tensor = self.model.encode_text(tokens, normalize=True)
        return features


class HuggingFaceModel(EvaluatedModel):
    """A two-tower model of transformers: CLIP, SigLIP, ChineseCLIP, AltCLIP and those that are built alike.

    Args:
        model: with `get_image_features` and `get_text_features`.
        tokenizer: of transformers.
        processor: the image processor, whose settings are taken over.
        name: in tables.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, tokenizer: Any, processor: Any, name: str) -> None:
        size, resize = _size_of(processor)
        transform = ImageTransformSettings(resize=resize, interpolation=_RESAMPLES.get(int(processor.resample), "bicubic"))
        super().__init__(name, size, transform)
        self.model, self.tokenizer = model, tokenizer
        self.register_buffer("mean", torch.tensor(processor.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(processor.image_std).view(1, 3, 1, 1), persistent=False)

    @property
    def scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pixels = (image.float() / 255 - self.mean) / self.std
        backbone = _pooled(self.model.vision_model(pixel_values=pixels))
        projection = getattr(self.model, "visual_projection", None)
        features = backbone if projection is None else projection(backbone)
        return normalize(features, dim=-1).float(), backbone.float()

    def encode_tokens(self, texts: Sequence[str]) -> Tensor:
        text = getattr(self.model.config, "text_config", self.model.config)
        longest = min(int(getattr(text, "max_position_embeddings", 77)), 512)
        fixed = "siglip" in type(self.model).__name__.lower()  # was trained with padding, and reads its last place
        ids = self.tokenizer(
            list(texts), padding="max_length" if fixed else True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        return normalize(_pooled(self.model.get_text_features(**ids)), dim=-1)


def open_open_clip(name: str) -> OpenClipModel:
    """`NAME/PRETRAINED` (a tag or a file), or `local-dir:FOLDER`.

    Raises:
        InputError: unknown name or tag, or weights that cannot be had.
    """
    import open_clip

    if name.startswith("local-dir:"):
        model_name, pretrained = name, None
    else:
        model_name, slash, pretrained = name.partition("/")
        if not slash or not pretrained:
            raise InputError(f"model 'open_clip:{name}' must be open_clip:NAME/PRETRAINED, such as open_clip:ViT-B-32/openai")
        if model_name not in open_clip.list_models():
            raise InputError(f"open_clip has no model {model_name!r}: {nearest(model_name, open_clip.list_models())}")
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        if file_in(pretrained) is None and pretrained not in tags:
            raise InputError(f"open_clip has no weights {pretrained!r} of {model_name}: {nearest(pretrained, tags)}, or a file")
    try:
        model = open_clip.create_model(model_name, pretrained=pretrained)
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # of several libraries
        raise unreachable(f"open_clip:{name}", error) from error
    return OpenClipModel(model, tokenizer, f"open_clip {name}")


def open_hugging_face(name: str) -> HuggingFaceModel:
    """A name on the hub or a folder; no code of the repository is run, weights are read as safetensors or tensors only.

    Raises:
        InputError: weights that cannot be had, or a model that is no pair of towers.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(name, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # of several libraries
        raise unreachable(f"hf:{name}", error) from error
    if not hasattr(model, "get_text_features") or not hasattr(model, "vision_model"):
        raise InputError(f"hf:{name} is a {type(model).__name__}, not a model of an image and a text tower")
    return HuggingFaceModel(model, tokenizer, processor, f"hf {name}")


def _pooled(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found


def _size_of(processor: Any) -> tuple[int, str]:
    size: dict[str, Any] = dict(processor.size)
    if "shortest_edge" in size:
        crop: dict[str, Any] = dict(processor.crop_size or {}) if getattr(processor, "do_center_crop", True) else {}
        return int(crop.get("height", size["shortest_edge"])), "crop"
    return int(size["height"]), "squash"
