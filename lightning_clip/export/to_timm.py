"""The format of timm: the image tower alone, a folder that `timm.create_model("local-dir:...", pretrained=True)` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_clip.encoders import HuggingFaceImageEncoder, ImageEncoder, TimmImageEncoder
from lightning_clip.encoders.projection import IdentityProjection, LinearProjection
from lightning_clip.encoders.timm_image import build_timm
from lightning_clip.export.formats import Format, formats, largest_difference, reason_not
from lightning_clip.export.interface import Exportable
from lightning_clip.model.space import CLIP_MEAN, CLIP_STD
from lightning_clip.weights import siglip
from lightning_clip.weights.rules import to_ours
from lightning_clip.weights.towers import NotHeld

__all__ = ["TimmFormat"]

_IMAGE = "image_encoder.model."
_CROPS = {"crop": "center", "floor_crop": "center", "squash": "squash"}
# What timm's architecture says of weights that it publishes, and that does not hold for these.
_OF_OTHERS = {"url", "hf_hub_id", "hf_hub_filename", "tag", "license", "origin_url", "paper_ids", "paper_name", "notes", "file"}
_OF_OTHERS |= {"label_offset", "label_names", "label_descriptions", "test_input_size", "test_crop_pct", "pool_size", "source"}


class _Tower(NamedTuple):
    """A timm model with the weights of an image tower.

    Attributes:
        model: with the projection as its last layer where it has a place for it.
        arguments: that it was built with beside its name.
        projected: whether the projection is in it.
    """

    model: Any
    arguments: dict[str, Any]
    projected: bool


@formats.register("timm")
class TimmFormat(Format):
    """config.json with `architecture`, `num_classes` and `pretrained_cfg`, and model.safetensors: the image tower alone.

    A linear projection into the shared space becomes the last layer, as in timm's own CLIP models: the output is what is
    normalised here, and `num_classes=0` leaves the features before it. Other heads have no place there, and are left out.
    """

    title = "timm"
    tags = ("clip", "image-feature-extraction", "timm", "lightning_clip")
    usage = """import timm

tower = timm.create_model("local-dir:{folder}", pretrained=True).eval()  # num_classes=0: before the projection
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(tower))
features = tower(prepare(picture).unsqueeze(0))
"""

    def columns(self, module: Exportable) -> Sequence[str]:
        """Images alone."""
        return ("image",)

    def reason(self, module: Exportable) -> str | None:
        """Why timm cannot hold the image tower exactly, or None."""
        if "image" not in module.model.columns:
            return "it has no image tower"
        if (resize := module.transform_settings.resize) not in _CROPS:
            return f"timm has no preprocessing like resize {resize!r}"
        return reason_not(lambda: _named(module.model.tower("image")))

    def write(self, module: Exportable, folder: Path) -> None:
        """Writes configuration and weights."""
        from timm.models import save_for_hf

        tower = _written(module)
        tower.model.pretrained_cfg = _settings(tower.model, module)
        save_for_hf(tower.model, str(folder), model_args=tower.arguments, safe_serialization=True)

    def differences(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, float]:
        """How far unit features are at most from the module's; where its head has no place in timm, from those before it."""
        found = self.features(module, folder, pixels, texts)["image"]
        image, backbone = module.predictor.encode_image_with_backbone(pixels)
        expected = image if _written(module).projected else normalize(backbone, dim=-1)
        return {"image": largest_difference(found, expected)}

    def features(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Unit features (B, D) of uint8 pixels (B, 3, S, S), by timm, from the folder alone."""
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        library: Any = timm.data
        settings = library.resolve_model_data_config(model)
        mean, std = (torch.tensor(settings[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        with torch.no_grad():
            return {"image": normalize(model((pixels.float() / 255 - mean) / std), dim=-1)}

    def notes(self, module: Exportable) -> list[str]:
        """What is not in the folder."""
        found = ["This folder holds the image tower alone: texts need the whole model."]
        head = module.model.head("image")
        if not _written(module).projected and not isinstance(head, IdentityProjection):
            found.append(f"Its head, a {type(head).__name__}, has no place in timm: features are those before it.")
        if module.transform_settings.resize == "floor_crop":
            found.append("The corner of the centre crop may lie one pixel elsewhere: timm rounds it to even.")
        return found


def _named(encoder: Any) -> tuple[str, int, dict[str, Any]]:
    """Name in timm, image size and options of an image tower.

    Raises:
        NotHeld: timm has none like it.
    """
    if type(encoder) is TimmImageEncoder:  # a subclass may compute something else
        return encoder.architecture, encoder.image_size, encoder.options
    if isinstance(encoder, HuggingFaceImageEncoder) and siglip.is_transformers_siglip(encoder):
        if (spec := siglip.timm_spec(encoder)) is not None:
            return spec.pop("name"), spec.pop("image_size"), spec
        raise NotHeld("none of timm's SigLIP towers has this activation")
    raise NotHeld(f"its image tower is a {type(encoder).__name__}, and timm holds its own alone")


def _written(module: Exportable) -> _Tower:
    """The image tower as a model of timm's, its projection as the last layer where that is a linear one.

    Raises:
        NotHeld: timm has none like it.
    """
    encoder, head = module.model.tower("image"), module.model.head("image")
    assert isinstance(encoder, ImageEncoder)  # `reason` has found it
    name, size, options = _named(encoder)
    model, arguments = build_timm(name, size, options, num_classes=module.embed_dim)
    last = _last_layer(model)
    projected = isinstance(head, LinearProjection) and _takes(last, head)
    if not projected:
        model, arguments = build_timm(name, size, options)
    weights = module.model.state_dict()
    if not isinstance(encoder, TimmImageEncoder):  # transformers' SigLIP
        weights = to_ours(siglip.image_rules(len(encoder.blocks()), _IMAGE), weights, "the model")
    own = {key.removeprefix(_IMAGE): value for key, value in weights.items() if key.startswith(_IMAGE)}
    if projected:
        nn.init.zeros_(last.bias) if last.bias is not None else None
        last.load_state_dict(head.state_dict(), strict=False)  # of a head without a bias the zeros stay
        own = {**model.state_dict(), **own}
    model.load_state_dict(own)
    return _Tower(model.eval(), arguments, projected)


def _last_layer(model: Any) -> Any:
    """What timm calls a model's classifier; None where it has none, or several."""
    name = dict(model.pretrained_cfg).get("classifier")
    try:
        return model.get_submodule(name) if isinstance(name, str) else None
    except AttributeError:
        return None


def _takes(last: object, head: LinearProjection) -> bool:
    """Whether timm's last layer can be a projection."""
    if not isinstance(last, nn.Linear) or last.weight.shape != head.weight.shape:
        return False
    return head.bias is None or last.bias is not None


def _settings(model: Any, module: Exportable) -> dict[str, Any]:
    """The `pretrained_cfg`: how pictures are prepared, and that the weights are as they are."""
    transform, size = module.transform_settings, module.image_size
    known = {key: value for key, value in dict(model.pretrained_cfg).items() if key not in _OF_OTHERS and value is not None}
    return {
        **known,
        "input_size": (module.model.mean.shape[1], size, size),
        "mean": tuple(transform.mean or CLIP_MEAN),
        "std": tuple(transform.std or CLIP_STD),
        "interpolation": transform.interpolation,
        # timm rounds size / crop_pct down, which must not end a pixel below.
        "crop_pct": 1.0 if transform.resize_to is None else module.image_size / (transform.resize_to + 0.5),
        "crop_mode": _CROPS[transform.resize],
        "num_classes": model.num_classes,
        "custom_load": False,
    }
