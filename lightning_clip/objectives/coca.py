"""CoCa: pairs told apart, and captions predicted by a decoder over both towers' tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import check_known, in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.encoders.caption_decoder import CaptionDecoder
from lightning_clip.losses import ContrastiveLoss, losses
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import objectives
from lightning_clip.objectives.decoding import image_token_width
from lightning_clip.objectives.pairs import ContrastivePairs
from lightning_clip.objectives.text_tokens import causal_width

__all__ = ["Coca"]
_DECODER = ("width", "layers", "heads", "mlp_ratio", "queries", "quick_gelu", "context_length")


@objectives.register("coca")
class Coca(ContrastivePairs):
    """Contrastive captioner (Yu et al. 2022, arXiv 2205.01917): L = L_pairs + w L_caption.

    The text tower is the unimodal half of the text decoder: causal, its feature the last token's. The multimodal half takes
    its tokens on and looks at the image's, which an attentional pooler has reduced. A caption x_1 ... x_n loses
    -1/(n - 1) sum_t log p(x_(t+1) | x_1 ... x_t, image), each caption counting alike. `lightning-clip caption` writes captions.

    Args:
        caption_weight: w >= 0; 2 in the paper.
        decoder: settings of `CaptionDecoder`: width, layers, heads, queries, ...
        loss: of the pairs.

    Raises:
        InputError: an unknown setting, a tower without tokens, a text tower that looks ahead, or too short a context.
    """

    training_parts = kept_parts = frozenset({"captioner"})

    def __init__(
        self,
        caption_weight: float = 2.0,
        decoder: Mapping[str, Any] | None = None,
        loss: str | dict[str, Any] | ContrastiveLoss = "softmax",
    ) -> None:
        super().__init__(loss)
        in_range("coca: caption_weight", caption_weight, 0)
        check_known(decoder or {}, _DECODER, "coca: decoder")
        self.caption_weight, self.decoder = caption_weight, dict(decoder or {})
        self._sizes: tuple[int, int] | None = None

    def reads_tokens(self) -> tuple[str, ...]:
        return self.between

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        assert tokenizer is not None  # texts are read
        context = self.decoder.get("context_length", tokenizer.context_length)
        if context < tokenizer.context_length:
            raise InputError(
                f"coca: the decoder's context_length {context} is shorter than the tokenizer's {tokenizer.context_length}: set "
                f"tokenizer.context_length to {context}"
            )
        self._sizes = tokenizer.vocab_size, context

    def build(self, space: SharedSpace) -> None:
        assert self._sizes is not None  # prepared
        text_width = causal_width(space.tower("text"), self._sizes[0])
        settings = {key: value for key, value in self.decoder.items() if key != "context_length"}
        space.captioner = CaptionDecoder(*self._sizes, image_token_width(space, "coca"), text_width, **settings)

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        captioner, tokens, mask = space.captioner, batch.tokens, batch.mask
        assert isinstance(captioner, CaptionDecoder) and tokens is not None and mask is not None
        logits = captioner(captioner.read(output.tokens["image"]), output.tokens["text"][:, :-1])  # (B, L - 1, V)
        lost = cross_entropy(logits.transpose(1, 2).float(), tokens[:, 1:], reduction="none")  # (B, L - 1)
        told = mask[:, 1:]
        return {"caption": (lost * told).sum(dim=1) / told.sum(dim=1).clamp(min=1)}  # (B,)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        pairs, caption = super().forward(output, batch)["loss"], self.mean(output.rows["caption"])
        return {"loss": pairs + self.caption_weight * caption, "pairs": pairs, "caption": caption}

    def to_mapping(self) -> Any:
        own = {"caption_weight": self.caption_weight, "decoder": self.decoder}
        return {"name": "coca", **own, "loss": losses.describe(self.loss)}
