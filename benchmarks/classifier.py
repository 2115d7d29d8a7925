"""A zero-shot classifier of 1,000 classes and 80 templates beside open_clip.build_zero_shot_classifier, the same weights.

Both have CLIP's text Transformer of width 128 with 3 layers (--width, --layers), random weights, and ImageNet's class names
and templates as open_clip ships them. One process, one thread, taking turns. Prints the largest difference, and the peak
memory of 10,000 classes (--many), ours in windows and with all prompts at once, with one text layer of width 64: what prompts
take does not depend on it.

    python benchmarks/classifier.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import open_clip
import torch
from memory import peak_bytes
from open_clip.model import CLIP
from report import Row, machine, write_section
from torch import Tensor

from lightning_clip.data import ClipTokenizer
from lightning_clip.encoders import ClipTextTransformer
from lightning_clip.model.inputs import encode_texts
from lightning_clip.prompts import zero_shot_classifier

NAMES = {"ln_1": "norm1", "ln_2": "norm2", "attn.in_proj_": "attn.qkv.", "attn.out_proj": "attn.proj"}
NAMES |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "transformer.resblocks.": "transformer."}
NAMES |= {"ln_final": "final_norm"}


def peer_model(width: int, layers: int) -> CLIP:
    """open_clip's model; its image tower is the least there can be."""
    vision = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": layers}
    return CLIP(embed_dim=width, vision_cfg=vision, text_cfg=text).eval()


def own_tower(peer: CLIP, width: int, layers: int) -> tuple[ClipTextTransformer, Tensor]:
    """Our tower with its weights, and the projection."""
    tower = ClipTextTransformer(width=width, layers=layers, heads=width // 64).eval()
    weights = {}
    for key, value in peer.state_dict().items():
        if key.startswith(("transformer.", "token_embedding", "positional_embedding", "ln_final")):
            for theirs, ours in NAMES.items():
                key = key.replace(theirs, ours)
            weights[key] = value
    tower.load_state_dict(weights)
    return tower, peer.text_projection.detach()


def encoder(tower: ClipTextTransformer, projection: Tensor) -> Callable[[list[str]], Tensor]:
    """Texts -> features, as `ClipModule.encode_text` does it, with a tokenizer that has met no word yet."""
    tokenizer = ClipTokenizer()

    def encode(texts: list[str]) -> Tensor:
        with torch.inference_mode():
            return encode_texts(texts, tokenizer, 256, lambda tokens, mask: tower(tokens, mask) @ projection)

    return encode


def peaks(classes: int, templates: list[str]) -> tuple[int, int]:
    """Bytes at the peak over the model and the class names: windows, and all prompts at once."""
    peer = peer_model(64, 1)
    tower, projection = own_tower(peer, 64, 1)
    own = open_clip.IMAGENET_CLASSNAMES
    names = [f"{own[place % len(own)]} {place // len(own)}" for place in range(classes)]
    zero_shot_classifier(encoder(tower, projection), names[:200], templates)  # libraries and buffers

    def peak(**window: int) -> int:
        encode = encoder(tower, projection)
        return peak_bytes(lambda: zero_shot_classifier(encode, names, templates, 1 << 30, **window))

    return peak(), peak(window=1 << 30)


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10_000, help="classes whose peak memory is measured; 0 omits it")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = peer_model(arguments.width, arguments.layers)
    tower, projection = own_tower(peer, arguments.width, arguments.layers)
    names = open_clip.IMAGENET_CLASSNAMES[: arguments.classes]
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]

    def theirs() -> Tensor:
        tokenizer = open_clip.SimpleTokenizer(context_length=77)  # each new: words met before are met in this run
        return open_clip.build_zero_shot_classifier(peer, tokenizer, names, templates)

    def ours() -> Tensor:
        return zero_shot_classifier(encoder(tower, projection), names, templates, batch_size=1 << 30)

    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    difference = 0.0
    for number in range(arguments.rounds):
        found = {}
        for side, build in (("theirs", theirs), ("ours", ours)):
            start = time.process_time()
            found[side] = build()
            times[side].append(time.process_time() - start)
        difference = max(difference, float((found["ours"] - found["theirs"]).abs().max()))
        print(f"round {number + 1}: {times['theirs'][-1]:.1f} s and {times['ours'][-1]:.1f} s, difference {difference:.1e}")
    slow, fast = (statistics.median(times[side]) for side in ("theirs", "ours"))
    what = f"seconds of CPU time; largest difference {difference:.1e}"
    title = f"Zero-shot classifier: {len(names):,} classes, {len(templates)} templates"
    tower_words = f"text tower of width {arguments.width}, {arguments.layers} layers"
    rows = [Row(f"{what}; {tower_words}", f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.1f}x")]
    if arguments.many:
        windows, at_once = peaks(arguments.many, templates)
        what = f"{arguments.many:,} classes: peak memory over model and names in MiB; in the first column all prompts at once"
        rows.append(Row(what, f"{at_once >> 20:,}", f"{windows >> 20:,}", f"{at_once / windows:.0f}x"))
    write_section("classifier", title, machine(1, arguments.rounds), rows)


if __name__ == "__main__":
    main()
