"""The picture of the home page, docs/images/overview.svg: `python docs_build/draw_overview.py` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "docs/images/overview.svg"
INK, SOFT, LINE, BLUE = "#1f2937", "#6b7280", "#c7cbd4", "#3f51b5"
PAIRS = [
    ("a red circle", "circle", "#d64545"),
    ("a blue square", "square", "#3b6fd4"),
    ("a green triangle", "triangle", "#2e9e5b"),
]


def text(x: float, y: float, words: str, *, size: int = 15, anchor: str = "start", colour: str = INK, weight: int = 400) -> str:
    """A line of text; y is its baseline."""
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {style}>{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str = "#fff", stroke: str = LINE) -> str:
    """A rounded box."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{stroke}"/>'


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """A line with a head."""
    return f'<path d="M{x} {y} L{to_x} {to_y}" stroke="{SOFT}" stroke-width="1.6" fill="none" marker-end="url(#head)"/>'


def shape(kind: str, x: float, y: float, colour: str, radius: float = 13) -> str:
    """A small picture: a circle, a square or a triangle around (x, y)."""
    if kind == "circle":
        return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>'
    if kind == "square":
        return f'<rect x="{x - radius}" y="{y - radius}" width="{2 * radius}" height="{2 * radius}" fill="{colour}"/>'
    points = f"{x},{y - radius} {x - radius},{y + radius} {x + radius},{y + radius}"
    return f'<polygon points="{points}" fill="{colour}"/>'


def training(parts: list[str]) -> None:
    """Left: pairs through two towers to a matrix of similarities whose diagonal is right."""
    parts.append(text(30, 40, "Training: which text belongs to which picture?", size=17, weight=600))
    for place, (words, kind, colour) in enumerate(PAIRS):
        parts += [box(30 + 58 * place, 66, 46, 46), shape(kind, 53 + 58 * place, 89, colour)]
        parts += [box(30, 216 + 36 * place, 162, 28), text(42, 235 + 36 * place, words)]
    for y, name in ((66, "image tower"), (247, "text tower")):
        parts += [box(236, y, 120, 46, fill="#e8eaf6", stroke=BLUE), text(296, y + 28, name, anchor="middle", weight=600)]
        parts.append(arrow(202, y + 23, 232, y + 23))
    parts += [arrow(360, 89, 430, 130), arrow(360, 270, 430, 232)]
    left, top, side = 470, 122, 42
    for column, (_, kind, colour) in enumerate(PAIRS):
        parts.append(shape(kind, left + side * column + side / 2, top - 18, colour, radius=8))
        parts.append(shape(kind, left - 18, top + side * column + side / 2, colour, radius=8))
        for row in range(3):
            fill, shade = (BLUE, 1.0) if row == column else ("#9fa8da", 0.25)
            parts.append(
                f'<rect x="{left + side * column}" y="{top + side * row}" width="{side - 3}" height="{side - 3}" rx="4" '
                f'fill="{fill}" fill-opacity="{shade}"/>'
            )
    parts.append(text(left + 62, 276, "cosines of a batch:", anchor="middle", colour=SOFT, size=14))
    parts.append(text(left + 62, 295, "the pairs must win", anchor="middle", colour=SOFT, size=14))


def use(parts: list[str]) -> None:
    """Right: words of the user's own as a classifier, with the bars of its answer."""
    parts.append(f'<path d="M640 30 V310" stroke="{LINE}"/>')
    parts.append(text(670, 40, "Use: name it by words of your own", size=17, weight=600))
    parts += [box(670, 66, 90, 90), shape("circle", 715, 111, PAIRS[0][2], radius=26)]
    for place, (name, share) in enumerate((("red circle", 0.91), ("blue star", 0.06), ("green ring", 0.03))):
        y = 84 + 30 * place
        parts.append(text(868, y + 5, name, anchor="end"))
        parts.append(f'<rect x="880" y="{y - 9}" width="{max(110 * share, 3):.0f}" height="18" rx="3" fill="{BLUE}"/>')
    parts.append(text(670, 200, "and with the same features", colour=SOFT, size=14))
    for place, words in enumerate(("search", "boxes", "areas", "videos", "reports", "export")):
        x, y = 670 + 112 * (place % 3), 214 + 44 * (place // 3)
        parts += [box(x, y, 100, 34), text(x + 50, y + 22, words, anchor="middle")]


def overview() -> str:
    """The whole picture as SVG, light on any page."""
    parts: list[str] = []
    training(parts)
    use(parts)
    head = (
        f'<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{SOFT}"/></marker>'
    )
    label = "Pairs of pictures and texts go through two towers; afterwards words of your own name a new picture"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1020 336" role="img" aria-label="{label}" '
        f"font-family=\"'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif\"><defs>{head}</defs>"
        f'<rect width="1020" height="336" rx="12" fill="#f8f9fc"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else FILE).write_text(overview(), encoding="utf-8")
