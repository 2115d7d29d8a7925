"""transformers' families of two-tower models: what each is made of, and which of them a model of ours is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lightning_clip.encoders import ClipTextTransformer, HuggingFaceImageEncoder, HuggingFaceTextEncoder, Tower
from lightning_clip.encoders.projection import IdentityProjection, LinearProjection
from lightning_clip.weights.shapes import clip_vit, has_bias
from lightning_clip.weights.towers import NotHeld, TwoTowers

__all__ = ["BESIDE", "DUAL", "FAMILIES", "SAME_AS", "Family", "check_heads", "family_of", "sibling"]

DUAL = "vision-text-dual-encoder"  # any image tower beside any text tower


@dataclass(frozen=True)
class Family:
    """What all models of a family have in common.

    Attributes:
        pooling: of its text tower: "pooler" is the tower's own output, "cls" the first token.
        clip_images: whether its image tower is CLIP's Vision Transformer.
        heads: whether its towers have linear projections without a bias; else none of their own.
        bias: whether its logits have one.
        written: whether models of ours are written as one of it.
    """

    pooling: str = "pooler"
    clip_images: bool = True
    heads: bool = True
    bias: bool = False
    written: bool = True


FAMILIES = {
    "clip": Family(),
    "metaclip_2": Family(),
    "siglip": Family(clip_images=False, heads=False, bias=True),
    "siglip2": Family(clip_images=False, heads=False, bias=True),
    "chinese_clip": Family(pooling="cls"),
    "altclip": Family(pooling="cls"),
    "clipseg": Family(),
    "aimv2": Family(clip_images=False),
    "tipsv2": Family(clip_images=False, heads=False, written=False),
    "align": Family(pooling="cls", clip_images=False, heads=False, written=False),
    DUAL: Family(clip_images=False),
}
# Families of which a part is another's: CLIPSeg is CLIP with a decoder of masks.
SAME_AS = {"clipseg": "clip"}
# Weights of theirs that belong to no tower: what they are for.
BESIDE = {"clipseg": ("decoder.",)}
# Other families of models for images and texts -> what they are, and what to do.
_SIBLINGS = {
    "blip": "encodes image and text together to write and match captions, with no weights of CLIP's form: for captions train "
    "the objective 'captioning' or open open_clip:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k",
    "blip-2": "is a language model that looks at images: take the CLIP that its image tower came from, open_clip:EVA01-g-14/"
    "laion400m_s11b_b41k",
    "flava": "has a third tower that reads images and texts together: take one of the families that have two",
    "vilt": "reads images and texts together in one tower, with features of neither: take hf:openai/clip-vit-base-patch32",
    "bridgetower": "reads images and texts together: take hf:openai/clip-vit-base-patch32, from which its towers came",
    "groupvit": "groups the image's tokens in stages of its own: for segmentation use any CLIP with `lightning-clip segment`",
    "xclip": "is CLIP for videos with tokens between the frames: use a video tower (meanP, seqTransf) over a CLIP",
    "clap": "is for sounds and texts: give its audio tower as your own (variants/audio.py), or keep transformers for it",
    "colpali": "gives many vectors a page and not one: search pages with it by its own library",
    "dinov2": "has an image tower only: give it as image_encoder, 'hf:NAME', beside a text encoder (LiT)",
    "grounding-dino": "detects with texts and images together: for detection open hf:google/owlv2-base-patch16-ensemble",
}
_SIBLINGS |= {"instructblip": _SIBLINGS["blip-2"], "colqwen2": _SIBLINGS["colpali"], "dinov3_vit": _SIBLINGS["dinov2"]}
_SIBLINGS |= {"mm-grounding-dino": _SIBLINGS["grounding-dino"]}


def sibling(family: str) -> str | None:
    """What a family of transformers is that has no two towers as CLIP has them, and what to do; None for any other.

    Args:
        family: its `model_type`.
    """
    return _SIBLINGS.get(family)


def family_of(towers: TwoTowers) -> str:
    """The family that has towers like these.

    Raises:
        NotHeld: none has.
    """
    image, text = towers.image, towers.text
    is_vit = clip_vit(image) is not None
    pooled = isinstance(image, HuggingFaceImageEncoder) and image.pooling == "pooler"
    family: str | None = None
    if is_vit or pooled:
        images = image.family if isinstance(image, HuggingFaceImageEncoder) else None
        if isinstance(text, ClipTextTransformer):
            family = "clip" if is_vit or images == "clip" else None
        elif isinstance(text, HuggingFaceTextEncoder):
            family = _family_beside(text, images, is_vit)
    if family is None:
        raise NotHeld(f"transformers has no model of a {_named(image)} and a {_named(text)}")
    return family


def _family_beside(text: HuggingFaceTextEncoder, images: str | None, is_vit: bool) -> str | None:
    """The family of a text tower of transformers beside an image tower of the family `images`, or CLIP's Vision Transformer."""
    if text.family is not None:
        known = FAMILIES.get(text.family)
        if known is None or known.pooling != text.pooling:
            return None
        return text.family if images == text.family or (is_vit and known.clip_images) else None
    if is_vit and text.pooling == "cls" and text.model.config.model_type == "bert":
        return "chinese_clip"  # whose text tower is a BERT
    return DUAL if images is None and text.pooling == FAMILIES[DUAL].pooling else None


def check_heads(towers: TwoTowers, family: str) -> None:
    """Whether a family's heads and logits are like these.

    Raises:
        NotHeld: they are not.
    """
    if (towers.bias is not None) != FAMILIES[family].bias:
        raise NotHeld(f"transformers' {family} models have {'a bias' if FAMILIES[family].bias else 'no bias'} of the logits")
    if not FAMILIES[family].written:
        raise NotHeld(f"models of transformers' {family} family are read but not written")
    wanted: type[nn.Module] = LinearProjection if FAMILIES[family].heads else IdentityProjection
    for tower, head in (("image", towers.image_head), ("text", towers.text_head)):
        if not isinstance(head, wanted) or has_bias(head):
            with_bias = " with a bias" if has_bias(head) else ""
            raise NotHeld(
                f"its {tower} projection is a {type(head).__name__}{with_bias}, where {family} has a {wanted.__name__}"
            )


def _named(tower: Tower) -> str:
    return f"{type(tower).__name__}{f' ({tower.architecture})' if tower.architecture else ''}"
