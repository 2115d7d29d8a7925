"""CLIP's tokenizer beside open_clip's SimpleTokenizer on Flickr8k's captions, interleaved, one thread; ids are compared.

The English captions in order of the file, twice: fresh tokenizers (nothing remembered) and as they stay in a worker.
Needs `LIGHTNING_CLIP_DATA`.

    python benchmarks/tokenizer.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from captions import flickr8k_captions
from open_clip.tokenizer import SimpleTokenizer
from report import Row, machine, write_section

from lightning_clip.data import ClipTokenizer


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    captions = flickr8k_captions()
    if captions is None:
        sys.exit("benchmarks/tokenizer.py: LIGHTNING_CLIP_DATA does not name a folder with flickr8k")
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        ours, reference = ClipTokenizer(), SimpleTokenizer()
        for state in ("fresh", "warm"):
            begun = time.process_time()
            expected = [[reference.sot_token_id, *reference.encode(text), reference.eot_token_id] for text in captions]
            times.setdefault((state, "peer"), []).append(time.process_time() - begun)
            begun = time.process_time()
            found = ours.encode(captions)
            times.setdefault((state, "ours"), []).append(time.process_time() - begun)
            if found != expected:
                sys.exit("benchmarks/tokenizer.py: the ids differ")
    rows = []
    for state in ("fresh", "warm"):
        peer, mine = (statistics.median(times[state, side]) for side in ("peer", "ours"))
        what = f"captions/s, {'words met before' if state == 'warm' else 'fresh tokenizer'}"
        rows.append(Row(what, f"{len(captions) / peer:,.0f}", f"{len(captions) / mine:,.0f}", f"{peer / mine:.1f}x"))
    write_section("tokenizer", f"Tokenizer: {len(captions):,} captions of Flickr8k", machine(1, arguments.rounds), rows)


if __name__ == "__main__":
    main()
