"""Our own format: safetensors beside a JSON file of settings, which `from_pretrained` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_clip.core.registry import LIVE
from lightning_clip.export.formats import Format, formats, largest_difference
from lightning_clip.export.interface import Exportable
from lightning_clip.loading import open_for_use
from lightning_clip.weights.own import RECIPE_KEYS, SETTINGS_FILE, WEIGHTS_FILE

__all__ = ["SafetensorsFormat"]


@formats.register("safetensors")
class SafetensorsFormat(Format):
    """lightning_clip.json (towers, tokenizer, preprocessing) and model.safetensors."""

    title = "lightning_clip"
    holds_scorers = True
    tolerance = 0.0
    usage = """from lightning_clip import ClipModule

module = ClipModule.from_pretrained("{folder}")
module.encode_text(["a dog"])
"""

    def holds(self, part: str) -> bool:
        """All of them."""
        return True

    def reason(self, module: Exportable) -> str | None:
        """Names an argument that is an object without a registered name, which JSON cannot hold, or None."""
        live = [key for key, value in _settings(module).items() if LIVE in json.dumps(value)]
        return f"its {live[0]} hold an object of your own without a registered name" if live else None

    def write(self, module: Exportable, folder: Path) -> None:
        """Writes settings and weights."""
        from safetensors.torch import save_file

        content = json.dumps(_settings(module), ensure_ascii=False, indent=1)
        (folder / SETTINGS_FILE).write_text(content, encoding="utf-8")
        weights = {key: value.detach().cpu().clone().contiguous() for key, value in module.model.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def differences(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, float]:
        """Of features where the towers read images or texts, of weights where they read other columns."""
        read, model = open_for_use(folder), module.model
        weights = read.model.state_dict()
        found = {
            key.partition("_encoder.")[0]: largest_difference(weights[key], value)
            for key, value in model.state_dict().items()
            if "_encoder." in key and value.numel()
        }
        if "image" in model.columns:
            found["image"] = largest_difference(read.predictor.encode_image(pixels), module.predictor.encode_image(pixels))
        if "text" in model.columns:
            found["text"] = largest_difference(read.predictor.encode_text(texts), module.predictor.encode_text(texts))
        return found

    def features(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Unit features (B, D) and (N, D) of uint8 pixels (B, 3, S, S) and N texts, by `from_pretrained`, from the folder."""
        read = open_for_use(folder).predictor
        return {"image": read.encode_image(pixels), "text": read.encode_text(list(texts))}


def _settings(module: Exportable) -> dict[str, Any]:
    """What makes the model again; its objective is the one that needs no labels or teachers."""
    settings = {**module.to_mapping(), "objective": module.objective.inherited() or "pairs"}
    return {key: settings[key] for key in RECIPE_KEYS}
