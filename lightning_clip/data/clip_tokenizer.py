"""CLIP's tokenizer on a fast path, with the ids of the reference implementation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from lightning_clip.data.tokenizers import Tokenizer, checked, roomy, tokenizers

__all__ = ["ClipTokenizer"]

_REMEMBERED = 1 << 16  # pieces of text whose ids are kept; a language's common words are far fewer
_SHORT = 24  # letters of a piece worth remembering: longer ones hardly come again
_LONGEST_WORD = 2048  # letters; the byte pairs of a longer one would take seconds, and no context holds them


@tokenizers.register("clip")
class ClipTokenizer(Tokenizer):
    """The byte-pair encoding of CLIP (Radford et al. 2021, section 2.4) with the 49,408 ids that open_clip carries.

    Ids are those of open_clip's `SimpleTokenizer`. Pieces between spaces are looked up among those met before, and printable
    ASCII without entities skips the cleaning, which would not change it.

    Args:
        context_length: the most ids of a caption, start and end included.
        new_tokens: words that are one id each, from 49408 on, where a caption has them as they are written here.

    Raises:
        InputError: a context without room for text.

    Examples:
        >>> tokens, mask = ClipTokenizer(context_length=77)(["a dog", "a red bus in the rain at night"])
        >>> tokens.shape, tokens[0, :5].tolist(), mask.sum(dim=1).tolist()
        (torch.Size([2, 16]), [49406, 320, 1929, 49407, 0], [4, 10])
    """

    def __init__(self, context_length: int = 77, new_tokens: Sequence[str] = ()) -> None:
        self.context_length, self.pad_id = roomy(context_length, special_tokens=2), 0
        self._bpe = _byte_pairs()
        self._clean: Callable[[str], str] = self._bpe.clean_fn
        self._known: dict[str, list[int]] = {}
        first = int(self._bpe.vocab_size)
        self.new_tokens = list(new_tokens)
        self._new = {token: first + place for place, token in enumerate(self.new_tokens)}
        self._split = re.compile("(" + "|".join(map(_pattern, sorted(self.new_tokens, key=len, reverse=True))) + ")")
        self.vocab_size = first + len(self.new_tokens)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        start, end, room = self._bpe.sot_token_id, self._bpe.eot_token_id, self.context_length - 2
        return [[start, *self._ids(text, room), end] for text in checked(texts)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts behind rows of ids, in lower case, without start and end."""
        special = (self._bpe.sot_token_id, self._bpe.eot_token_id)
        new = {place: f"{token} " for token, place in self._new.items()}
        found = []
        for row in rows:
            # Together: a sign may be spread over several ids.
            runs = groupby((place for place in row if place not in special), key=new.__contains__)
            texts = ("".join(new[place] for place in run) if own else self._bpe.decode(list(run)) for own, run in runs)
            found.append("".join(texts).strip())
        return found

    def to_mapping(self) -> dict[str, Any]:
        new = {"new_tokens": self.new_tokens} if self.new_tokens else {}
        return {"name": "clip", "context_length": self.context_length, **new}

    def grown(self, new_tokens: Sequence[str], context_length: int | None = None) -> ClipTokenizer:
        new = [token for token in new_tokens if token not in self._new]
        return ClipTokenizer(context_length or self.context_length, [*self.new_tokens, *new])

    def _ids(self, text: str, room: int) -> list[int]:
        if not self._new:
            return self._known_ids(text, room)
        ids: list[int] = []
        for part in self._split.split(text):
            ids += [self._new[part]] if part in self._new else self._known_ids(part, room) if part.strip() else []
        return ids[:room]

    def _known_ids(self, text: str, room: int) -> list[int]:
        text = text.lower() if text.isascii() and text.isprintable() and "&" not in text else self._clean(text)
        ids: list[int] = []
        known = self._known
        # No token of CLIP's pattern holds a space, so that pieces can be encoded one by one.
        for piece in text.split(" "):
            found = known.get(piece)
            ids += self._encoded(piece) if found is None else found
            if len(ids) >= room:
                return ids[:room]
        return ids

    def _encoded(self, piece: str) -> list[int]:
        bpe, ids = self._bpe, []
        for word in bpe.pat.findall(piece):
            symbols = "".join(bpe.byte_encoder[byte] for byte in word[:_LONGEST_WORD].encode("utf-8"))
            ids += [bpe.encoder[part] for part in bpe.bpe(symbols).split(" ")]
        if len(bpe.cache) > _REMEMBERED:
            bpe.cache = {token: token for token in ("<start_of_text>", "<end_of_text>")}
        if len(piece) <= _SHORT:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[piece] = ids
        return ids

    def __getstate__(self) -> dict[str, Any]:
        return {"context_length": self.context_length, "new_tokens": self.new_tokens}  # a worker reads the vocabulary itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


@cache
def _byte_pairs() -> Any:
    """One for all tokenizers of a process: reading it takes a quarter of a second, and nothing in it is a tokenizer's own."""
    from open_clip.tokenizer import SimpleTokenizer  # here: open_clip imports all of its models

    return SimpleTokenizer()


def _pattern(token: str) -> str:
    """A word of letters is not to be found inside another one."""
    return rf"\b{re.escape(token)}\b" if token.isascii() and token.isalnum() else re.escape(token)
