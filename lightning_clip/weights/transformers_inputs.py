"""How transformers prepares texts and pictures: its tokenizers in our words, its image processors in and out."""

from __future__ import annotations

from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.data.tokenizers import from_transformers
from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.model.space import CLIP_MEAN, CLIP_STD
from lightning_clip.weights.files import unreachable

__all__ = ["read_tokenizer", "read_transform", "room_of", "write_processor"]

_COMMON_FORM = "SentencePiece's form alone is not read: put its tokenizer.json beside the weights, or "
_PROBES = ["a photo of 2 Dogs, on the beach!", "Tom's cat_1  (grey)"]
_RESAMPLES = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
_OUR_RESAMPLES = {theirs: ours for ours, theirs in _RESAMPLES.items()}


def room_of(tower: Any) -> int:
    """How many tokens a text tower takes; RoBERTa's kind loses the positions up to that of padding."""
    length = int(tower.config.max_position_embeddings)
    padding = getattr(getattr(getattr(tower, "embeddings", None), "position_embeddings", None), "padding_idx", None)
    roberta = "roberta" in type(tower).__name__.lower() or tower.config.model_type in ("altclip_text_model", "camembert")
    return length - (padding if padding is not None else tower.config.pad_token_id) - 1 if roberta else length


def read_tokenizer(name: str, model: Any, label: str) -> tuple[dict[str, Any] | None, InputError | None]:
    """The tokenizer as a mapping of ours, or why there is none.

    Args:
        name: on the hub, or a folder.
        model: the live model that it belongs to.
        label: of the source, for messages.
    """
    remedy = ""
    try:
        live, remedy, problem = _live_tokenizer(name)
        if problem is not None:
            raise problem
        length = min(live.model_max_length, room_of(model.text_model), 512)
        if len(live) < 0.5 * model.text_model.config.vocab_size:  # transformers makes up an empty one where files are missing
            raise ValueError(f"it has {len(live)} ids, and the text tower {model.text_model.config.vocab_size}")
        return from_transformers(live, label, length).to_mapping(), None
    except InputError as error:
        return None, error
    except Exception as error:  # of several libraries
        return None, InputError(
            f"the tokenizer of {label} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:160]}): "
            f"{remedy}pass one that belongs to these weights, tokenizer='hf:NAME_OR_FOLDER'"
        )


def _live_tokenizer(name: str) -> tuple[Any, str, Exception | None]:
    """A fast tokenizer of transformers, what to say where it fails, and why it cannot be used.

    SigLIP's class reads its own format, beside which there may be the common one.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    remedy = ""
    try:
        live: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        if live.is_fast:
            return live, "", None
        remedy = _COMMON_FORM
    except Exception as error:  # a library that it needs may be missing, or the folder may lack it
        live = None
        remedy = _COMMON_FORM if "sentencepiece" in str(error).lower() else ""
    try:
        fast = PreTrainedTokenizerFast.from_pretrained(name)
        if live is not None and live(_PROBES)["input_ids"] != fast(_PROBES)["input_ids"]:
            raise ValueError(f"its tokenizer.json gives other ids than {type(live).__name__}")
        fast.padding_side = getattr(live, "padding_side", fast.padding_side)  # a class may have a side of its own
    except Exception as error:  # of several libraries
        return None, remedy, error
    return fast, remedy, None


def read_transform(name: str, label: str) -> dict[str, Any]:
    """Settings of the image processor.

    Raises:
        InputError: no processor, or one that does something else than resize, crop and normalise.
    """
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # of several libraries
        raise unreachable(f"the image processor of {label}", error) from error
    if getattr(processor, "include_top", False):
        raise InputError(f"the image processor of {label} normalises twice (include_top): only once is supported")
    for step in ("do_resize", "do_rescale"):
        if not getattr(processor, step, True):
            raise InputError(f"the image processor of {label} has {step} off: only those that resize and rescale are supported")
    patches = getattr(processor, "max_num_patches", None)  # of SigLIP 2 with variable sizes
    sizes = {"patch_size": int(processor.patch_size), "max_patches": int(patches)} if patches else _sizes_of(processor, label)
    resize = {"resize": "patches", **sizes} if patches else sizes
    resample = int(processor.resample)
    if resample not in _OUR_RESAMPLES:
        raise InputError(f"{label} resizes with PIL's filter {resample}: only bilinear and bicubic are supported")
    return {**resize, "interpolation": _OUR_RESAMPLES[resample], **_colours(processor, label)}


def write_processor(settings: ImageTransformSettings, image_size: int) -> Any:
    """Transformers' image processor from our transform's settings, for square images of `image_size` pixels."""
    from transformers import CLIPImageProcessor

    square = {"height": image_size, "width": image_size}
    squash, side = settings.resize == "squash", settings.resize_to or image_size
    sizes: dict[str, Any] = {"size": {"height": side, "width": side} if squash else {"shortest_edge": side}}
    sizes |= {"crop_size": square, "do_center_crop": not squash or side > image_size}
    colours: dict[str, Any] = {"image_mean": list(settings.mean or CLIP_MEAN), "image_std": list(settings.std or CLIP_STD)}
    return CLIPImageProcessor(**sizes, **colours, resample=_RESAMPLES[settings.interpolation], do_convert_rgb=True)


def _sizes_of(processor: Any, label: str) -> dict[str, Any]:
    """Which of our ways to a square a processor goes."""
    size = _sizes(processor.size)
    crop = _sizes(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    sides, cut = {*size.values()}, {*crop.values()}
    way = {("shortest_edge",): "floor_crop", ("height", "width"): "squash"}.get(tuple(sorted(size)))
    if way is None or len(sides) != 1 or len(cut) > 1 or (way == "floor_crop" and not cut) or min(sides) < max(cut, default=1):
        raise InputError(
            f"{label} resizes to {size} and crops to {crop or 'nothing'}: only squares are supported, cut out of no less"
        )
    (side,) = sides
    return {"resize": way, **({"resize_to": int(side)} if cut and cut != sides else {})}


def _colours(processor: Any, label: str) -> dict[str, list[float]]:
    """Mean and standard deviation of pixels in [0, 1], whatever a processor rescales and shifts before."""
    factor, offset = 255 * float(processor.rescale_factor), float(getattr(processor, "rescale_offset", None) or 0)
    if not factor > 0:
        raise InputError(f"{label} rescales pixels by {processor.rescale_factor}: only factors above 0 are supported")
    mean, std = [0.0] * 3, [1.0] * 3
    if getattr(processor, "do_normalize", True):
        mean, std = _channels(processor.image_mean), _channels(processor.image_std)
    if abs(factor - 1) < 1e-6 and not offset:
        return {"mean": mean, "std": std}
    return {"mean": [(offset + value) / factor for value in mean], "std": [value / factor for value in std]}


def _sizes(value: Any) -> dict[str, Any]:
    return {key: side for key, side in dict(value or {}).items() if side is not None}


def _channels(value: Any) -> list[float]:
    """Per channel; one number stands for all of them."""
    return [float(value)] * 3 if isinstance(value, int | float) else list(value)
