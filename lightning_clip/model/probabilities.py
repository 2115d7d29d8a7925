"""Probabilities of labels: labels that compete share 100 %, those of a sigmoid model have each their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_clip.model.inputs import ImageInput
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.scoring import own_scorer
from lightning_clip.prompts.classifier import ClassNames

__all__ = ["is_independent", "probabilities"]


def is_independent(predictor: Predictor) -> bool:
    """Whether a model says of each label by itself how probable it is, as SigLIP does: it was trained with the sigmoid loss.

    Args:
        predictor: of the model.
    """
    return predictor.model.logit_bias is not None


def probabilities(
    predictor: Predictor,
    class_names: ClassNames,
    templates: str | Sequence[str] = "simple",
    *,
    compete: bool | None = None,
    batch_size: int = 256,
) -> Callable[[ImageInput], Tensor]:
    """A function that gives images' probabilities of labels; the labels are encoded once.

    Labels that compete get softmax_c(z_c), which add to 1 over the labels given; independent ones sigmoid(z_c + b) with the
    model's learned bias b, each for itself (Zhai et al. 2023, arXiv 2303.15343), where one label makes sense.

    Args:
        predictor: of the model.
        class_names: as for `Predictor.zero_shot_classifier`.
        templates: as for `Predictor.zero_shot_classifier`.
        compete: whether the labels compete; None lets them unless the model was trained with the sigmoid loss. An objective
            with scores of its own, such as class logits, always has them compete.
        batch_size: images encoded at a time, at least 1.

    Returns:
        Images as for `Predictor.encode_image` -> probabilities (B, C).

    Raises:
        InputError: as `Predictor.zero_shot_classifier`.
    """
    own = own_scorer(predictor, class_names, templates, batch_size)
    score = predictor.similarity(class_names, templates, batch_size) if own is None else own
    bias = None if own is not None or compete else predictor.model.logit_bias

    def found(images: ImageInput) -> Tensor:
        logits = score(images)  # (B, C)
        return logits.softmax(dim=-1) if bias is None else (logits + bias.detach()).sigmoid()

    return found
