"""The linear probe on 10,000 x 512 features of 10 classes beside scikit-learn's logistic regression, and its whole search.

Synthetic features of classes that overlap, 10,000 to fit and 10,000 to test. The same L2 strength on both sides (scikit-learn's
C is its inverse) and gradient at the end (1e-7); then the paper's search of the strength. Two threads.

    python benchmarks/probe.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from report import Row, machine, write_section
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lightning_clip.evaluation.probe import fit_probe, search_strength, stratified_split


def data(count: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian classes with directions of different sizes, as features before a projection have."""
    shape = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, dim, generator=shape)
    sizes = torch.logspace(0.5, -0.5, dim)
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (count,), generator=generator)
    return (0.12 * centres[label] + torch.randn(count, dim, generator=generator)) * sizes, label


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0, 100.0])
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    (inputs, label), (test, truth) = data(10_000, 512, 10, 1), data(10_000, 512, 10, 2)
    rows = []
    for strength in arguments.strengths:
        times: dict[str, list[float]] = {"theirs": [], "ours": []}
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            reference = LogisticRegression(C=1 / strength, max_iter=10_000, tol=1e-7).fit(
                inputs.double().numpy(), label.numpy()
            )
            times["theirs"].append(time.perf_counter() - start)
            start = time.perf_counter()
            probe = fit_probe(inputs, label, 10, strength)
            times["ours"].append(time.perf_counter() - start)
        accuracies = (
            reference.score(test.double().numpy(), truth.numpy()),
            float((probe.predict(test) == truth).double().mean()),
        )
        slow, fast = (statistics.median(times[side]) for side in ("theirs", "ours"))
        rows.append(Row(f"seconds, strength {strength:g}", f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.1f}x"))
        rows.append(Row(f"test accuracy in %, strength {strength:g}", *(f"{100 * value:.2f}" for value in accuracies), ""))
        print(rows[-2], rows[-1])
    start = time.perf_counter()
    train, held = stratified_split(label, 0.2)
    found = search_strength(
        lambda strength, begin: fit_probe(inputs[train], label[train], 10, strength, start=begin, tolerance=1e-5),
        lambda probe: float((probe.predict(inputs[held]) == label[held]).double().mean()),
    )
    fit_probe(inputs, label, 10, found.strength, start=found.probe)
    spent = time.perf_counter() - start
    rows.append(Row(f"whole search and refit, seconds ({len(found.tried)} strengths)", "", f"{spent:.1f}", ""))
    heads = ("scikit-learn", "lightning_clip")
    write_section("probe", "Linear probe: 10,000 x 512 features, 10 classes", machine(2, arguments.rounds), rows, heads)


if __name__ == "__main__":
    main()
