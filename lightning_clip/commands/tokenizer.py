"""`lightning-clip tokenizer train`: a vocabulary from captions in any language."""

from __future__ import annotations

import argparse

from lightning_clip.commands.sources import add_source_arguments, open_source

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source_arguments(parser)
    parser.add_argument("--output", required=True, help="the .json file to write; give it to ClipModule as tokenizer")
    parser.add_argument("--vocab-size", type=int, default=8192, help="number of token ids (default: %(default)s)")
    parser.add_argument("--context-length", type=int, default=77, help="the most tokens of a caption (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Trains a byte-level BPE on all captions of a source and reports how long captions become."""
    from rich.progress import track

    from lightning_clip.data.sources import readable_captions
    from lightning_clip.data.tokenizers import train_tokenizer

    source = open_source(arguments)
    texts = [text for index in track(range(len(source)), "reading captions") for text in readable_captions(source, index)]
    tokenizer = train_tokenizer(texts, arguments.vocab_size, arguments.context_length)
    tokenizer.save(arguments.output)
    lengths = sorted(len(ids) for ids in tokenizer.encode(texts[:10_000]))
    print(
        f"wrote {arguments.output}: {tokenizer.vocab_size} ids from {len(texts)} captions; "
        f"tokens per caption: median {lengths[len(lengths) // 2]}, longest {lengths[-1]}"
    )
