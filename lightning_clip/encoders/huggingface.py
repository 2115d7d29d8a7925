"""Any Hugging Face text model as a text tower: a name, folder or configuration arrives, a `TextEncoder` leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.encoders.base import TextEncoder, text_encoders
from lightning_clip.encoders.text_transformer import last_text_position
from lightning_clip.errors import InputError, nearest

__all__ = ["POOLINGS", "HuggingFaceTextEncoder"]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[:, 0]


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), last_text_position(mask)]


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "cls": _first, "eot": _last, "max": _max}


@text_encoders.register("hf")
class HuggingFaceTextEncoder(TextEncoder):
    """A transformers text model, pooled over its tokens.

    Args:
        path: hub name or local folder; its weights are loaded unless `pretrained` is off. None with `config`.
        pooling: "mean" over the text, "cls" (first token), "eot" (last token of the text) or "max".
        pretrained: False builds the architecture with random weights.
        config: a transformers configuration as a mapping with "model_type", instead of `path`.

    Raises:
        InputError: unknown pooling, no such model, or a model without token output.

    Examples:
        >>> tiny = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        ...         "intermediate_size": 32, "vocab_size": 50}
        >>> encoder = HuggingFaceTextEncoder(config=tiny, pooling="mean")
        >>> encoder(torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.bool)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        path: str | None = None,
        pooling: str = "mean",
        *,
        pretrained: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if pooling not in POOLINGS:
            raise InputError(f"unknown pooling {pooling!r}: {nearest(pooling, POOLINGS)}")
        model = _load(path, pretrained, config)
        length = getattr(model.config, "max_position_embeddings", None) or 512
        super().__init__(output_dim=int(model.config.hidden_size), context_length=int(length))
        self.pooling = pooling
        self.model = model
        if isinstance(pooler := getattr(model, "pooler", None), nn.Module):
            pooler.requires_grad_(False)  # never asked: DDP would wait for its gradient
        self.vocab_size = int(model.config.vocab_size)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return POOLINGS[self.pooling](self.forward_tokens(tokens, mask), mask)

    def forward_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return hidden

    def blocks(self) -> list[nn.Module]:
        lists = [list(layers) for layers in self.model.modules() if isinstance(layers, nn.ModuleList)]
        return max(lists, key=len, default=[])

    def checkpoint_blocks(self) -> None:
        try:
            # Renamed in transformers 5.
            name = "activation_checkpointing_enable"
            enable = getattr(self.model, name, None) or self.model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        except ValueError as error:
            raise InputError(f"{error} Leave 'text' out of execution.checkpoint.") from error

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
        return {"name": "hf", "pooling": self.pooling, "config": _plain(self.model.config.to_dict())}


def _load(path: str | None, pretrained: bool, config: Mapping[str, Any] | None) -> Any:
    from transformers import AutoConfig, AutoModel  # here: importing transformers' models is slow

    if (path is None) == (config is None):
        raise InputError("give a Hugging Face text encoder either a path (name or folder) or a config, not both or neither")
    try:
        if config is not None:
            settings = dict(config)
            return AutoModel.from_config(  # type: ignore[no-untyped-call]
                AutoConfig.for_model(settings.pop("model_type"), **settings)
            )
        assert path is not None
        if not pretrained:
            return AutoModel.from_config(AutoConfig.from_pretrained(path))  # type: ignore[no-untyped-call]
        return AutoModel.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no Hugging Face text model {path or dict(config or {})!r}: {reason} Give a hub name (needs the network once) "
            "or a folder written by save_pretrained."
        ) from error


def _plain(value: Any) -> Any:
    """Only what a checkpoint read with weights_only=True may hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _by_hub_name(name: str) -> Callable[..., HuggingFaceTextEncoder] | None:
    return partial(HuggingFaceTextEncoder, name.removeprefix("hf:")) if name.startswith("hf:") else None


text_encoders.fallback = _by_hub_name
