"""Pictures made of words by one model, named by another that began from another seed.

Both are small and trained on rendered scenes first. The maker makes a picture of each of the 64 combinations of colour and
shape in three ways: by waves that rise in similarity; by waves that rise in their margin over all other names, from the grey of
the scenes; and so by the codes of a generator, an autoencoder of scenes of one object that saw no word. The judge names each
among all 64.

    python benchmarks/imagine.py
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from report import Row, machine, write_section
from rich.progress import track
from scene_models import CONV, SIDE, Autoencoder, Kept, autoencoder, trained
from torch import Tensor

from lightning_clip.applications.generation import Canvas, Critic, Fourier, Generated, imagine
from lightning_clip.data import SyntheticObjects, SyntheticScenes
from lightning_clip.data.sources import Subset
from lightning_clip.data.synthetic import combination_names
from lightning_clip.model.predictor import Predictor

TEMPLATES = ["a {}", "a small {}", "a large {}", "a photo of a {}"]
NAMES = combination_names()
SHIFT = 0.1
MARGIN = round(SHIFT * SIDE)


def named_right(judge: Predictor, pictures: Tensor, names: list[str]) -> tuple[float, float, float]:
    """Shares of pictures (N, 3, S, S) whose combination, colour and shape a model names among all 64."""
    found = [NAMES[place].split() for place in judge.scores(pictures, NAMES, TEMPLATES).argmax(dim=1).tolist()]
    pairs = [(one, other.split()) for one, other in zip(found, names, strict=True)]
    whole, colour, shape = ([agree(*pair) for pair in pairs] for agree in (list.__eq__, _first, _second))
    return sum(whole) / len(pairs), sum(colour) / len(pairs), sum(shape) / len(pairs)


def _first(one: list[str], other: list[str]) -> bool:
    return one[0] == other[0]


def _second(one: list[str], other: list[str]) -> bool:
    return one[1] == other[1]


def ascended(maker: Predictor, against: list[str], start: float, steps: int, views: int, noise: float) -> Tensor:
    """A picture of each combination (64, 3, S, S) by waves."""
    pictures = []
    for name in track(NAMES):
        canvas = Fourier(SIDE + 2 * MARGIN, decay=1.5, start=start)
        options = {"steps": steps, "views": views, "shift": SHIFT, "noise": noise}
        pictures.append(imagine(maker, f"a {name}", against=against, canvas=canvas, **options).image)  # type: ignore[arg-type]
    return torch.stack(pictures)


def generated(maker: Predictor, against: list[str], generator: Autoencoder, steps: int, starts: int) -> Tensor:
    """A picture of each combination (64, 3, S, S): the best of some codes that are drawn, and from there uphill."""
    codes = torch.randn(starts, generator.codes, generator=torch.Generator().manual_seed(0))

    def drawn(code: Tensor) -> Tensor:
        return generator.draw(code / code.norm(dim=1, keepdim=True) * generator.codes**0.5)  # about as far out as codes are

    with torch.no_grad():
        first = drawn(codes)
    pictures = []
    for name in track(NAMES):
        prompt = f"a {name}"
        with torch.no_grad():
            best = int(Critic(maker, prompt, against)(first).argmax())
        canvas: Canvas = Generated(drawn, codes[best : best + 1])
        options = {"steps": steps, "views": 2, "shift": 0.0, "noise": 0.03}
        pictures.append(imagine(maker, prompt, against=against, canvas=canvas, **options).image)  # type: ignore[arg-type]
    return torch.stack(pictures)


def main() -> None:
    """Trains, makes, names and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8_000, help="that all models learn from")
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--generator-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=40, help="of an ascent")
    parser.add_argument("--kept", type=Path, help="a folder: models are kept there, and taken from there")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="draw all pictures, as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge, maker, generator = _models(options)
    against = [f"a {name}" for name in NAMES]
    test = Kept(SyntheticScenes("test", size=600, image_size=SIDE))
    shown, labels = torch.stack([pair.image for pair in test.pairs]), [NAMES[pair.label] for pair in test.pairs]  # type: ignore[index, misc]
    rows = [_row("rendered scenes themselves", named_right(judge, shown, labels))]
    start, steps = float(shown.float().mean() / 255), options.steps
    ways = {
        "waves, similarity": lambda: ascended(maker, [], 0.5, steps, 4, 0.05),
        "waves, margin": lambda: ascended(maker, against, start, steps, 4, 0.05),
        "generator, margin": lambda: generated(maker, against, generator, steps, 300),
    }
    for way, make in ways.items():
        begun = time.process_time()
        pictures = make()
        seconds = (time.process_time() - begun) / len(NAMES)
        rows.append(_row(f"{way} ({seconds:.1f} s of CPU time a picture)", named_right(judge, pictures, NAMES)))
        rows.append(_row(f"{way}, named by the maker itself", named_right(maker, pictures, NAMES)))
        print(*rows[-2:], flush=True)
        if options.sheets:
            _sheet(pictures, options.sheets / f"{way.replace(', ', '_')}.png")
    rows.append(Row("guessing", "1.6 %", "12.5 %", "12.5 %"))
    title = "Pictures made of words, 64 combinations, named by another model"
    write_section("imagine", title, machine(1, 1), rows, heads=("combination", "colour"), last="shape")


def _row(what: str, shares: tuple[float, float, float]) -> Row:
    return Row(what, *(f"{100 * share:.1f} %" for share in shares))


def _models(options: argparse.Namespace) -> tuple[Predictor, Predictor, Autoencoder]:
    """The judge, the maker, and the generator."""
    scenes, found = SyntheticScenes(size=options.scenes, image_size=SIDE), []
    for seed in (1, 2):
        file = options.kept / f"{seed}.pt" if options.kept else None
        known = file is not None and file.exists()
        data = Kept(Subset(scenes, [0])) if known else Kept(scenes)
        steps, batch = (0, 1) if known else (options.train_steps, 128)
        module = trained(CONV, data, steps, batch, seed)
        if known:
            module.load_state_dict(torch.load(file, weights_only=True))
        elif file is not None:
            torch.save(module.state_dict(), file)
        found.append(module.predictor)
    single = Kept(SyntheticObjects(size=options.scenes // 2, objects=1, image_size=SIDE))
    pictures = torch.stack([pair.image for pair in single.pairs])  # type: ignore[misc]
    return found[0], found[1], autoencoder(pictures, options.generator_steps, seed=0)


def _sheet(pictures: Tensor, path: Path) -> None:
    from lightning_clip.reporting.plots import save_figure
    from lightning_clip.reporting.sheets import contact_sheet

    save_figure(contact_sheet([picture.numpy() for picture in pictures], NAMES), path)


if __name__ == "__main__":
    main()
