"""Tokenizers of ours as live ones of transformers, with the same ids."""

from __future__ import annotations

import json
import re
import string
from functools import lru_cache
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.data.tokenizers import JsonTokenizer, Tokenizer, added_token
from lightning_clip.weights.tokens import end_token

__all__ = ["last_id", "swapped", "transformers_tokenizer", "with_cleaning"]


def transformers_tokenizer(tokenizer: Tokenizer, masked: bool = True) -> Any:
    """A fast tokenizer of transformers with the same ids.

    Args:
        tokenizer: one of ours.
        masked: whether it gives a mask of padding beside the ids.

    Raises:
        InputError: a tokenizer of the user's own class.
    """
    import transformers

    if (mapping := tokenizer.to_mapping())["name"] == "clip":
        return _clip(tokenizer.context_length, tuple(mapping.get("new_tokens", ())), masked)
    if not isinstance(tokenizer, JsonTokenizer):
        raise InputError(
            f"a tokenizer of class {type(tokenizer).__name__} cannot be written for transformers: register a JSON one"
        )
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(tokenizer.content)
    backend.no_padding()
    backend.no_truncation()
    end = end_token(tokenizer)
    names = {"pad_token": backend.id_to_token(tokenizer.pad_id), "eos_token": None if end is None else backend.id_to_token(end)}
    library: Any = transformers
    return library.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.context_length,
        padding_side=tokenizer.padding_side,
        model_input_names=_inputs(masked),
        **{key: value for key, value in names.items() if value is not None},
    )


@lru_cache(maxsize=4)
def _clip(context_length: int, new_tokens: tuple[str, ...], masked: bool) -> Any:
    """CLIP's vocabulary, which open_clip carries, as transformers writes it, and new words after it."""
    import transformers
    from open_clip.tokenizer import SimpleTokenizer

    bpe: Any = SimpleTokenizer()
    encoder = dict(bpe.encoder)
    encoder["<|startoftext|>"] = encoder.pop("<start_of_text>")
    encoder["<|endoftext|>"] = encoder.pop("<end_of_text>")
    ranks = sorted(bpe.bpe_ranks.items(), key=lambda item: item[1])
    pairs = [pair for pair, _ in ranks]
    library: Any = transformers
    settings = {"model_max_length": context_length, "model_input_names": _inputs(masked)}
    found = library.CLIPTokenizerFast(vocab=encoder, merges=pairs, **settings)
    found.add_tokens(list(map(added_token, new_tokens)))
    return found


def _inputs(masked: bool) -> list[str]:
    return ["input_ids", "attention_mask"] if masked else ["input_ids"]


def with_cleaning(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with open_clip's cleaning of captions as a part of its JSON, which transformers knows nothing of.

    The repair of broken letters and HTML entities has no form there and is omitted.

    Examples:
        >>> from lightning_clip.data.tokenizers import train_tokenizer
        >>> plain = train_tokenizer(["a dog, a cat"])
        >>> clean = JsonTokenizer(plain.content, clean="canonicalize")
        >>> with_cleaning(clean).encode(["A  dog_cat!"]) == plain.encode(["a dog cat"])
        True
    """
    if not isinstance(tokenizer, JsonTokenizer) or tokenizer.clean is None:
        return tokenizer
    from tokenizers import Regex, normalizers
    from tokenizers import Tokenizer as Backend

    punctuation = Regex(f"[{re.escape(string.punctuation)}]")
    steps: list[Any] = []
    if tokenizer.clean == "canonicalize":
        steps += [normalizers.Replace("_", " "), normalizers.Replace(punctuation, "")]
    if tokenizer.clean != "whitespace":
        steps.append(normalizers.Lowercase())
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    backend = Backend.from_str(tokenizer.content)
    backend.normalizer = normalizers.Sequence([*steps, *([] if backend.normalizer is None else [backend.normalizer])])
    return JsonTokenizer(backend.to_str(), context_length=tokenizer.context_length, pad_id=tokenizer.pad_id)


def last_id(tokenizer: JsonTokenizer) -> int:
    """The largest id of the vocabulary that was learned: new words come after it, and their ids follow from their places."""
    vocabulary = json.loads(tokenizer.content)["model"]["vocab"]
    return len(vocabulary) - 1 if isinstance(vocabulary, list) else int(max(vocabulary.values()))


def swapped(tokenizer: JsonTokenizer, one: int, other: int) -> JsonTokenizer:
    """The same tokenizer with two ids exchanged; the rows of the embedding must be exchanged with them.

    Examples:
        >>> from lightning_clip.data.tokenizers import train_tokenizer
        >>> trained = train_tokenizer(["a dog"])
        >>> last = trained.vocab_size - 1
        >>> trained.encode(["a dog"])[0][-1], swapped(trained, 2, last).encode(["a dog"])[0][-1] == last
        (2, True)
    """
    content = json.loads(tokenizer.content)
    turned = {one: other, other: one}
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # SentencePiece's, where the place is the id
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    else:
        content["model"]["vocab"] = {token: turned.get(number, number) for token, number in vocabulary.items()}
    for token in content.get("added_tokens", []):
        token["id"] = turned.get(token["id"], token["id"])
    content["added_tokens"] = sorted(content.get("added_tokens", []), key=lambda token: token["id"])
    _exchange(content.get("post_processor"), turned)
    if content.get("padding"):
        content["padding"]["pad_id"] = turned.get(content["padding"]["pad_id"], content["padding"]["pad_id"])
    pad_id = turned.get(tokenizer.pad_id, tokenizer.pad_id)
    return JsonTokenizer(json.dumps(content), context_length=tokenizer.context_length, pad_id=pad_id, clean=tokenizer.clean)


def _exchange(part: Any, turned: dict[int, int]) -> None:
    """Ids inside a post-processor: pairs of token and id (BERT's, RoBERTa's), and lists of ids (templates)."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("sep", "cls") and isinstance(value, list):
                part[key] = [value[0], turned.get(value[1], value[1])]
            elif key == "ids":
                part[key] = [turned.get(number, number) for number in value]
            else:
                _exchange(value, turned)
    elif isinstance(part, list):
        for item in part:
            _exchange(item, turned)
