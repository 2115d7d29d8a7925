"""The heads that read: found by where they look on pictures with words, and silenced one after the other.

Hufe et al. 2025 (Dyslexify, arXiv 2508.20570): a head's typographic attention score is the share of the class token's attention
to places of the picture that goes to places of the word. From the highest score on, a head is silenced if that makes answers on
pictures with words better, as long as those on pictures without hardly suffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_clip.applications.typography.attack import Attack
from lightning_clip.applications.typography.heads import head_statistics, shares_of_boxes
from lightning_clip.applications.typography.silence import silenced
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import in_range
from lightning_clip.data.lettering import Box
from lightning_clip.encoders.silenced import view_with_heads
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.inputs import ImageInput
from lightning_clip.model.predictor import Predictor

__all__ = ["ABLATIONS", "ReadingHeads", "Step", "find_reading_heads"]

ABLATIONS = ("zero", "mean")


@dataclass(frozen=True)
class Step:
    """A head that was tried.

    Attributes:
        block: of the tower.
        head: in the block.
        score: its typographic attention score, in [0, 1].
        clean: share of pictures named right with it and all heads before it silent.
        attacked: likewise of pictures with words.
        silent: whether it is silenced.
    """

    block: int
    head: int
    score: float
    clean: float
    attacked: float
    silent: bool


@dataclass(frozen=True)
class ReadingHeads:
    """Which heads read.

    Attributes:
        heads: those that are silenced, pairs of a block and a head, rising.
        written: float (N, D), what each writes instead.
        scores: float (blocks, heads), typographic attention scores.
        even: the score of a head that looks everywhere alike.
        clean: share of pictures named right before anything is silenced.
        attacked: likewise of pictures with words.
        steps: all heads that were tried, in order.
    """

    heads: list[tuple[int, int]]
    written: Tensor
    scores: Tensor
    even: float
    clean: float
    attacked: float
    steps: list[Step] = field(default_factory=list)

    @property
    def after(self) -> tuple[float, float]:
        """Shares named right with all of `heads` silent: without words, with words."""
        return next(((step.clean, step.attacked) for step in reversed(self.steps) if step.silent), (self.clean, self.attacked))


def find_reading_heads(
    predictor: Predictor,
    images: ImageInput,
    labels: Sequence[int],
    attack: Attack,
    templates: str | Sequence[str] = "simple",
    *,
    tolerance: float = 0.01,
    patience: int = 10,
    ablation: str = "zero",
) -> ReadingHeads:
    """Finds heads that read, on labelled pictures onto which words are pasted.

    Args:
        predictor: of a model whose image tower is a ViT with a class token.
        images: pictures without words, as for `Predictor.encode_image`; not those that the result is measured on.
        labels: their classes, places in `attack.words`.
        attack: the words of the classes, and how they are pasted.
        templates: of the prompts.
        tolerance: share of pictures without words that may be named wrong in addition, in [0, 1].
        patience: heads that do not help, one after the other, before the search ends; at least 1.
        ablation: what a silent head writes: "zero", or "mean" for what it writes on pictures without words.

    Raises:
        InputError: a tower without such heads, no pictures, another number of labels, or a setting out of range.
    """
    in_range("tolerance", tolerance, 0, 1)
    in_range("patience", patience, 1, whole=True)
    if ablation not in ABLATIONS:
        raise InputError(f"ablation {ablation!r} is unknown: {nearest(ablation, ABLATIONS)}")
    view_with_heads(predictor.model.tower("image"))  # before anything is computed
    clean, pasted, boxes, truth = _pictures(predictor, images, labels, attack)
    scores, written, even = _scores(predictor, clean, pasted, boxes)
    classifier = predictor.zero_shot_classifier(list(attack.words), templates)

    def right(of: Predictor) -> tuple[float, float]:
        return _share(of, clean, truth, classifier), _share(of, pasted, truth, classifier)

    constants = written if ablation == "mean" else torch.zeros_like(written)  # (blocks, heads, D)
    before = right(predictor)
    now, heads, useless, steps = before[1], list[tuple[int, int]](), 0, list[Step]()
    for place in scores.flatten().argsort(descending=True, stable=True).tolist():
        block, head = pair = divmod(place, scores.shape[1])
        tried = sorted([*heads, pair])
        clear, worded = right(silenced(predictor, tried, torch.stack([constants[one] for one in tried])))
        helps = worded > now and before[0] - clear <= tolerance
        steps.append(Step(block, head, float(scores[pair]), clear, worded, helps))
        useless = 0 if helps else useless + 1
        if helps:
            heads, now = tried, worded
        if useless == patience:
            break
    kept = torch.stack([constants[pair] for pair in heads]) if heads else constants.new_zeros(0, constants.shape[-1])
    return ReadingHeads(heads, kept, scores, even, *before, steps)


def _pictures(
    predictor: Predictor, images: ImageInput, labels: Sequence[int], attack: Attack
) -> tuple[Tensor, Tensor, list[Box], Tensor]:
    """Pictures as the model sees them uint8 (N, 3, S, S), without and with words, where the words are, and classes (N,)."""
    seen = list(predictor.pixels(images))
    found = torch.cat(seen).cpu() if seen else torch.empty(0)
    if not len(found) or len(found) != len(labels):
        raise InputError(
            f"there are {len(found)} images and {len(labels)} labels: give at least one image, and a label for each"
        )
    chosen = [place for place, label in enumerate(labels) if attack.attacks(label)]
    if not chosen:
        raise InputError(f"all images show {attack.target!r}, which is the target of the attack: give images of other classes")
    results = [attack(found[place], place, labels[place]) for place in chosen]
    pasted = torch.stack([picture for picture, _ in results])
    return found[chosen], pasted, [box for _, box in results], torch.tensor([labels[place] for place in chosen])


def _scores(predictor: Predictor, clean: Tensor, pasted: Tensor, boxes: list[Box]) -> tuple[Tensor, Tensor, float]:
    """Typographic attention scores (blocks, heads), mean of what heads write on clean pictures, score of an even head."""
    model = predictor.model
    on_text, anywhere, written, share = 0.0, 0.0, 0.0, 0.0  # type: Tensor | float, Tensor | float, Tensor | float, float
    with evaluating(model):
        for start in range(0, len(clean), 64):
            rows = slice(start, start + 64)
            (image,) = model.inputs("image", pasted[rows].to(predictor.device))
            view = model.tower("image").dense_view()
            found = head_statistics(view, image)
            text = shares_of_boxes(boxes[rows], pasted.shape[-1], found.rows, found.columns).to(image.device)  # (B, r c)
            on_text = on_text + (found.attention * text[:, None]).sum(dim=(1, 3)).double()  # (N, B, H, r c) -> (N, H)
            anywhere = anywhere + found.attention.sum(dim=(1, 3)).double()
            share += float(text.double().mean(dim=1).sum())
            (image,) = model.inputs("image", clean[rows].to(predictor.device))
            written = written + head_statistics(view, image).written.sum(dim=1).double()  # (N, B, H, D) -> (N, H, D)
    scores = (on_text / anywhere).cpu()  # type: ignore[operator, union-attr]
    return scores, (written / len(clean)).cpu(), share / len(clean)  # type: ignore[operator, union-attr]


def _share(predictor: Predictor, pictures: Tensor, truth: Tensor, classifier: Tensor) -> float:
    features = predictor.encode_image(pictures)  # (N, 3, S, S) -> (N, D)
    answers = (features @ classifier.to(features)).argmax(dim=1).cpu()  # (N, D) @ (D, C) -> (N,)
    return float((answers == truth).double().mean())
