"""The text tower on Flickr8k's captions, float32, one thread: training beside open_clip, inference beside transformers.

Training is forward and backward of the tower of the step's benchmark (width 256, 6 layers), with open_clip at its context of
77 and at 32, which holds every caption. Inference is encoding with CLIP's own tower (512, 12) and projection, transformers
padding to the longest of the batch. Contenders take turns in one process; CPU time is counted. Ends
with the largest relative difference of packed gradients from padded ones. Needs `LIGHTNING_CLIP_DATA`.

    python benchmarks/text_tower.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from captions import flickr8k_captions
from open_clip.transformer import TextTransformer
from report import Row, machine, write_section
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lightning_clip import ClipModel
from lightning_clip.data import ClipTokenizer
from lightning_clip.encoders import ClipTextTransformer
from lightning_clip.training.allocator import keep_freed_memory

# width, layers, heads
SMALL, USUAL = (256, 6, 4), (512, 12, 8)
IMAGE = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 16, "depth": 1}


def in_turns(contenders: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """CPU seconds of each round of each contender, after a round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            start = time.process_time()
            for _ in range(calls):
                work()
            if number:
                seconds[name].append((time.process_time() - start) / calls)
    return seconds


def row(what: str, seconds: dict[str, list[float]], peer: str) -> Row:
    """A line: medians, and the median of the ratios of rounds."""
    theirs, ours = seconds[peer], seconds["ours"]
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    times = (f"{1e3 * statistics.median(values):,.1f} ms" for values in (theirs, ours))
    return Row(what, *times, f"{ratio:.2f}x faster")


def gradients(work: Callable[[], Tensor], tower: torch.nn.Module, weights: Tensor) -> list[Tensor]:
    """Of a weighted sum of the features, by parameter."""
    tower.zero_grad()
    (work() * weights).sum().backward()
    return [parameter.grad.clone() for parameter in tower.parameters() if parameter.grad is not None]


def training(captions: list[str], rounds: int) -> list[Row]:
    """Lines of forward and backward."""
    width, layers, heads = SMALL
    tokens, mask = ClipTokenizer()(captions)
    lengths = mask.sum(dim=1).tolist()
    tower = ClipTextTransformer(width=width, layers=layers, heads=heads)
    weights = torch.randn(len(captions), width)

    def their_step(context: int) -> Callable[[], object]:
        theirs = TextTransformer(context, width=width, heads=heads, layers=layers, output_dim=width, proj_type="none")
        padded = torch.nn.functional.pad(tokens, (0, context - tokens.shape[1]))
        return lambda: gradients(lambda: theirs(padded), theirs, weights)

    def packed() -> list[Tensor]:
        return gradients(lambda: tower(tokens, mask, lengths), tower, weights)

    contenders = {"ours": packed, **{f"open_clip {context}": their_step(context) for context in (77, 32)}}
    seconds = in_turns(contenders, rounds)
    plain = gradients(lambda: tower(tokens, mask), tower, weights)
    error = max(float((one - two).norm() / two.norm()) for one, two in zip(packed(), plain, strict=True))
    what = f"training, {len(captions)} captions, open_clip at context"
    lines = [row(f"{what} {context}", seconds, f"open_clip {context}") for context in (77, 32)]
    return [line._replace(ratio=f"{line.ratio}, gradients to {error:.0e}") for line in lines]


@torch.no_grad()
def inference(captions: list[str], rounds: int) -> Row:
    """The line of encoding."""
    width, layers, heads = USUAL
    tokens, mask = ClipTokenizer()(captions)
    text = {"name": "clip_text", "width": width, "layers": layers, "heads": heads, "quick_gelu": True}
    ours = ClipModel(IMAGE, text, embed_dim=512).eval()
    config = CLIPTextConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, eos_token_id=49407)
    theirs = CLIPTextModelWithProjection(config).eval()
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.encode_text(tokens, mask),
        "transformers": lambda: theirs(input_ids=tokens, attention_mask=mask.long()).text_embeds,
    }
    calls = max(1, 16 // len(captions))
    return row(f"inference, {len(captions)} captions, transformers", in_turns(contenders, rounds, calls), "transformers")


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    captions = flickr8k_captions()
    if captions is None:
        sys.exit("benchmarks/text_tower.py: LIGHTNING_CLIP_DATA does not name a folder with flickr8k")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()  # for all contenders: they share a process

    def some(count: int) -> list[str]:
        return captions[:: len(captions) // count][:count]

    rows = [line for count in (64, 128) for line in training(some(count), arguments.rounds)]
    rows += [inference(some(count), 2 * arguments.rounds) for count in (1, 8, 64)]
    title = "Text tower on Flickr8k's captions, float32"
    write_section("text_tower", title, machine(1, arguments.rounds), rows, heads=("peer", "lightning_clip"))


if __name__ == "__main__":
    main()
