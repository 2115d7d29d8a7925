"""Tokenizers: captions to rows of token ids, padded only to the longest caption of the batch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from tokenizers import AddedToken, ByteLevelBPETokenizer, Regex, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from torch import Tensor

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.core.registry import Registry
from lightning_clip.core.settings import expanded

__all__ = [
    "JsonTokenizer",
    "Tokenizer",
    "added_token",
    "checked",
    "from_transformers",
    "roomy",
    "tokenizers",
    "train_tokenizer",
]

_PAD, _START, _END = "<pad>", "<start_of_text>", "<end_of_text>"
# Scripts that put no spaces between words: letter by letter, or whole sentences would be learned as words.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_CLEANINGS = ("whitespace", "lower", "canonicalize")
_TRAIN = "train one on your captions with `lightning-clip tokenizer train`"


class Tokenizer(ABC):
    """Captions to token ids, all below `vocab_size`, at most `context_length` a caption, `pad_id` to their right.

    Attributes:
        padding_side: where a text tower that attends to padding has it, "right" or "left", as the tower was trained. Rows made
            here are padded on the right whatever it says: such a tower moves them itself.
    """

    vocab_size: int
    context_length: int
    pad_id: int
    padding_side: str = "right"

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One row of ids per text, with start and end tokens; a text that is too long keeps its end token."""

    @abstractmethod
    def to_mapping(self) -> dict[str, Any]:
        """Plain types from which `tokenizers.build` makes this tokenizer again with no file at hand."""

    def grown(self, new_tokens: Sequence[str], context_length: int | None = None) -> Tokenizer:
        """One that also has `new_tokens`, found in captions as they are written, and gives `context_length` ids at most.

        Ids of what was known stay as they are.

        Raises:
            InputError: this tokenizer cannot.
        """
        raise InputError(f"{type(self).__name__} cannot take new tokens or a longer context: give a tokenizer that has them")

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids int64 (B, L) and mask bool (B, L), L the longest row rounded up to 8, at most `context_length`."""
        return self.padded(self.encode(checked(texts)), multiple=8)

    def padded(self, rows: Sequence[Sequence[int]], multiple: int = 1) -> tuple[Tensor, Tensor]:
        """Token ids int64 (B, L) and mask bool (B, L), L the longest row rounded up to `multiple`, at most `context_length`."""
        lengths, longest = torch.tensor([len(row) for row in rows]), max([1, *map(len, rows)])
        mask = torch.arange(min(-(-longest // multiple) * multiple, self.context_length)) < lengths[:, None]
        tokens = torch.full(mask.shape, self.pad_id, dtype=torch.int64)
        tokens[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        return tokens, mask


def _by_name(name: str) -> Callable[..., JsonTokenizer] | None:
    if name.startswith("hf:"):
        return partial(_from_hugging_face, expanded(name.removeprefix("hf:")))
    return partial(JsonTokenizer, path=name) if name.endswith(".json") else None


tokenizers: Registry[Tokenizer] = Registry("tokenizer", fallback=_by_name)


def _backend(content: str | None, path: str | None) -> Any:
    """The library's tokenizer of a JSON text or file."""
    if (content is None) == (path is None):
        raise InputError("give tokenizer 'json' either its content or the path of a file, not both or neither")
    try:
        return Backend.from_str(content or existing_path(path or "", "file").read_text("utf-8"))
    except Exception as error:  # the library raises nothing more precise
        reason = f"no tokenizer in {path or 'the content'!r}: {shorten(str(error), 300)}"
        raise InputError(f"{reason} Give another, or {_TRAIN}") from error


@tokenizers.register("json")
class JsonTokenizer(Tokenizer):
    """A tokenizer in the JSON format of the Hugging Face `tokenizers` library.

    Args:
        content: the JSON itself.
        path: a file that holds it; give one of both.
        context_length: the most ids of a caption; None takes the truncation that the JSON asks for, or 77.
        pad_id: None takes the padding that the JSON asks for, its `<pad>` or `[PAD]` token, or 0.
        clean: what open_clip does to texts before its tokenizers of Hugging Face: "whitespace", "lower" or "canonicalize"
            (entities and broken letters repaired, then spaces; letters lowered; punctuation removed).
        padding_side: "right" or "left", see `Tokenizer`; None takes what the JSON asks for, or "right".

    Raises:
        InputError: no such file, not a tokenizer, or a `context_length`, `pad_id`, `clean` or `padding_side` it cannot have.

    Examples:
        >>> tokenizer = train_tokenizer(["a dog on the beach", "一只狗"])
        >>> same = tokenizers.build(tokenizer.to_mapping())
        >>> same.encode(["a dog"]) == tokenizer.encode(["a dog"]), same.decode(same.encode(["一只狗"]))
        (True, ['一只狗'])
    """

    def __init__(
        self,
        content: str | None = None,
        path: str | None = None,
        context_length: int | None = None,
        pad_id: int | None = None,
        clean: str | None = None,
        padding_side: str | None = None,
    ) -> None:
        if clean is not None and clean not in _CLEANINGS:
            raise InputError(f"unknown clean {clean!r}: {nearest(clean, _CLEANINGS)}")
        self.clean = clean
        # In loader workers the library's threads would compete, and older releases warn or hang after a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._backend = backend = _backend(content, path)
        self.path = None  # once read, the content is all that is needed
        truncation, padding = backend.truncation or {}, backend.padding or {}
        length = truncation.get("max_length", 77) if context_length is None else context_length
        self.context_length = roomy(length, backend.num_special_tokens_to_add(False))
        self.vocab_size = max(backend.get_vocab().values(), default=0) + 1
        known = (pad_id, padding.get("pad_id"), backend.token_to_id(_PAD), backend.token_to_id("[PAD]"), 0)
        self.pad_id = next(token for token in known if token is not None)
        if not 0 <= self.pad_id < self.vocab_size:
            raise InputError(f"pad_id {self.pad_id} is not one of the tokenizer's ids: use 0 to {self.vocab_size - 1}")
        self.padding_side = padding_side or str(padding.get("direction", "right")).lower()
        if self.padding_side not in ("right", "left"):
            raise InputError(f"unknown padding_side {self.padding_side!r}: {nearest(self.padding_side, ('right', 'left'))}")
        backend.enable_truncation(self.context_length, direction=truncation.get("direction", "right"))
        pad_token = backend.id_to_token(self.pad_id) or _PAD
        backend.enable_padding(direction=self.padding_side, pad_id=self.pad_id, pad_token=pad_token)
        self.content: str = backend.to_str()  # the JSON alone knows these settings now
        backend.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in checked(texts)]  # lone surrogates fail
        return [encoding.ids for encoding in self._backend.encode_batch_fast(self._cleaned(texts))]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts behind rows of ids, as the tokenizer normalised them, without special tokens."""
        return [text.strip() for text in self._backend.decode_batch([list(row) for row in rows])]

    def to_mapping(self) -> dict[str, Any]:
        settings = {"content": self.content, "context_length": self.context_length, "pad_id": self.pad_id}
        return {"name": "json", **settings, **({} if self.clean is None else {"clean": self.clean})}

    def grown(self, new_tokens: Sequence[str], context_length: int | None = None) -> JsonTokenizer:
        for token, clean in zip(new_tokens, self._cleaned(new_tokens), strict=True):
            if clean != token:
                raise InputError(
                    f"new token {token!r} would never be found: this tokenizer cleans captions first ({self.clean!r}) and "
                    f"makes {clean!r} of it. Give a word that stays as it is"
                )
        backend = Backend.from_str(self.content)
        known = backend.get_vocab(with_added_tokens=True)
        backend.add_tokens([added_token(token) for token in new_tokens if token not in known])
        length = context_length or self.context_length
        return JsonTokenizer(backend.to_str(), context_length=length, pad_id=self.pad_id, clean=self.clean)

    def _cleaned(self, texts: Sequence[str]) -> list[str]:
        if self.clean is None:
            return list(texts)
        from open_clip.tokenizer import get_clean_fn  # here: open_clip imports all of its models

        return list(map(get_clean_fn(self.clean), texts))

    def save(self, path: str | Path) -> None:
        """Writes a file which `JsonTokenizer(path=path)` reads with the same context length and padding."""
        with beside(path) as place:
            place.write_text(self.content, encoding="utf-8")


def train_tokenizer(captions: Iterable[str], vocab_size: int = 8192, context_length: int = 77) -> JsonTokenizer:
    """Learns byte-level pairs from captions of any language, lowercased; no captions or few ids are an InputError."""
    if vocab_size < 259:
        raise InputError(f"vocab_size {vocab_size} is below the 256 bytes and 3 special tokens: use at least 259")
    texts = (caption.encode("utf-8", "replace").decode("utf-8") for caption in captions)
    if (first := next(texts, None)) is None:
        raise InputError("there are no captions to train a tokenizer on: give at least one")
    spaces = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    bpe = ByteLevelBPETokenizer()
    # A space in front, so that the first word is a word like the others.
    steps = [normalizers.NFKC(), normalizers.Lowercase(), spaces, normalizers.Prepend(" ")]
    bpe.normalizer = normalizers.Sequence(steps)
    letters = pre_tokenizers.Split(Regex(_UNSPACED), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([letters, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.train_from_iterator(chain([first], texts), vocab_size, special_tokens=[_PAD, _START, _END], show_progress=False)
    bpe.post_processor = processors.BertProcessing((_END, 2), (_START, 1))
    return JsonTokenizer(bpe.to_str(), context_length=context_length)


def added_token(token: str) -> AddedToken:
    """A new token that is found as it is written; a word of letters not inside another one.

    Scripts without spaces have no words to tell apart.
    """
    return AddedToken(token, normalized=False, single_word=token.isascii() and token.isalnum())


def _from_hugging_face(
    path: str, context_length: int | None = None, pad_id: int | None = None, clean: str | None = None
) -> JsonTokenizer:
    from transformers import AutoTokenizer  # here: importing transformers is slow

    try:
        source: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a user's broken folder may raise any type
        reason = f"no Hugging Face tokenizer {path!r}: {shorten(str(error), 300)}"
        raise InputError(f"{reason} Without network give a folder written by save_pretrained, hf:FOLDER") from error
    length = min(77, source.model_max_length) if context_length is None else context_length
    return from_transformers(source, path, length, source.pad_token_id if pad_id is None else pad_id, clean)


def from_transformers(
    source: Any, path: str, length: int, pad_id: int | None = None, clean: str | None = None
) -> JsonTokenizer:
    """A live tokenizer of transformers as ours, with the same ids.

    Args:
        source: of transformers.
        path: its name, for messages.
        length: the most ids of a caption.
        pad_id: None takes the source's.
        clean: see `JsonTokenizer`.

    Raises:
        InputError: it is no fast tokenizer, or does more than its JSON says.
    """
    if not source.is_fast:
        raise InputError(f"Hugging Face tokenizer {path!r} is slow only, no JSON holds it: choose another, or {_TRAIN}")
    pad_id = source.pad_token_id if pad_id is None else pad_id
    source.backend_tokenizer.enable_truncation(512, direction=source.truncation_side)
    found = JsonTokenizer(
        source.backend_tokenizer.to_str(), context_length=length, pad_id=pad_id, padding_side=source.padding_side
    )
    probes = ["", "A photo of 2 Dogs!", "一只狗 ﬁé", "".join(source.all_special_tokens), "long " * length]
    rows = source(probes, truncation=True, max_length=length)["input_ids"]
    if rows != found.encode(probes) or not _padded_alike(source, found, probes):
        raise InputError(f"Hugging Face tokenizer {path!r} does more than its JSON: wrap it in a Tokenizer of yours")
    # What happens before the library sees the text.
    return found if clean is None else JsonTokenizer(found.content, context_length=length, pad_id=found.pad_id, clean=clean)


def _padded_alike(source: Any, found: JsonTokenizer, texts: Sequence[str]) -> bool:
    """Whether rows of the full length are the same ids, padding included; nothing to compare where it has no such token."""
    if source.pad_token_id != found.pad_id:  # another one was asked for
        return True
    theirs = source(list(texts), truncation=True, max_length=found.context_length, padding="max_length")["input_ids"]
    rows = [(row, [found.pad_id] * (found.context_length - len(row))) for row in found.encode(texts)]
    return bool(theirs == [[*room, *row] if found.padding_side == "left" else [*row, *room] for row, room in rows])


def checked(texts: Sequence[str]) -> Sequence[str]:
    """The texts, unless they are no list of strings."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):  # a string would be read by letters
        raise InputError(f"texts {str(texts)[:60]!r} is not a list of strings: give captions as ['a dog', 'a cat']")
    return texts


def roomy(context_length: int, special_tokens: int) -> int:
    """The context length, unless start and end tokens fill it."""
    if context_length > special_tokens:
        return context_length
    raise InputError(f"context_length {context_length} leaves no room for text: use at least {special_tokens + 1}")
