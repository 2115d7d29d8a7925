"""The text tower on Flickr8k's captions: in chunks by length beside padding to 77, forward and backward, interleaved.

Float32, one thread, CLIP's text Transformer of width 512 with 4 layers (--layers). Prints the largest relative difference
of the gradients too. Needs `LIGHTNING_CLIP_DATA`.

    python benchmarks/text_chunks.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from captions import flickr8k_captions
from report import Row, machine, write_section
from torch import Tensor

from lightning_clip.data import ClipTokenizer
from lightning_clip.encoders import ClipTextTransformer
from lightning_clip.encoders.chunks import encode_in_chunks


def gradients(encode: Callable[[], Tensor], encoder: torch.nn.Module, weights: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    (encode() * weights).sum().backward()
    return {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    captions = flickr8k_captions()
    if captions is None:
        sys.exit("benchmarks/text_chunks.py: LIGHTNING_CLIP_DATA does not name a folder with flickr8k")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens, mask = ClipTokenizer()(captions[:: len(captions) // arguments.batch][: arguments.batch])
    padded_tokens, padded_mask = (torch.nn.functional.pad(value, (0, 77 - value.shape[1])) for value in (tokens, mask))
    encoder = ClipTextTransformer(width=512, layers=arguments.layers, heads=8)
    weights = torch.randn(arguments.batch, 512)
    contenders: dict[str, Callable[[], Tensor]] = {
        "padded to 77": lambda: encoder(padded_tokens, padded_mask),
        "padded to the longest": lambda: encoder(tokens, mask),
        "in chunks": lambda: encode_in_chunks(encoder, tokens, mask, None, 4),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, dict[str, Tensor]] = {}
    for number in range(arguments.rounds + 1):
        for name, encode in contenders.items():
            start = time.perf_counter()
            found[name] = gradients(encode, encoder, weights)
            if number:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = found["padded to 77"]
    rows = []
    for name in ("padded to the longest", "in chunks"):
        error = max(float((found[name][key] - value).norm() / value.norm()) for key, value in reference.items() if value.any())
        ratio = medians["padded to 77"] / medians[name]
        what = f"{arguments.batch} captions, {name}"
        rows.append(
            Row(
                what,
                f"{medians['padded to 77']:.2f} s",
                f"{medians[name]:.2f} s",
                f"{ratio:.2f}x faster, gradients to {error:.0e}",
            )
        )
    title = "Text tower on Flickr8k's captions, forward and backward, float32"
    write_section("text_chunks", title, machine(1, arguments.rounds), rows, heads=("padded to 77", "here"))


if __name__ == "__main__":
    main()
