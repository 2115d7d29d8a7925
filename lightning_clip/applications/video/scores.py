"""Zero-shot classification of actions in videos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from lightning_clip.applications.video.features import VideoInput, encode_videos
from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.model.predictor import Predictor
from lightning_clip.prompts.classifier import ClassNames

__all__ = ["VIDEO_TEMPLATES", "video_scores"]

# CLIP's prompts for UCF101, shortened to those that say what moves (Radford et al. 2021, openai/CLIP data/prompts.md).
VIDEO_TEMPLATES = (
    "a photo of a person {}.",
    "a video of a person {}.",
    "a example of a person {}.",
    "a demonstration of a person {}.",
)


def video_scores(
    predictor: Predictor,
    videos: VideoInput | Iterable[VideoInput],
    class_names: ClassNames,
    templates: str | Sequence[str] = VIDEO_TEMPLATES,
    *,
    rule: FrameSampling | None = None,
    batch_size: int = 16,
) -> Tensor:
    """Logits (N, C) of videos against classes, such as actions; their softmax are the probabilities of the classes.

    Args:
        predictor: of a trained model.
        videos: as for `encode_videos`.
        class_names: C classes, each a name or a list of names.
        templates: a set's name, one template or several, each with {} where the class name goes.
        rule: which frames of files are looked at.
        batch_size: videos encoded at a time, at least 1.

    Raises:
        InputError: as `encode_videos`, or a wrong class name or template.
    """
    classifier = predictor.zero_shot_classifier(class_names, templates)  # (D, C)
    features = encode_videos(predictor, videos, rule, batch_size)
    return predictor.scale() * (features @ classifier.to(features.dtype))  # (N, D) @ (D, C) -> (N, C)
