"""One training step beside open_clip's: the same towers, loss, batch and optimizer, interleaved in one process, one thread.

What differs: captions are padded to the longest of the batch here, to 77 tokens there; and the code of the towers.
Caption lengths here are those of rendered scenes.

    python benchmarks/training_step.py --batch 64 --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import open_clip
import torch
from open_clip.model import CLIP
from report import Row, machine, write_section

from lightning_clip import ClipModel, SoftmaxContrastiveLoss
from lightning_clip.data import ClipTokenizer, SyntheticScenes

WIDTH, LAYERS, PATCH, SIZE, EMBED = 192, 6, 16, 64, 192


def ours(images: torch.Tensor, captions: list[str]) -> Callable[[], None]:
    """A step of ClipModel."""
    size = {"image_size": SIZE, "patch_size": PATCH, "depth": LAYERS, "embed_dim": WIDTH, "num_heads": 3}
    image = {"name": "vit_base_patch16_clip_224", **size}
    model = ClipModel(image, {"name": "clip_text", "width": WIDTH, "layers": LAYERS, "heads": 3}, embed_dim=EMBED)
    optimizer, loss, tokenizer = torch.optim.AdamW(model.parameters(), lr=1e-4), SoftmaxContrastiveLoss(), ClipTokenizer()

    def step() -> None:
        tokens, mask = tokenizer(captions)
        output = model(images, tokens, mask, mask.sum(dim=1).tolist())
        loss(output.image_features, output.text_features, output.scale).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def theirs(images: torch.Tensor, captions: list[str]) -> Callable[[], None]:
    """A step of open_clip's CLIP with its loss and tokenizer."""
    vision = {"layers": LAYERS, "width": WIDTH, "head_width": WIDTH // 3, "patch_size": PATCH, "image_size": SIZE}
    text = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 3, "layers": LAYERS}
    model = CLIP(embed_dim=EMBED, vision_cfg=vision, text_cfg=text)
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-4), open_clip.ClipLoss()
    tokenizer = open_clip.SimpleTokenizer()
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)

    def step() -> None:
        pixels = (images / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        image_features, text_features, scale = model(pixels, tokenizer(captions))
        loss(image_features, text_features, scale).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    scenes = SyntheticScenes(size=arguments.batch, image_size=SIZE)
    images = torch.stack([torch.as_tensor(scenes[i].image) for i in range(arguments.batch)])
    captions = [scenes[i].captions[0] for i in range(arguments.batch)]
    steps = {"lightning_clip": ours(images, captions), "open_clip": theirs(images, captions)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(arguments.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    theirs_took, ours_took = medians["open_clip"], medians["lightning_clip"]
    row = Row(
        f"{arguments.batch} pairs, {SIZE} px, both towers of width {WIDTH} and {LAYERS} layers",
        f"{theirs_took:.2f} s, {arguments.batch / theirs_took:.1f} samples/s",
        f"{ours_took:.2f} s, {arguments.batch / ours_took:.1f} samples/s",
        f"{theirs_took / ours_took:.2f}x faster",
    )
    write_section("training_step", "A whole training step, float32", machine(1, arguments.rounds), [row])


if __name__ == "__main__":
    main()
