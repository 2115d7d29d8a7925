"""`lightning-clip compare`: recipes trained on the same data in the same order, and how many images each needs."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.core.recipe_paths import recipe_path
from lightning_clip.core.settings import in_range

if TYPE_CHECKING:
    from lightning_clip.reporting.efficiency import Curve

__all__ = ["add_arguments", "run"]

_BASE = "base.yaml"
_ENDS = ("/top1", "/recall@10")  # the metrics that are given of each recipe's end
_FIT = "import sys; from lightning_clip.cli import main; sys.exit(main())"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command; others, such as --data.local_batch_size=64, change all recipes as in `fit`."""
    parser.add_argument(
        "recipes",
        nargs="+",
        metavar="FOLDER|RECIPE.yaml",
        help=f"recipes to compare; a folder stands for those in it, each read after the folder's {_BASE}, if there is one",
    )
    parser.add_argument("--base", metavar="RECIPE.yaml", help=f"read before each of them in the place of the folder's {_BASE}")
    parser.add_argument("--reference", metavar="NAME", help="a recipe from which the differences of the others are given")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each recipe (default: %(default)s)")
    parser.add_argument("--metric", help="such as val/zero_shot/cifar10/top1 (default: the first zero-shot top1)")
    parser.add_argument("--level", type=float, help="accuracy at which images are counted (default: the weaker one's)")
    parser.add_argument("--chance", type=float, help="accuracy of guessing, drawn as a line")
    parser.add_argument("--title", default="", help="of the figure (default: the metric)")
    parser.add_argument("--output", default="runs/compare", help="folder of runs, curves and figure (default: %(default)s)")
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> None:
    """Trains what is not trained yet, then draws the curves and prints the factors."""
    from lightning_clip.commands.quiet import quiet
    from lightning_clip.core.locks import only_writer

    quiet()
    in_range("--seeds", arguments.seeds, 1, whole=True)
    if arguments.level is not None:
        in_range("--level", arguments.level, 0, 1, open_low=True)
    output = Path(arguments.output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    with only_writer(output, "--output"):
        _compare(arguments, output)


def _compare(arguments: argparse.Namespace, output: Path) -> None:
    from lightning_clip.reporting.efficiency import efficiency_figure, levels
    from lightning_clip.reporting.endings import ending_table, endings
    from lightning_clip.reporting.html import Section, Table, write_report
    from lightning_clip.reporting.plots import save_figure

    recipes = _recipes(arguments.recipes, arguments.base)
    if arguments.reference is not None:
        endings({name: [[(0.0, 0.0)]] for name in recipes}, arguments.reference)  # a wrong name before hours of training
    curves: dict[str, list[Curve]] = {}
    last: dict[str, dict[str, list[float]]] = {}
    metric = arguments.metric
    for seed in range(arguments.seeds):  # all recipes with one seed first: what there is can be looked at soon
        for name, files in recipes.items():
            folder = output / name / f"seed-{seed}"
            found = _measured(folder, files, seed, arguments.overrides, arguments.imports)
            metric = metric or next((key for key in found if "/zero_shot/" in key and key.endswith("/top1")), None)
            if metric not in found:
                known = ", ".join(key for key in found if key.startswith("val/")) or "nothing"
                raise InputError(f"{name} logs no {metric or 'zero-shot accuracy'} (of val/: {known}): give --metric")
            curves.setdefault(name, []).append(found[metric])
            for key in found:
                if key.startswith("val/") and key.endswith(_ENDS):
                    last.setdefault(name, {}).setdefault(key, []).append(found[key][-1][1])
            print(
                f"{name}, seed {seed}: {100 * found[metric][-1][1]:.1f} % after {found[metric][-1][0]:,.0f} images", flush=True
            )
    title = arguments.title or str(metric)
    chance = {} if arguments.chance is None else {title: arguments.chance}
    figure = efficiency_figure({title: curves}, chance)
    save_figure(figure, output / "efficiency.png")
    factors = levels(curves, arguments.level)
    content = {"metric": metric, "curves": curves, "last": last, "factors": [vars(one) for one in factors]}
    with beside(output / "efficiency.json") as place:
        place.write_text(json.dumps(content, indent=1), encoding="utf-8")
    table = ending_table(endings(curves, arguments.reference), title)
    with beside(output / "table.md") as place:
        place.write_text(table + "\n", encoding="utf-8")
    print(table, *factors, *_ends(last), sep="\n")
    rows = [(str(factor),) for factor in factors]
    ends = Table(("at the end of its runs",), [(line,) for line in _ends(last)])
    sections = [Section("Curves", figures=[("efficiency", figure)]), Section("Images needed", table=Table(("factor",), rows))]
    write_report(
        output / "report.html", "Comparison", str(metric), [*sections, *([Section("Ends", table=ends)] if ends.rows else [])]
    )
    print(f"figure: {output / 'efficiency.png'}\nreport: {output / 'report.html'}")


def _ends(last: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[str]:
    """A line for each recipe: all accuracies that it logs, at the end of its runs; one of them says nothing new."""
    for name, found in last.items():
        if len(found) > 1:
            values = (f"{key} {100 * sum(of_runs) / len(of_runs):.1f} %" for key, of_runs in found.items())
            yield f"{name} ends with {', '.join(values)}"


def _recipes(given: Sequence[str], base: str | None = None) -> dict[str, list[Path]]:
    """Name -> the files that `fit` reads for it.

    Args:
        given: files and folders.
        base: a recipe that is read before each.

    Raises:
        InputError: no such file, a folder without recipes, or two recipes of one name.
    """
    first = [] if base is None else [recipe_path(base)]
    found: dict[str, list[Path]] = {}
    for text in given:
        path = recipe_path(text, "recipe or folder of recipes", folders=True)
        own = first or ([path / _BASE] if path.is_dir() and (path / _BASE).is_file() else [])
        files = sorted(file for file in path.glob("*.yaml") if file.name != _BASE) if path.is_dir() else [path]
        if not files:
            raise InputError(f"folder {str(path)!r} holds no recipe (*.yaml) beside {_BASE}: name another")
        for file in files:
            if file.stem in found:
                raise InputError(f"two recipes are called {file.stem!r}: rename one of {found[file.stem][-1]} and {file}")
            found[file.stem] = [*own, file]
    return found


def _measured(folder: Path, files: list[Path], seed: int, overrides: Sequence[str], imports: Sequence[str]) -> dict[str, Curve]:
    """All metrics of one run, over images; the run is made unless one of the same recipe is finished there."""
    recipe = [*(file.read_text("utf-8") for file in files), seed, *overrides, *imports]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    done = folder / "curves.json"
    if done.is_file() and (kept := json.loads(done.read_text("utf-8")))["recipe"] == key:
        curves: dict[str, Curve] = kept["curves"]
        return curves
    csv_logger = {"save_dir": str(folder), "name": "", "version": "log"}
    logger = json.dumps({"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": csv_logger})
    options = [f"--seed_everything={seed}", f"--data.seed={seed}", f"--trainer.default_root_dir={folder}"]
    options += [f"--trainer.logger={logger}", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    options += [argument for name in imports for argument in ("--import", name)]
    configs = [argument for file in files for argument in ("--config", str(file))]
    (folder / "log" / "metrics.csv").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w", encoding="utf-8") as lines:
        ended = subprocess.run([sys.executable, "-c", _FIT, "fit", *configs, *options, *overrides], stdout=lines, stderr=lines)
    if ended.returncode:
        said = [line for line in (folder / "output.txt").read_text("utf-8").splitlines() if line.strip()]
        reason = said[-1] if said else "without a word"
        raise InputError(f"{files[-1]} with seed {seed} failed ({reason}): see {folder / 'output.txt'}")
    found = _curves(folder / "log" / "metrics.csv", _global_batch_size(files, overrides))
    with beside(done) as place:
        place.write_text(json.dumps({"recipe": key, "curves": found}), encoding="utf-8")
    return found


def _global_batch_size(files: list[Path], overrides: Sequence[str]) -> int:
    from lightning_clip.commands.recipe import read_recipe

    recipe = read_recipe(list(map(str, files)), list(overrides))
    return recipe.data.local_batch_size * recipe.devices * int(recipe.trainer.get("accumulate_grad_batches") or 1)


def _curves(path: Path, global_batch_size: int) -> dict[str, Curve]:
    """Column of a log -> (images, value) of its rows that have one; the log counts steps from 0."""
    found: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    found.setdefault(name, []).append(((int(row["step"]) + 1) * global_batch_size, float(value)))
    return dict(found)
