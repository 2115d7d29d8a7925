"""How good captions are beside those that people wrote: BLEU by torchmetrics, CIDEr by pycocoevalcap."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_clip.core.errors import InputError

__all__ = ["caption_scores"]


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-4 and CIDEr over a set of images (Papineni et al. 2002; Vedantam et al. 2015, arXiv 1411.5726).

    Words are lower case, without punctuation, and signs of scripts without spaces are words. COCO's server splits words by a
    program in Java, so that its figures differ a little.

    Args:
        captions: one an image.
        references: those that people wrote of it, at least one each.

    Returns:
        "bleu4", and "cider" where pycocoevalcap is installed (the extra "captions").

    Raises:
        InputError: no captions, or an image without references.

    Examples:
        >>> caption_scores(["a dog runs on the grass"], [["a dog runs on the grass", "a dog outside"]])["bleu4"]
        1.0
    """
    from torchmetrics.functional.text import bleu_score

    if not captions or len(captions) != len(references) or not all(references):
        raise InputError(f"{len(captions)} captions and {len(references)} references: give each image a caption and references")
    own = [_words(caption) for caption in captions]
    told = [[_words(text) for text in texts] for texts in references]
    scores = {"bleu4": round(float(bleu_score(own, told, n_gram=4)), 6)}
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError:
        return scores
    numbered = {number: [text] for number, text in enumerate(own)}
    return {**scores, "cider": float(Cider().compute_score(dict(enumerate(told)), numbered)[0])}


def _words(text: str) -> str:
    """Lower-case words with a space between them."""
    return " ".join(re.findall(r"[぀-ヿ㐀-鿿]|[^\W_぀-ヿ㐀-鿿]+(?:['’][^\W_]+)*", text.lower()))
