"""Tip-Adapter-F by the Trainer: labelled images arrive, their features as trained keys beside the zero-shot one leave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from lightning_clip.core.errors import InputError
from lightning_clip.data.decoding import decode
from lightning_clip.data.sources import PairSource
from lightning_clip.evaluation.tip_adapter import TipAdapter, tip_logits
from lightning_clip.tasks.supervised import SupervisedModule

__all__ = ["TipAdapterModule"]


class TipAdapterModule(SupervisedModule):
    """Tip-Adapter-F (Zhang et al. 2021, arXiv 2111.03930): the labelled images' features are keys, and are trained.

    Logits are those of `evaluation.tip_adapter.tip_logits`. Before the first step the keys are the features of all training
    images under the evaluation transform. In evaluation the keys are unit again, and alpha and beta are those that are best for
    them on the validation data, searched before each validation and at the end of each epoch, if there are any.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        alpha: weight of the labelled images while training; 0 is zero-shot.
        beta: sharpness of their influence while training.
        entries: number of labelled images; None takes the length of the training data. A checkpoint knows it.
        **arguments: of `SupervisedModule` and `ClipModule`.

    Raises:
        InputError: negative settings, no training data to count, or an image that cannot be read or has no label.
    """

    reads_texts = False

    def __init__(
        self, *towers: Any, alpha: float = 1.0, beta: float = 5.5, entries: int | None = None, **arguments: Any
    ) -> None:
        super().__init__(*towers, **arguments)
        if alpha < 0 or beta <= 0:
            raise InputError(f"alpha {alpha} must be >= 0 and beta {beta} > 0")
        self.alpha, self.beta, self.entries = alpha, beta, entries
        self._val: tuple[Tensor, Tensor] | None = None

    def build_classes(self, num_classes: int) -> nn.Module:
        if self.entries is None:
            source = self._source("train")
            if source is None:
                raise InputError("TipAdapterModule does not know how many labelled images there are: give entries, or data")
            self.entries = len(source)
        return _Cache(self.entries, self.embed_dim, num_classes, self.alpha, self.beta)

    def start_classes(self) -> None:
        cache: Any = self.model.classes
        cache.words.copy_(self.zero_shot_classifier(self._names(), self.templates).T)
        source = self._source("train")
        if source is None or len(source) != self.entries:
            found = "no training data" if source is None else f"{len(source)} training images"
            raise InputError(f"TipAdapterModule was made for {self.entries} labelled images and finds {found}: fit it again")
        features, label = self._features(source)
        cache.keys.copy_(features)
        cache.values.copy_(one_hot(label, len(self._names())))

    def class_logits(self, image_features: Tensor) -> Tensor:
        cache: Any = self.model.classes
        keys = cache.keys if cache.training else normalize(cache.keys, dim=1)
        alpha, beta = (self.alpha, self.beta) if cache.training else (float(cache.alpha), float(cache.beta))
        scale = float(self.model.scale())
        return tip_logits(image_features, cache.words.T, keys, cache.values, scale=scale, alpha=alpha, beta=beta)

    def on_validation_start(self) -> None:
        super().on_validation_start()
        if self.trainer.state.fn == "fit":  # what is measured alone stays as it is
            self._search()

    def on_train_epoch_end(self) -> None:
        """Before a checkpoint is written."""
        self._search()
        super().on_train_epoch_end()

    @torch.no_grad()
    def _search(self) -> None:
        """Alpha and beta for the keys as they are now."""
        if (source := self._source("val")) is None:
            return
        cache: Any = self.model.classes
        features = self._val or self._features(source)
        if not any(parameter.requires_grad for parameter in self._image_parameters()):
            self._val = features  # they stay what they are
        keys, scale = normalize(cache.keys, dim=1), float(self.model.scale())
        found = TipAdapter.searched(keys, cache.values, *features, cache.words.T, scale)
        cache.alpha.fill_(found.alpha)
        cache.beta.fill_(found.beta)

    def to_mapping(self) -> dict[str, Any]:
        return {**super().to_mapping(), "alpha": self.alpha, "beta": self.beta, "entries": self.entries}

    def _features(self, source: PairSource, batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """Unit features (N, D) and classes (N,) of all images; every rank computes all of these few."""
        transform, features, labels = self.image_transform(train=False), [], []
        for start in range(0, len(source), batch_size):
            pairs = [source[index] for index in range(start, min(start + batch_size, len(source)))]
            for pair in pairs:
                if pair.label is None or not 0 <= pair.label < len(self._names()):
                    raise self._no_class(pair.key, -1 if pair.label is None else pair.label)
            try:
                pixels = torch.stack([transform(decode(pair.image)) for pair in pairs])
            except ValueError as error:
                raise InputError(f"a labelled image cannot be read ({error}): mend the data or leave it out") from error
            features.append(self.encode_image(pixels, batch_size))
            labels += [pair.label for pair in pairs]
        return torch.cat(features), torch.tensor(labels, device=self.device)


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
