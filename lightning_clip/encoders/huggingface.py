"""Any Hugging Face text model as a text tower, by its name, folder or configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.encoders.base import TextEncoder, text_encoders
from lightning_clip.encoders.huggingface_towers import (
    checkpoint_layers,
    describe,
    family_of,
    load,
    longest_list,
    whole_config_of,
)
from lightning_clip.encoders.padding import checked_side, filled, side_mapping, text_in_front
from lightning_clip.encoders.text_transformer import at_last_token

__all__ = ["POOLINGS", "HuggingFaceTextEncoder"]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, L) -> (B, L, 1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)  # (B, L, W) -> (B, W)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[:, 0]  # (B, L, W) -> (B, W)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return at_last_token(hidden, mask)


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)  # (B, L, W) -> (B, W)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "cls": _first, "eot": _last, "max": _max}
_OWN = "pooler"  # the model's own pooled output


@text_encoders.register("hf")
class HuggingFaceTextEncoder(TextEncoder):
    """A transformers text model, pooled over its tokens.

    Args:
        path: hub name or local folder; its weights are loaded unless `pretrained` is off. None with `config`.
        pooling: "mean" over the text, "cls" (first token), "eot" (last token of the text), "max" or "pooler" (its own).
        pretrained: False builds the architecture with random weights.
        config: a transformers configuration as a mapping with "model_type", instead of `path`; the text tower of a two-tower
            family is {"model_type": "siglip", "text_config": {...}}.
        pad_id: captions are padded with it to the model's full length and the model attends to all of it, as SigLIP was
            trained; None masks padding.
        padding_side: where that padding is, "right" or "left"; without `pad_id` it is never seen.

    Raises:
        InputError: unknown pooling, no such model, or a model without token output.

    Examples:
        >>> import torch
        >>> tiny = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        ...         "intermediate_size": 32, "vocab_size": 50}
        >>> encoder = HuggingFaceTextEncoder(config=tiny, pooling="mean")
        >>> encoder(torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.bool)).shape
        torch.Size([2, 16])
    """

    vocab_size: int

    def __init__(
        self,
        path: str | None = None,
        pooling: str = "mean",
        *,
        pretrained: bool = True,
        config: Mapping[str, Any] | None = None,
        pad_id: int | None = None,
        padding_side: str = "right",
    ) -> None:
        if pooling not in (known := (*POOLINGS, _OWN)):
            raise InputError(f"unknown pooling {pooling!r}: {nearest(pooling, known)}")
        model = load(path, "text", pretrained, config)
        length = getattr(model.config, "max_position_embeddings", None) or 512
        # SigLIP's pooled output and AltCLIP's every output have a width of their own.
        key = "projection_size" if pooling == _OWN else "project_dim"
        width = getattr(model.config, key, None) or model.config.hidden_size
        super().__init__(output_dim=int(width), context_length=int(length))
        self.pooling, self.pad_id, self.padding_side = pooling, pad_id, checked_side(padding_side)
        self.model = model
        self.architecture = family_of(model) or model.config.model_type
        if isinstance(pooler := getattr(model, "pooler", None), nn.Module) and pooling != _OWN:
            pooler.requires_grad_(False)  # never asked: DDP would wait for its gradient
        self.vocab_size = int(model.config.vocab_size)

    @property
    def family(self) -> str | None:
        """The two-tower family of transformers that the model was taken from, None for a model of its own."""
        return family_of(self.model)

    @property
    def whole_config(self) -> Any:
        """The configuration of the encoder and decoder that the model was taken from, None for any other."""
        return whole_config_of(self.model)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L), True on text -> (B, output_dim), by the pooling."""
        return self._pooled(self._outputs(tokens, mask), mask)

    def forward_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L) -> the last hidden state (B, L, W); with `pad_id` L is the context."""
        return self._hidden(self._outputs(tokens, mask), mask)

    def forward_both(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids int64 (B, L) and mask bool (B, L) -> features (B, output_dim) and tokens (B, L, W), in one pass."""
        outputs = self._outputs(tokens, mask)
        return self._pooled(outputs, mask), self._hidden(outputs, mask)

    def _pooled(self, outputs: Any, mask: Tensor) -> Tensor:
        if self.pooling == _OWN:
            own: Tensor = outputs.pooler_output
            return own
        hidden = self._hidden(outputs, mask)[:, : mask.shape[1]]
        return POOLINGS[self.pooling](hidden, mask)  # (B, L, W) -> (B, W)

    def _hidden(self, outputs: Any, mask: Tensor) -> Tensor:
        hidden: Tensor = outputs.last_hidden_state
        return hidden if self.pad_id is None else text_in_front(hidden, mask, self.padding_side)

    def token_table(self) -> nn.Module:
        """The model's input embeddings."""
        table: nn.Module = self.model.get_input_embeddings()
        return table

    def _outputs(self, tokens: Tensor, mask: Tensor) -> Any:
        if self.pad_id is None:
            return self.model(input_ids=tokens, attention_mask=mask.long())
        rows = filled(tokens, mask, self.context_length, self.pad_id, self.padding_side)  # (B, L) -> (B, context_length)
        return self.model(input_ids=rows)

    def blocks(self) -> list[nn.Module]:
        """The longest list of layers in the model."""
        return longest_list(self.model)

    def checkpoint_blocks(self) -> None:
        """By transformers' own checkpointing.

        Raises:
            InputError: the model has none.
        """
        checkpoint_layers(self.model, "text")

    def grow(self, vocab_size: int, context_length: int) -> None:
        """New tokens begin as the mean of the old ones; how many tokens a caption has is the model's own affair."""
        if context_length > self.context_length:
            raise InputError(
                f"adapt.text.context_length {context_length} is more than the {self.context_length} tokens of this Hugging "
                "Face model: choose a model for longer texts"
            )
        if vocab_size > self.vocab_size:
            old = self.vocab_size
            self.model.resize_token_embeddings(vocab_size, mean_resizing=False)
            weight = self.model.get_input_embeddings().weight.data
            weight[old:] = weight[:old].mean(dim=0)
            self.vocab_size = vocab_size

    def to_mapping(self) -> dict[str, Any]:
        """The pooling, the padding and the model's configuration."""
        padding = {} if self.pad_id is None else {"pad_id": self.pad_id, **side_mapping(self.padding_side)}
        return {"name": "hf", "pooling": self.pooling, "config": describe(self.model), **padding}
