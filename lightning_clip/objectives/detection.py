"""Detection by words: the image's tokens say where things are, and which of several names each of them has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_clip.core.distributed import mean_over_ranks, world
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import check_known, in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.boxes import BOXES, collate_boxes
from lightning_clip.data.permutation import mix
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.encoders.detection_head import DetectionHead, class_logits
from lightning_clip.losses.boxes import BoxWeights, set_losses
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import Objective, objectives
from lightning_clip.objectives.decoding import image_token_width
from lightning_clip.prompts.classifier import zero_shot_classifier

if TYPE_CHECKING:
    from lightning_clip.model.predictor import Predictor

__all__ = ["Detection"]

_PART = "detector"


@objectives.register("detection")
class Detection(Objective):
    """Boxes and names of objects (OWL-ViT, Minderer et al. 2022, arXiv 2205.06230), from towers that were trained on pairs.

    Each token of a place gives a box and an embedding; its logit for a name is (cosine + shift) * scale. Each object is matched
    with one place, the cheapest way; with N objects in the whole batch the loss is
    1/N [w_c sum focal + w_b sum |b - b*| + w_g sum (1 - GIoU)], focal over all places and names. Boxes are the column
    "boxes" of a `BoxedSource`; a picture without any is one where all names are wrong.

    Args:
        class_names: in the order of the labels; None takes those of the training source.
        templates: prompts of the names: a set's name, one template or several, whose mean is taken.
        queries: names that each picture is asked for beside its own, drawn for each batch; fewer names are all asked.
        weights: of the parts, see `BoxWeights`: classes, corners, overlap, alpha, gamma.

    Raises:
        InputError: a setting out of range, no class names, a tower without tokens, or data without boxes.

    Examples:
        >>> Detection(queries=50).targets().keys()
        dict_keys(['boxes'])
    """

    kept_parts = frozenset({_PART})

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = "simple",
        queries: int = 128,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        in_range("detection: queries", queries, 1, whole=True)
        self.class_names = None if class_names is None else list(class_names)
        self.templates = templates if isinstance(templates, str) else list(templates)
        self.queries, self.weights = queries, _weights(weights or {})
        self._names: list[str] = []
        self._tokenizer: list[Tokenizer] = []  # in a list: no part of the module

    # -- columns ----------------------------------------------------------------------------------------------------

    def reads(self) -> tuple[str, ...]:
        return ("image",)

    def reads_tokens(self) -> tuple[str, ...]:
        return ("image",)

    def runs(self) -> tuple[str, ...]:
        return ("image", "text")

    def targets(self) -> Mapping[str, Callable[[list[Any]], Any]]:
        return {BOXES: collate_boxes}

    # -- before the first step --------------------------------------------------------------------------------------

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        assert tokenizer is not None  # the text tower runs
        self._tokenizer = [tokenizer]
        self._names = list(self.class_names or _names_in(data, "train") or self._names)

    def build(self, space: SharedSpace) -> None:
        head = DetectionHead(image_token_width(space, "detection"), space.embed_dim)
        head.start(space.head("image"))
        space.add_module(_PART, head)

    def learns(self) -> tuple[str, ...]:
        """Not the image's projection nor the temperature: nothing reads them."""
        return ("image_encoder.", "text_encoder.", "text_projection.", f"{_PART}.")

    def start(self, predictor: Predictor, data: Any | None, split: str) -> None:
        for name in ("train", "val") if split == "train" else (split,):
            found = _names_in(data, name)
            if found and self._names and len(found) != len(self._names):
                raise InputError(
                    f"the boxes of the {name} data have {len(found)} classes, but {len(self._names)} are learned: give all "
                    "splits the same classes"
                )
        if split == "train" and not self._names:
            raise InputError(
                "detection has no class names, and the training data knows none: give class_names in the order of the boxes' "
                "labels"
            )

    # -- in a step --------------------------------------------------------------------------------------------------

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        head: Any = getattr(space, _PART)
        return {_PART: head(output.tokens["image"])._asdict()}  # (B, L, W) -> (B, Q, ...)

    def once(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        """What each picture loses (B,), part by part: the names are encoded once for all of them."""
        if BOXES not in batch.columns:
            raise InputError("the batch has no boxes, which detection learns from: give a source that has them, such as coco")
        found, given = output.rows[_PART], batch.columns[BOXES]
        drawn = self._drawn()  # bool (C,)
        own = torch.unique(given["labels"])
        if len(own) and int(own[-1]) >= len(self._names):
            raise InputError(
                f"a box has label {int(own[-1])}, and there are {len(self._names)} class names: give one for each label"
            )
        present = torch.zeros_like(drawn).index_fill(0, own[own >= 0].to(drawn.device), True)
        asked = (drawn | present).nonzero()[:, 0]
        texts = self._encoded(space, [self._names[place] for place in asked.tolist()])  # (C', D)
        logits = class_logits(found["embeddings"], found["shift"], found["scale"], texts).float()  # (B, Q, C')
        given_labels = given["labels"]  # (B, N)
        columns = torch.full((len(self._names) + 1,), -1).index_put(
            (asked,), torch.arange(len(asked))
        )  # the last stands for -1
        labels = columns.to(given_labels.device)[given_labels]
        counted = drawn[asked].to(logits.device).expand(batch.size, -1).clone()  # (B, C')
        rows, places = (labels >= 0).nonzero(as_tuple=True)
        counted[rows, labels[rows, places]] = True
        return set_losses(logits, found["boxes"].float(), labels, given["boxes"], counted, self.weights)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        objects = (batch.columns[BOXES]["labels"] >= 0).sum(dim=1).float()  # (B,)
        total = torch.stack([objects.sum(), objects.new_tensor(float(batch.size))])
        if self.training and world()[1] > 1:
            total = mean_over_ranks(total)
        each = (total[0] / total[1]).clamp(min=1 / total[1])  # objects in a picture, over all ranks
        parts = {name: self.mean(output.rows[name]) / each for name in _PARTS}
        weights = self.weights.classes, self.weights.corners, self.weights.overlap
        loss = torch.stack([weight * part for weight, part in zip(weights, parts.values(), strict=True)]).sum()
        return {"loss": loss, **parts}

    def is_given(self, batch: PairBatch) -> bool:
        return super().is_given(batch) and BOXES in batch.columns and bool(self._names)

    def to_mapping(self) -> Any:
        own = {"class_names": self.class_names, "templates": self.templates, "queries": self.queries}
        return {"name": "detection", **own, "weights": self.weights._asdict()}

    def _drawn(self) -> Tensor:
        """The names that all pictures of this batch are asked for, bool (C,): the same on all ranks and in all slices."""
        count = len(self._names)
        if count <= self.queries:
            return torch.ones(count, dtype=torch.bool)
        batch = self.batches if self.training else 0
        keys = torch.tensor([mix(place, batch) >> 1 for place in range(count)])
        return torch.zeros(count, dtype=torch.bool).index_fill(0, keys.argsort()[: self.queries], True)

    def _encoded(self, space: SharedSpace, names: list[str]) -> Tensor:
        """Unit features (C, D) of names, with gradient."""

        def encode(prompts: list[str]) -> Tensor:
            tokens, mask = self._tokenizer[0](prompts)
            device = space.logit_scale.device
            return space.encode_text(tokens.to(device), mask.to(device), mask.sum(dim=1).tolist())  # (P, L) -> (P, D)

        return zero_shot_classifier(encode, names, self.templates, batch_size=1 << 30).T


_PARTS = ("classes", "corners", "overlap")


def _weights(given: Mapping[str, float]) -> BoxWeights:
    check_known(given, BoxWeights._fields, "detection: weights")
    for name, value in given.items():
        in_range(f"detection: weights.{name}", value, 0, *([1] if name == "alpha" else []))
    return BoxWeights(**given)


def _names_in(data: Any | None, split: str) -> list[str]:
    """Class names in the order of a split's labels; empty where the data does not know them."""
    known = hasattr(data, "source") and getattr(data, "_specs", {"train": "of the user's own class"}).get(split) is not None
    return list(data.source(split).class_names) if known and data is not None else []
