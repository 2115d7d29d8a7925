"""CoCa's decoder of open_clip, in and out."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_clip.encoders import OpenClipImageEncoder, OpenClipTextEncoder
from lightning_clip.encoders.caption_decoder import CaptionDecoder
from lightning_clip.model.space import SharedSpace
from lightning_clip.weights.source import Pretrained
from lightning_clip.weights.towers import under

__all__ = ["with_decoder", "write_decoder"]

log = logging.getLogger(__name__)
_OURS, _THEIRS = "captioner.model.", "text_decoder."
# Settings of open_clip's `multimodal_cfg` that its decoder has.
_SETTINGS = ("width", "layers", "heads", "context_length")


def with_decoder(found: Pretrained, model: Any, config: dict[str, Any]) -> Pretrained:
    """A source of both towers, completed by the decoder: its objective is CoCa's.

    Args:
        found: towers, heads and temperature.
        model: open_clip's CoCa, with weights.
        config: its settings.
    """
    from open_clip.coca_model import MultimodalCfg

    settings = MultimodalCfg(**config["multimodal_cfg"])
    if not settings.width == config["embed_dim"] == model.text.width:  # open_clip builds it so, and cannot run it
        own = settings.width, config["embed_dim"], model.text.width
        log.warning("%s has a decoder of width %d, which cannot read tokens of widths %d and %d: omitted", found.name, *own)
        return found
    decoder: dict[str, Any] = {key: getattr(settings, key) for key in _SETTINGS}
    decoder |= {"quick_gelu": True} if config.get("quick_gelu") else {}
    objective = {"name": "coca", "decoder": decoder, "loss": found.recipe.objective["loss"]}
    state = {key: value.detach().float().cpu() for key, value in model.text_decoder.state_dict(prefix=_THEIRS).items()}
    return replace(found, recipe=replace(found.recipe, objective=objective), parts=under(_THEIRS, state, _OURS))


def write_decoder(space: SharedSpace) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Settings (`multimodal_cfg`) and weights as open_clip has them; None where it has none like it.

    open_clip's decoder takes the tokens of its own towers as they are: of an image tower that pools by attention and a text
    tower with a class token.

    Args:
        space: the model, maybe with a captioner.
    """
    captioner = getattr(space, "captioner", None)
    if not isinstance(captioner, CaptionDecoder):
        return None
    image, text = space.tower("image"), space.tower("text")
    wrapped = isinstance(image, OpenClipImageEncoder) and isinstance(text, OpenClipTextEncoder)
    state = captioner.state_dict(prefix="captioner.")
    if not wrapped or any(not key.startswith(_OURS) for key in state):
        return None
    first, width, layers = captioner.model.resblocks[0], len(captioner.model.text_projection), len(captioner.model.resblocks)
    if first.mlp.c_fc.out_features != 4 * width:
        return None
    heads = first.attn.num_heads
    settings = {"context_length": captioner.context_length, "vocab_size": captioner.vocab_size}
    weights = {key: value.detach().clone().contiguous() for key, value in under(_OURS, state, _THEIRS).items()}
    return {**settings, "width": width, "heads": heads, "layers": layers}, weights
