"""Parameters and FLOPs of open_clip's architectures and transformers' families: writes what `lightning-clip models` reads.

`python benchmarks/architectures.py` takes some minutes on one core, no network and no memory for weights.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, fields
from pathlib import Path

import open_clip

from lightning_clip.planning.architectures import measure_architecture, measure_family
from lightning_clip.weights.catalogue import Architecture

FILE = Path(__file__).resolve().parent.parent / "lightning_clip" / "weights" / "published" / "architectures.csv"


FAMILIES = ["aimv2", "align", "altclip", "chinese_clip", "clip", "clipseg", "metaclip_2", "owlv2", "owlvit", "siglip"]
FAMILIES += ["siglip2", "tipsv2"]


def main() -> None:
    """Measures all and writes the file when all are there."""
    names = sorted(open_clip.list_models(), key=str.lower)
    rows = []
    measures = [(measure_architecture, name) for name in names] + [(measure_family, name) for name in FAMILIES]
    for number, (measure, name) in enumerate(measures, 1):
        rows.append(asdict(measure(name)))
        print(f"{number}/{len(measures)} {name}: {rows[-1]['parameters'] / 1e6:,.1f} M parameters", flush=True)
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [entry.name for entry in fields(Architecture)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
