"""Tip-Adapter-F by the Trainer: features of the labelled images as trained keys beside the zero-shot classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources import PairSource
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import decode_for
from lightning_clip.evaluation.tip_adapter import TipAdapter, tip_logits
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import objectives
from lightning_clip.tasks.class_names import no_class, source_of
from lightning_clip.tasks.class_objective import ClassObjective
from lightning_clip.tasks.supervised import SupervisedModule

__all__ = ["TipAdapterF", "TipAdapterModule"]


@objectives.register("tip_adapter")
class TipAdapterF(ClassObjective):
    """Tip-Adapter-F (Zhang et al. 2021, arXiv 2111.03930): the labelled images' features are keys, and are trained.

    Logits are those of `evaluation.tip_adapter.tip_logits`. Before the first step the keys are the features of all training
    images under the evaluation transform. In evaluation the keys are unit again, and alpha and beta are those that are best for
    them on the validation data, searched before each validation and at the end of each epoch, if there are any.

    Args:
        class_names: see `ClassObjective`.
        templates: see `ClassObjective`.
        label_smoothing: see `ClassObjective`.
        alpha: weight of the labelled images while training; 0 is zero-shot.
        beta: sharpness of their influence while training.
        entries: number of labelled images; None takes the length of the training data. A checkpoint knows it.

    Raises:
        InputError: negative settings, no training data to count, or an image that cannot be read or has no label.
    """

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = "simple",
        label_smoothing: float = 0.0,
        alpha: float = 1.0,
        beta: float = 5.5,
        entries: int | None = None,
    ) -> None:
        super().__init__(class_names, templates, label_smoothing)
        if alpha < 0 or beta <= 0:
            raise InputError(f"alpha {alpha} must be >= 0 and beta {beta} > 0")
        self.alpha, self.beta, self.entries = alpha, beta, entries
        self._val: tuple[Tensor, Tensor] | None = None

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        super().prepare(data, tokenizer)
        if self.entries is None:
            source = source_of(data, "train")
            if source is None:
                raise InputError("TipAdapterF does not know how many labelled images there are: give entries, or data")
            self.entries = len(source)

    def build_classes(self, space: SharedSpace, num_classes: int) -> nn.Module:
        assert self.entries is not None
        return _Cache(self.entries, space.embed_dim, num_classes, self.alpha, self.beta)

    def start_classes(self, predictor: Predictor, data: Any | None) -> None:
        cache: Any = predictor.model.classes
        cache.words.copy_(predictor.zero_shot_classifier(self.names, self.templates).T)  # (D, C) -> (C, D)
        source = source_of(data, "train")
        if source is None or len(source) != self.entries:
            found = "no training data" if source is None else f"{len(source)} training images"
            raise InputError(f"TipAdapterF was made for {self.entries} labelled images and finds {found}: fit it again")
        features, label = self.features(predictor, source)
        cache.keys.copy_(features)
        cache.values.copy_(one_hot(label, len(self.names)))

    def class_logits(self, space: SharedSpace, image_features: Tensor) -> Tensor:
        cache: Any = space.classes
        keys = cache.keys if cache.training else normalize(cache.keys, dim=1)
        alpha, beta = (self.alpha, self.beta) if cache.training else (float(cache.alpha), float(cache.beta))
        return tip_logits(image_features, cache.words.T, keys, cache.values, scale=float(space.scale()), alpha=alpha, beta=beta)

    def refresh(self, predictor: Predictor, data: Any | None) -> None:
        """Alpha and beta for the keys as they are now."""
        if (source := source_of(data, "val")) is None:
            return
        space: Any = predictor.model
        features = self._val or self.features(predictor, source)
        tower = [*space.tower("image").parameters(), *space.head("image").parameters()]
        if not any(parameter.requires_grad for parameter in tower):
            self._val = features  # they stay what they are
        cache, scale = space.classes, float(space.scale())
        found = TipAdapter.searched(normalize(cache.keys, dim=1), cache.values, *features, cache.words.T, scale)
        cache.alpha.fill_(found.alpha)
        cache.beta.fill_(found.beta)

    def features(self, predictor: Predictor, source: PairSource, batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """Unit features (N, D) and classes int64 (N,) of all images; every rank computes all of these few.

        Args:
            predictor: of the model.
            source: labelled images.
            batch_size: images decoded and encoded at a time.

        Raises:
            InputError: an image that cannot be read, or without a label among the classes.
        """
        features, labels = [], []
        for start in range(0, len(source), batch_size):
            pairs = [source[index] for index in range(start, min(start + batch_size, len(source)))]
            for pair in pairs:
                if pair.label is None or not 0 <= pair.label < len(self.names):
                    raise no_class(pair.key, pair.label, self.names)
            try:
                transform = predictor.transform
                pixels = torch.stack([transform(decode_for(pair.image, transform)) for pair in pairs])  # (B, 3, S, S)
            except ValueError as error:
                raise InputError(f"a labelled image cannot be read ({error}): mend the data or omit it") from error
            features.append(predictor.encode_image(pixels, batch_size))  # -> (B, D)
            labels += [pair.label for pair in pairs]
        return torch.cat(features), torch.tensor(labels, device=predictor.device)


class _Cache(nn.Module):
    """Keys (S, D), which learn; values (S, C), zero-shot classifier (C, D), alpha and beta, which do not."""

    words: Tensor
    values: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, entries: int, embed_dim: int, num_classes: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(entries, embed_dim))
        self.register_buffer("words", torch.zeros(num_classes, embed_dim))
        self.register_buffer("values", torch.zeros(entries, num_classes))
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("beta", torch.tensor(float(beta)))


class TipAdapterModule(SupervisedModule):
    """A `ClipModule` with the objective "tip_adapter": the labelled images' features as trained keys.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        class_names: see `TipAdapterF`.
        templates: see `TipAdapterF`.
        label_smoothing: see `TipAdapterF`.
        alpha: see `TipAdapterF`.
        beta: see `TipAdapterF`.
        entries: see `TipAdapterF`.
        **arguments: of `ClipModule`.
    """

    def __init__(
        self,
        *towers: Any,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        label_smoothing: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        entries: int | None = None,
        **arguments: Any,
    ) -> None:
        settings = {"class_names": class_names, "templates": templates, "label_smoothing": label_smoothing}
        settings |= {"alpha": alpha, "beta": beta, "entries": entries}
        arguments["objective"] = self.objective_of("tip_adapter", arguments.get("objective"), settings)
        super().__init__(*towers, **arguments)
