"""Mutations by seed: of bytes, of values inside JSON and YAML, of safetensors' headers and of what a checkpoint holds."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import torch
import yaml

__all__ = ["mutated", "mutated_checkpoint", "mutated_json", "mutated_tensors", "mutated_yaml"]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1.5, -0.5, 1e-30, 1e300, float("nan"), float("inf"),
    255, 1000, 65536, 1_000_000, 2**31, 2**40, 2**63, 10**30, -(2**40),
    "", " ",
    "x", "none", "3", "null",
    "é\u202e\0", "a" * 5000, "[/red]", "%s{}{0}", "hf:", "synthetic", "resnet18", "clip",
    [], {}, [[]], [1, 2], ["a"], [None], {"name": "x"}, {"name": 3}, {"a": {"b": {}}},
    [[[[[[]]]]]], {"class_path": "os.system"},
)  # fmt: skip


def mutated(content: bytes, rng: random.Random, room: int | None = None) -> bytes:
    """Bytes flipped, set to extremes, cut out, doubled, or the end cut off.

    Args:
        content: of a file.
        rng: that draws.
        room: mutations fall into the first so many bytes, such as those of a header; None takes all.
    """
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 16))):
        at = rng.randrange(min(len(data), room or len(data)) or 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"77777777", rng.randbytes(8)))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        else:
            del data[max(at, 1) :]
    return bytes(data)


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """Values, keys and lists inside JSON; one time in three its bytes."""
    return _of_text(content, rng, json.loads, lambda value: json.dumps(value).encode())


def mutated_yaml(content: bytes, rng: random.Random) -> bytes:
    """As `mutated_json`, of YAML."""
    return _of_text(content, rng, yaml.safe_load, lambda value: yaml.safe_dump(value).encode())


def _of_text(content: bytes, rng: random.Random, read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> bytes:
    return mutated(content, rng) if rng.random() < 1 / 3 else write(changed(read(content), rng))


def mutated_tensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file: its header's values, its header's bytes, or any bytes."""
    length = struct.unpack("<Q", content[:8])[0]
    kind = rng.randrange(3)
    if kind == 0:
        header = json.dumps(changed(json.loads(content[8 : 8 + length]), rng)).encode()
        return struct.pack("<Q", len(header)) + header + content[8 + length :]
    return mutated(content, rng, 8 + length if kind == 1 else None)


def mutated_checkpoint(content: bytes, rng: random.Random) -> bytes:
    """What a checkpoint holds beside its tensors, written again by torch."""
    stream = io.BytesIO()
    torch.save(changed(torch.load(io.BytesIO(content), weights_only=True), rng), stream)
    return stream.getvalue()


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of nested mappings and lists with one to three of its places changed."""
    root = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        root = _once(root, rng)
    return root


def _once(root: Any, rng: random.Random) -> Any:
    places = _places(root)
    if not places:
        return copy.deepcopy(rng.choice(VALUES))
    holder, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("x", "name", "", "é", "a" * 300))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.extend([copy.deepcopy(holder[key])] * rng.choice((1, 100)))
    elif kind == 3:
        other, place = rng.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif kind == 4 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = rng.choice((holder[key] * 1000, -holder[key], holder[key] + 1, holder[key] // 2 if holder[key] else 0))
    elif kind == 5 and isinstance(holder[key], str) and holder[key].startswith("{"):  # JSON inside JSON, as tokenizers are kept
        holder[key] = mutated_json(holder[key].encode(), rng).decode(errors="replace")
    elif kind == 6:
        deep: Any = 0
        for _ in range(rng.choice((3, 100))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        holder[key] = deep
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    return root


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Every mapping or list with each of its keys; of long ones a few, so that vocabularies do not take all mutations."""
    found: list[tuple[Any, Any]] = []
    open_ones = [root]
    while open_ones:
        holder = open_ones.pop()
        keys: list[Any] = (
            list(holder) if isinstance(holder, dict) else list(range(len(holder))) if isinstance(holder, list) else []
        )
        for key in keys[:12] + keys[12:][-12:]:
            found.append((holder, key))
            open_ones.append(holder[key])
    return found
