"""Retrieval metrics in both directions: recall@k and median ranks from unit features."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_clip.core.errors import InputError
from lightning_clip.metrics.checks import check_features, check_ks, check_shapes
from lightning_clip.metrics.over_ranks import retrieval_over_processes, rows_of_all
from lightning_clip.metrics.scores import retrieval_scores

__all__ = ["RetrievalRecall", "retrieval_chance", "retrieval_metrics", "retrieval_ranks"]


def retrieval_ranks(
    query_features: Tensor, target_features: Tensor, query_ids: Tensor, target_ids: Tensor, chunk_size: int = 512
) -> Tensor:
    """Rank of each query's best own target among all targets, 1 being first.

    Targets of other ids that score the same as the best own one count as ranked before it, so a model that gives all
    inputs the same feature comes last, not first. Own targets never count against each other. Scores are inner
    products, summed in float64 and rounded to float32: ties, and so ranks, do not depend on `chunk_size`, on the order
    of the rows or on TF32. At most `chunk_size` x M of them are held at a time.

    Args:
        query_features: (N, D), of unit length for cosine similarities.
        target_features: (M, D), likewise.
        query_ids: integers (N,).
        target_ids: integers (M,); equal ids belong together, several targets may share one.
        chunk_size: queries scored at a time, at least 1.

    Returns:
        int64 (N,) in [1, M].

    Raises:
        InputError: nothing to rank, shapes that do not fit, features that are not finite, or a query without a target.

    Examples:
        >>> targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
        >>> queries = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> retrieval_ranks(queries, targets, torch.tensor([5, 7]), torch.tensor([7, 7, 5]))
        tensor([2, 2])
    """
    check_features("query", query_features, query_ids)
    check_features("target", target_features, target_ids)
    if query_features.shape[1] != target_features.shape[1]:
        raise InputError(
            f"query features are {query_features.shape[1]} wide and target features {target_features.shape[1]}: "
            "both must come from one shared space"
        )
    if chunk_size < 1:
        raise InputError(f"chunk_size {chunk_size} must be at least 1 query at a time")
    precise = torch.float32 if target_features.device.type == "mps" else torch.float64  # MPS has no float64
    targets = target_features.to(precise).T
    query_ids, target_ids = query_ids.to(query_features.device), target_ids.to(query_features.device)
    ranks = []
    for features, ids in zip(torch.split(query_features, chunk_size), torch.split(query_ids, chunk_size), strict=True):
        own = ids.unsqueeze(1) == target_ids.unsqueeze(0)
        alone = ids[~own.any(dim=1)]
        if len(alone):
            raise InputError(f"query {alone[0].item()} has no target of the same id: omit it or add its target")
        similarity = (features.to(precise) @ targets).float()
        best = similarity.masked_fill(~own, -math.inf).amax(dim=1, keepdim=True)
        ranks.append(1 + ((similarity >= best) & ~own).sum(dim=1))
    return torch.cat(ranks)


def retrieval_metrics(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    image_index: Tensor | None = None,
) -> dict[str, Tensor]:
    """Recall@k in [0, 1] and median rank, from 1, of both directions.

    An image is found by any of its captions, a caption by its one image: Karpathy and Fei-Fei's protocol
    (https://arxiv.org/abs/1412.2306) for Flickr30k and COCO. Ranks are those of `retrieval_ranks`, pessimistic on ties.

    Args:
        image_features: (N, D) of unit length.
        text_features: (M, D) of unit length.
        text_image_index: integers (M,), the image of each caption.
        ks: cut-offs, at least 1 each.
        image_index: integers (N,), the images' own numbers, all different; None counts 0 to N - 1.

    Returns:
        "image_to_text/recall@1", ..., "image_to_text/median_rank", and the same for "text_to_image"; float32 ().

    Raises:
        InputError: no images or captions, an image without captions or given twice, a caption without its image, shapes
            that do not fit, or features that are not finite.

    Examples:
        >>> metrics = retrieval_metrics(torch.eye(3), torch.eye(3)[[0, 1, 2, 1]], torch.tensor([0, 1, 2, 0]), ks=(1,))
        >>> metrics["image_to_text/recall@1"].item(), metrics["text_to_image/recall@1"].item()
        (0.6666666865348816, 0.75)
    """
    options = {"image_index": image_index, "with_precision": False}
    return retrieval_scores(image_features, text_features, text_image_index, ks, **options)[0]  # type: ignore[arg-type]


def retrieval_chance(text_image_index: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Expected recall of a random ranking, exactly.

    Of M captions c belong to an image; none of them is among the first k with probability C(M - c, k) / C(M, k). A
    caption finds its one image among N with probability k / N.

    Args:
        text_image_index: integers (M,), the image of each caption.
        ks: cut-offs, at least 1 each.

    Returns:
        The recall keys of `retrieval_metrics`, in [0, 1].

    Raises:
        InputError: no captions, or a cut-off below 1.

    Examples:
        >>> retrieval_chance(torch.arange(100), ks=(10,))
        {'image_to_text/recall@10': 0.1, 'text_to_image/recall@10': 0.1}
        >>> five_captions_each = torch.arange(1000).repeat_interleave(5)
        >>> round(retrieval_chance(five_captions_each, ks=(10,))["image_to_text/recall@10"], 5)
        0.00996
    """
    check_ks(ks)
    if len(text_image_index) == 0:
        raise InputError("text_image_index is empty: give the image of at least one caption")
    # Captions of an image -> number of such images.
    captions: Counter[int] = Counter(torch.unique(text_image_index, return_counts=True)[1].tolist())
    texts, images = len(text_image_index), sum(captions.values())
    chance: dict[str, float] = {}
    for k in ks:
        draws = math.comb(texts, min(k, texts))
        missed = sum(number * math.comb(texts - own, min(k, texts)) for own, number in captions.items())
        chance[f"image_to_text/recall@{k}"] = (images * draws - missed) / (images * draws)
    for k in ks:
        chance[f"text_to_image/recall@{k}"] = min(k, images) / images
    return chance


class RetrievalRecall(Metric):
    """`retrieval_metrics` over batches and ranks; ranks may hold different numbers of images, or none.

    Features are kept in float32, 4 D bytes each, and stay on their rank: in `compute` each rank ranks its own rows among those
    of all, see `lightning_clip.metrics.over_ranks`.

    Args:
        ks: cut-offs, at least 1 each.

    Raises:
        InputError: no cut-off or one below 1; in `update`, shapes that do not fit; in `compute`, what
            `retrieval_metrics` raises, also for an image that two ranks or batches added.

    Examples:
        >>> metric = RetrievalRecall(ks=(1,))
        >>> metric.update(torch.eye(2), torch.tensor([7, 9]), torch.eye(2), torch.tensor([7, 9]))
        >>> metric.compute()["image_to_text/recall@1"].item()
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    image_features: Any
    image_index: Any
    text_features: Any
    text_image_index: Any

    def __init__(self, ks: Sequence[int] = (1, 5, 10)) -> None:
        super().__init__()
        check_ks(ks)
        self.ks = tuple(ks)
        for name in ("image_features", "image_index", "text_features", "text_image_index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, image_features: Tensor, image_index: Tensor, text_features: Tensor, text_image_index: Tensor) -> None:
        """Adds images with their captions.

        Numbers are any integers that distinguish images across all batches and ranks, such as places in the data set.

        Args:
            image_features: (B, D).
            image_index: integers (B,), the images' numbers.
            text_features: (T, D).
            text_image_index: integers (T,), the number of each caption's image.
        """
        check_shapes("image", image_features, image_index)
        check_shapes("text", text_features, text_image_index)
        self.image_features.append(image_features.detach().float())
        self.image_index.append(image_index.to(image_features.device, torch.int64))
        self.text_features.append(text_features.detach().float())
        self.text_image_index.append(text_image_index.to(text_features.device, torch.int64))

    def compute(self) -> dict[str, Tensor]:
        """`retrieval_metrics` of everything that was added on all ranks, each ()."""
        images, texts = self.whole("image_features"), self.whole("text_features")
        image_index, text_image_index = self.whole("image_index"), self.whole("text_image_index")
        if self._is_synced:
            held = (images, texts, image_index, text_image_index)
            return retrieval_over_processes(*held, self.ks, with_precision=False)
        return retrieval_metrics(images, texts, text_image_index, self.ks, image_index=image_index)

    def chance(self) -> dict[str, float]:
        """`retrieval_chance` of the captions of all ranks, each of which must ask."""
        return retrieval_chance(rows_of_all(self.whole("text_image_index")).cpu(), self.ks)

    def whole(self, name: str) -> Tensor:
        """What was added so far on this rank.

        Args:
            name: "image_features" (N, D), "image_index" (N,), "text_features" (M, D) or "text_image_index" (M,).
        """
        state: list[Tensor] = getattr(self, name)
        if state:
            return torch.cat(state)
        shape, dtype = ((0, 0), torch.float32) if name.endswith("features") else ((0,), torch.int64)
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None) -> None:
        """Gathers nothing: `compute` goes to the features instead, and `_is_synced` tells it that all ranks are asked."""
