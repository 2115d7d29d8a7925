"""Loss on rendered scenes under several optimizers: the demo's model, the same pairs in the same order, one seed each.

python benchmarks/optimizers.py
python benchmarks/optimizers.py --steps 100 --seeds 0 1 2 --optimizers adamw muon lion
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import lightning.pytorch as pl

from lightning_clip.commands.recipe import read_recipe

RECIPE = str(Path(__file__).resolve().parent.parent / "recipes" / "demo.yaml")
RATES = {"adamw": 2e-3, "muon": 4e-3, "lion": 3e-4}  # each optimizer's best of a few, by its loss at the last step
AT = (25, 50, 75, 100)


class Losses(pl.Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[str, float], *_: object
    ) -> None:
        self.seen.append(float(outputs["loss"]))


def losses_of(name: str, lr: float, seed: int, steps: int, batch: int) -> list[float]:
    """One run.

    Args:
        name: of the optimizer.
        lr: its peak.
        seed: of weights and order.
        steps: optimizer steps.
        batch: pairs a step.
    """
    pl.seed_everything(seed, verbose=False)
    settings = f"{{name: {name}, lr: {lr}, weight_decay: 0.1, warmup_steps: 10, schedule: constant}}"
    options = [f"--model.training.optimizer={settings}", f"--data.local_batch_size={batch}", f"--data.seed={seed}"]
    read = read_recipe([RECIPE], options)
    losses = Losses()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_steps=steps, accelerator="cpu", callbacks=[losses], limit_val_batches=0, **quiet)  # type: ignore[arg-type]
    trainer.fit(read.module, read.data)
    return losses.seen


def main() -> None:
    """Prints the mean loss of ten steps before each of several steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon"], choices=list(RATES))
    parser.add_argument("--rates", type=float, nargs="+", help="instead of each optimizer's own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    places = [step for step in AT if step <= args.steps]
    print(f"{'optimizer':<12}{'lr':>8}" + "".join(f"{f'step {step}':>12}" for step in places), flush=True)
    for name in args.optimizers:
        for lr in args.rates or [RATES[name]]:
            runs = [losses_of(name, lr, seed, args.steps, args.batch) for seed in args.seeds]
            means = [statistics.mean(statistics.mean(run[step - 10 : step]) for run in runs) for step in places]
            print(f"{name:<12}{lr:>8g}" + "".join(f"{mean:>12.3f}" for mean in means), flush=True)


if __name__ == "__main__":
    main()
