"""A user's one file that registers one of each kind; tests copy it to a folder and name it by `--import`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_clip import ClipModule
from lightning_clip.core.types import Pair
from lightning_clip.curation import Filter, Looked, pair_filters
from lightning_clip.data import PairSource, pair_sources
from lightning_clip.encoders import ImageEncoder, image_encoders
from lightning_clip.evaluation.protocols import Protocol, Result, Subject, protocols
from lightning_clip.export.formats import Format, formats
from lightning_clip.export.interface import Exportable
from lightning_clip.losses import ContrastiveLoss, losses
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table


@image_encoders.register("mean_colour_of_mine")
class MeanColour(ImageEncoder):
    def __init__(self, width: int = 8) -> None:
        super().__init__(output_dim=width, image_size=32)
        self.width = width
        self.layer = nn.Linear(3, width)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.layer(image.mean(dim=(2, 3)))
        return features


@losses.register("distance_of_mine")
class DistanceLoss(ContrastiveLoss):
    def forward(self, image_features: Tensor, text_features: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return (scale * (image_features - text_features).pow(2)).mean()


@pair_sources.register("greys_of_mine")
class Greys(PairSource):
    class_names = ("dark", "bright")

    def __init__(self, size: int = 24) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        pixels = torch.full((3, 32, 32), 250 * index // self.size, dtype=torch.uint8)
        label = int(2 * index >= self.size)
        return Pair(pixels, (f"a {self.class_names[label]} grey, number {index}",), key=str(index), label=label)


@pair_filters.register("dark_of_mine")
class Dark(Filter):
    reason = "brighter than I like"

    def passes(self, samples: Sequence[Looked]) -> list[bool]:
        return [float(sample.pixels.float().mean()) < 125 for sample in samples]


@protocols.register("spread_of_mine")
class Spread(Protocol):
    title = "Spread"

    def evaluate(self, subject: Subject) -> Result:
        features = subject.features().image_features
        return Result({"spread": float(features.std(dim=0).mean())})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        rows = [(name, f"{result.metrics['spread']:.3f}") for name, result in results.items()]
        return [Section("how far features of mine lie apart", table=Table(("model", "spread"), rows))]


@formats.register("parts_of_mine")
class Parts(Format):
    title, usage = "Parts", "torch.load('{folder}/parts.pt')"

    def reason(self, module: Exportable) -> str | None:
        return None

    def write(self, module: Exportable, folder: Path) -> None:
        torch.save({"arguments": module.to_mapping(), "weights": module.state_dict()}, folder / "parts.pt")

    def features(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        content = torch.load(folder / "parts.pt", weights_only=True)
        again = ClipModule(**content["arguments"])
        again.load_state_dict(content["weights"])
        return {"image": again.encode_image(pixels), "text": again.encode_text(list(texts))}
