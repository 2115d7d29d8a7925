"""Small models of rendered scenes that benchmarks train first: models of pairs, and a generator of pictures from codes."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_clip import ClipDataModule, ClipModule, Pair
from lightning_clip.data import PairSource

SIDE = 48
TOKENIZER = "recipes/efficiency/scenes/tokenizer.json"
WHOLE = {"transform": {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0]}}
CONV = {"name": "small_conv", "image_size": SIDE, "stride": 2, "stem_width": 24, "widths": [48, 96, 128]}


class Kept(PairSource):
    """Scenes that were drawn once, in memory: drawing them again in each epoch would take as long as learning from them."""

    def __init__(self, source: PairSource) -> None:
        self.pairs, self.class_names = [source[place] for place in range(len(source))], source.class_names

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


class Progress(pl.Callback):
    """A line every so many steps."""

    def __init__(self, every: int = 100) -> None:
        self.every = every

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, place: int) -> None:
        """Prints step and loss."""
        if trainer.global_step % self.every == 0:
            print(f"step {trainer.global_step}: loss {float(outputs['loss']):.2f}", flush=True)


def trained(image: dict[str, Any], scenes: PairSource, steps: int, batch: int, seed: int) -> ClipModule:
    """A model of pairs from its first weights, which the seed makes."""
    pl.seed_everything(seed, verbose=False)
    module = ClipModule(
        image,
        {"name": "clip_text", "width": 96, "layers": 2, "heads": 2},
        embed_dim=96,
        tokenizer=TOKENIZER,
        towers={"image": WHOLE},
        training={"optimizer": {"name": "muon", "lr": 3e-3, "weight_decay": 0.1, "warmup_steps": 30}},
    )
    data = ClipDataModule(train=scenes, local_batch_size=batch, seed=seed)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_steps=steps, callbacks=[Progress()], **quiet)  # type: ignore[arg-type]
    trainer.fit(module, data)
    return module.eval()


class Autoencoder(nn.Module):
    """Codes of small pictures: perceptrons on both sides of few numbers, along the directions in which pictures differ most.

    Args:
        pictures: uint8 (N, 3, S, S), whose principal directions are taken.
        codes: numbers that a picture becomes; they have mean 0 and deviation 1.
        directions: of the pictures, at most.
    """

    def __init__(self, pictures: Tensor, codes: int = 24, directions: int = 256, width: int = 512) -> None:
        super().__init__()
        self.codes, self.shape = codes, pictures.shape[1:]
        flat = pictures.flatten(1).float() / 255  # (N, 3 S S)
        self.register_buffer("mean", flat.mean(dim=0))
        _, _, found = torch.svd_lowrank(flat - self.mean, directions, niter=2)
        self.register_buffer("directions", found)  # (3 S S, K)
        self.register_buffer("scale", ((flat - self.mean) @ found).std(dim=0).mean())
        inside = [nn.Linear(width, width), nn.GELU()]
        self.to_code = nn.Sequential(
            nn.Linear(directions, width), nn.GELU(), *inside, nn.Linear(width, codes), nn.BatchNorm1d(codes, affine=False)
        )
        self.from_code = nn.Sequential(
            nn.Linear(codes, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.last = nn.Linear(width, directions)

    def places(self, pictures: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> along the directions (B, K)."""
        return (pictures.flatten(1).float() / 255 - self.mean) @ self.directions / self.scale  # type: ignore[operator]

    def draw(self, code: Tensor) -> Tensor:
        """Codes (B, Z) -> pictures (B, 3, S, S) in [0, 1]."""
        flat = self.last(self.from_code(code)) * self.scale @ self.directions.T + self.mean  # type: ignore[operator]
        return flat.clamp(0, 1).view(-1, *self.shape)


def autoencoder(pictures: Tensor, steps: int, seed: int, batch: int = 256) -> Autoencoder:
    """Trained on pictures uint8 (N, 3, S, S) alone: it sees no word."""
    torch.manual_seed(seed)
    model = Autoencoder(pictures)
    learnt = [*model.to_code.parameters(), *model.from_code.parameters(), *model.last.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    places = model.places(pictures)  # (N, K)
    for step in range(1, steps + 1):
        seen = places[torch.randint(len(places), (batch,))]
        code = model.to_code(seen)
        drawn = model.last(model.from_code(code + 0.1 * torch.randn_like(code)))  # codes near each other draw alike
        error = (drawn - seen).square().sum(dim=1).mean() * model.scale**2  # type: ignore[operator]
        optimizer.zero_grad()
        (error / 20).backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"generator, step {step}: squared error of a picture {error.item():.1f}", flush=True)
    return model.eval().requires_grad_(False)
