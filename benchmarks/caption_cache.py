"""Seconds of captions with kept keys and values and without, of random weights; the image tower is not timed.

python benchmarks/caption_cache.py
python benchmarks/caption_cache.py --images 8 --tokens 20 --device cuda
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from lightning_clip.encoders.caption_decoder import CaptionDecoder
from lightning_clip.encoders.text_decoder import TextDecoder
from lightning_clip.encoders.text_transformer import ClipTextTransformer
from lightning_clip.model.caption_logs import next_logs
from lightning_clip.model.caption_search import beam_search
from lightning_clip.model.space import SharedSpace

VOCABULARY, CONTEXT, PATCHES, WIDTH = 49408, 77, 196, 768  # CLIP's tokenizer, a ViT-B/16 at 224 pixels


def decoders() -> dict[str, Any]:
    """CoCa's decoder beside CLIP's text tower of B, and VirTex's of the same size."""
    coca = CaptionDecoder(VOCABULARY, CONTEXT, WIDTH, 512, layers=6, heads=8, queries=256)
    return {"coca": coca, "captioning": TextDecoder(VOCABULARY, CONTEXT, WIDTH, width=512, layers=6, heads=8)}


def seconds(
    space: SharedSpace, decoder: Any, image_tokens: torch.Tensor, beams: int, tokens: int, cache: bool
) -> tuple[float, Any]:
    """Of all captions of a batch, none of which may end early.

    Args:
        space: with the text tower.
        decoder: that writes.
        image_tokens: (N, P, W).
        beams: of the search.
        tokens: of each caption.
        cache: whether keys and values are kept.
    """
    begin = time.perf_counter()
    ask = next_logs(space, decoder, image_tokens, cache)

    def logs(rows: torch.Tensor, ids: torch.Tensor, came_from: torch.Tensor | None) -> torch.Tensor:
        found = ask(rows, ids, came_from)
        found[:, -1] = -torch.inf  # the end
        return found

    found = beam_search(logs, len(image_tokens), VOCABULARY - 2, VOCABULARY - 1, beams=beams, max_tokens=tokens - 1)
    return time.perf_counter() - begin, found


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tower = ClipTextTransformer(512, 12, heads=8, vocab_size=VOCABULARY, context_length=CONTEXT)
    space = SharedSpace({"text": tower}, {"text": torch.nn.Identity()}, embed_dim=512).to(arguments.device).eval()
    image_tokens = torch.randn(arguments.images, PATCHES, WIDTH, device=arguments.device)
    print("| decoder | method | with the cache | without | times | same captions |\n|---|---|---:|---:|---:|---|")
    for name, decoder in decoders().items():
        own = decoder.to(arguments.device).eval()
        for method, beams in (("greedy", 1), ("beam", 4)):
            with torch.no_grad():
                kept, whole = (seconds(space, own, image_tokens, beams, arguments.tokens, cache) for cache in (True, False))
            same = "yes" if kept[1] == whole[1] else "no"
            print(
                f"| `{name}` | `{method}` | {kept[0]:.1f} s | {whole[0]:.1f} s | {whole[0] / kept[0]:.1f} | {same} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
