"""Rendered satellite tiles of four bands, blue, green, red and near infrared, as 16-bit TIFF with a table of captions.

Healthy and dry plants look alike in red, green and blue, and differ in the near infrared, as real ones do for the most part.
Tiles of one scene share their light and their ground, so that a split by tile would leak: the table names the scene.

    python benchmarks/land_tiles.py land
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

# Reflectance times 10,000 in blue, green, red and near infrared, and how rough the ground is.
COVERS: dict[str, tuple[tuple[int, int, int, int], float]] = {
    "water": ((700, 600, 400, 150), 0.03),
    "healthy forest": ((300, 550, 350, 3800), 0.25),
    "dry forest": ((320, 560, 380, 1700), 0.25),
    "healthy field": ((500, 900, 600, 4300), 0.06),
    "dry field": ((520, 910, 640, 2000), 0.06),
    "town": ((1500, 1600, 1700, 2100), 0.45),
    "bare ground": ((1300, 1900, 2500, 3000), 0.12),
}
TEMPLATES = ("{} seen from above", "a satellite picture of {}", "{} and a {}", "land with {} beside {}")


def ground(cover: str, side: int, light: float, rng: np.random.Generator) -> np.ndarray:
    """Reflectance (4, side, side) of one cover: its spectrum, one roughness for all bands, and noise of the sensor."""
    spectrum, roughness = COVERS[cover]
    coarse = rng.normal(size=(side // 4, side // 4)).repeat(4, 0).repeat(4, 1)
    shade = 1 + roughness * (0.6 * coarse + 0.4 * rng.normal(size=(side, side)))  # (side, side)
    values = light * np.array(spectrum, float)[:, None, None] * shade.clip(0.2) + rng.normal(0, 40, (4, side, side))
    if cover.endswith("field"):
        values[:, :: side // 8] *= 0.75  # tracks
    if cover == "town":
        values[:, :: side // 4, :] *= 0.4  # roads
        values[:, :, :: side // 4] *= 0.4
    return values


def tile(covers: tuple[str, str], side: int, light: float, rng: np.random.Generator) -> np.ndarray:
    """A tile, uint16 (side, side, 4): the first cover on most of it, the second in a corner."""
    values = ground(covers[0], side, light, rng)
    if covers[1] != covers[0]:
        edge = side // 2 + int(rng.integers(-side // 8, side // 8 + 1))
        values[:, :edge, :edge] = ground(covers[1], side, light, rng)[:, :edge, :edge]
    return np.moveaxis(values.clip(0, 10000), 0, -1).astype(np.uint16)


def caption(covers: tuple[str, str], rng: np.random.Generator) -> str:
    """One sentence about a tile."""
    return TEMPLATES[int(rng.integers(2)) + 2 * (covers[0] != covers[1])].format(*covers)


def main() -> None:
    """Writes the tiles and `tiles.csv`."""
    import tifffile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--tiles", type=int, default=8, help="of each scene")
    parser.add_argument("--side", type=int, default=48)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    rng, names = np.random.default_rng(0), list(COVERS)
    with (given.output / "tiles.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "cover", "scene"])
        for scene in range(given.scenes):
            light, main_cover = rng.uniform(0.7, 1.3), names[scene % len(names)]
            for number in range(given.tiles):
                other = main_cover if number % 2 else names[int(rng.integers(len(names)))]
                name = f"scene{scene:03d}_{number}.tif"
                values = tile((main_cover, other), given.side, light, rng)
                tifffile.imwrite(given.output / name, values, planarconfig="contig", photometric="minisblack")
                rows.writerow([name, caption((main_cover, other), rng), main_cover, f"scene {scene}"])
    print(f"{given.scenes * given.tiles} tiles of 4 bands, {given.side} px: {given.output / 'tiles.csv'}")


if __name__ == "__main__":
    main()
