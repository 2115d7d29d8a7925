"""A whole training step beside open_clip's: the same towers, loss, batch and optimizer, float32, one thread.

ViT of width 192 with 12 layers on patches of 8 in 64 px, text of width 256 with 6 layers: 22.9M parameters. A step is
tokenizing Flickr8k's captions, normalising pixels, both towers, the loss, backward and AdamW. open_clip runs at its context of
77 and at 32, the least that holds every caption. Each contender has a process of its own; they take turns, step by step, and
CPU time is counted, so that other work on the machine weighs on all alike. Memory is the growth of the process from before
the model is built to the peak of its steps. Needs `LIGHTNING_CLIP_DATA`.

    python benchmarks/training_step.py --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable

import open_clip
import torch
from captions import flickr8k_captions
from in_turns import Measured, in_turns, serve
from report import Row, machine, write_section

from lightning_clip import ClipModel, SoftmaxContrastiveLoss
from lightning_clip.data import ClipTokenizer
from lightning_clip.training.allocator import keep_freed_memory
from lightning_clip.training.optim import OptimizerSettings, build_optimizer, undecayed_names

WIDTH, LAYERS, PATCH, SIZE, HEADS = 192, 12, 8, 64, 3
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS, EMBED = 256, 6, 4, 256


def batch(size: int) -> tuple[torch.Tensor, list[str]]:
    """Random pixels (B, 3, 64, 64) and captions."""
    captions = flickr8k_captions()
    if captions is None:
        sys.exit("benchmarks/training_step.py: LIGHTNING_CLIP_DATA does not name a folder with flickr8k")
    pixels = torch.randint(256, (size, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return pixels, captions[:: len(captions) // size][:size]


def ours(size: int) -> Callable[[], object]:
    """A step of ClipModel."""
    keep_freed_memory()  # as `lightning-clip fit` does on a CPU
    pixels, captions = batch(size)
    image = {"image_size": SIZE, "patch_size": PATCH, "depth": LAYERS, "embed_dim": WIDTH, "num_heads": HEADS}
    text = {"width": TEXT_WIDTH, "layers": TEXT_LAYERS, "heads": TEXT_HEADS}
    model = ClipModel({"name": "vit_base_patch16_clip_224", **image}, {"name": "clip_text", **text}, embed_dim=EMBED)
    optimizer = build_optimizer(model, OptimizerSettings(), undecayed_names(model))
    loss, tokenizer = SoftmaxContrastiveLoss(), ClipTokenizer()

    def step() -> None:
        tokens, mask = tokenizer(captions)
        output = model(pixels, tokens, mask, mask.sum(dim=1).tolist())
        loss(output.image_features, output.text_features, output.scale).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def theirs(context: int, size: int) -> Callable[[], object]:
    """A step of open_clip's CLIP with its loss, its tokenizer and the optimizer of its training script."""
    pixels, captions = batch(size)
    vision = {"layers": LAYERS, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": PATCH, "image_size": SIZE}
    text = {"context_length": context, "width": TEXT_WIDTH, "heads": TEXT_HEADS, "layers": TEXT_LAYERS}
    model = open_clip.model.CLIP(embed_dim=EMBED, vision_cfg=vision, text_cfg={"vocab_size": 49408, **text})
    groups: list[list[torch.nn.Parameter]] = [[], []]
    for parameter in model.parameters():
        groups[parameter.ndim < 2].append(parameter)
    decays = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (0.2, 0.0), strict=True)]
    optimizer, loss = torch.optim.AdamW(decays, lr=5e-4, betas=(0.9, 0.98), eps=1e-6), open_clip.ClipLoss()
    tokenizer = open_clip.SimpleTokenizer(context_length=context)
    mean, std = (
        torch.tensor(value).view(1, 3, 1, 1) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )

    def step() -> None:
        features = model((pixels / 255 - mean) / std, tokenizer(captions))
        loss(*features).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rows(size: int, found: dict[str, Measured]) -> list[Row]:
    """Lines of the table for one size of batch."""
    lines, own = [], found["ours"]
    for context in (77, 32):
        peer = found[f"open_clip {context}"]
        ratio = statistics.median(theirs / ours for theirs, ours in zip(peer.seconds, own.seconds, strict=True))
        what = f"{size} pairs, open_clip at context {context}"
        lines.append(Row(what, f"{peer.median:.2f} s", f"{own.median:.2f} s", f"{ratio:.2f}x faster"))
        memory = f"{own.peak / peer.peak:.2f} of the memory"
        lines.append(Row(f"{what}, memory", f"{peer.peak / 2**20:,.0f} MiB", f"{own.peak / 2**20:,.0f} MiB", memory))
    return lines


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.serve:
        name, size = arguments.serve[0], int(arguments.serve[1])
        serve(lambda: ours(size) if name == "ours" else theirs(int(name.split()[1]), size))
        return
    lines = []
    for size in arguments.batches:
        names = ["ours", "open_clip 77", "open_clip 32"]
        commands = {name: [sys.executable, __file__, "--serve", name, str(size)] for name in names}
        lines += rows(size, in_turns(commands, arguments.rounds))
    write_section("training_step", "A whole training step, float32", machine(1, arguments.rounds), lines)


if __name__ == "__main__":
    main()
