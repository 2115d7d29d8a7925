"""Graphs without Python: one per tower, for any batch size, as ONNX or as torch.export.

`image` takes uint8 pixels (B, 3, S, S), normalisation is inside; `text` takes token ids int64 (B, L) and a mask int64 (B, L), 1
on text. Both give unit features (B, D) in float32. In ONNX the outputs are `image_features` and `text_features` and the axes
`batch` and `length`.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.export.formats import Format, formats, reason_not
from lightning_clip.export.interface import Exportable
from lightning_clip.model.recipe import plain_settings
from lightning_clip.model.space import SharedSpace
from lightning_clip.weights.towers import TwoTowers

__all__ = ["OnnxFormat", "TorchExportFormat", "exported_towers"]

_SETTINGS = "inference.json"
# Names of axes whose size is free, by input.
_AXES = {"pixels": ("batch",), "tokens": ("batch", "length"), "mask": ("batch", "length")}
_EXAMPLES = ["a dog", "a photo of two cats on the beach", "rain"]


class _Image(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, towers: TwoTowers, space: SharedSpace) -> None:
        super().__init__()
        self.encoder, self.projection = towers.image, towers.image_head
        self.register_buffer("mean", space.mean)
        self.register_buffer("std", space.std)

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std  # (B, 3, S, S) uint8 -> float
        return normalize(self.projection(self.encoder(normalised)), dim=-1)  # -> (B, W) -> (B, D)


class _Text(nn.Module):
    def __init__(self, towers: TwoTowers) -> None:
        super().__init__()
        self.encoder, self.projection = towers.text, towers.text_head

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return normalize(self.projection(self.encoder(tokens, mask > 0)), dim=-1)  # (B, L) -> (B, W) -> (B, D)


def exported_towers(module: Exportable) -> tuple[ExportedProgram, ExportedProgram]:
    """Both towers as graphs: any number of images or texts, texts of any length up to the context.

    Raises:
        InputError: a tower that torch.export cannot trace, or towers of other columns than image and text.
    """
    towers = TwoTowers.of(module.model)
    size = module.image_size
    pixels = torch.zeros(3, module.model.mean.shape[1], size, size, dtype=torch.uint8)
    tokens, mask = module.tokenizer(_EXAMPLES)
    batch, length = Dim("batch"), Dim("length", min=2, max=module.tokenizer.context_length)
    texts: Any = {0: batch, 1: length}
    try:
        with torch.no_grad(), _quiet():
            image = torch.export.export(_Image(towers, module.model).eval(), (pixels,), dynamic_shapes={"pixels": {0: batch}})
            shapes = {"tokens": texts, "mask": texts}
            text = torch.export.export(_Text(towers).eval(), (tokens, mask.long()), dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many kinds
        reason = " ".join(str(error).split())[:240]
        raise InputError(f"torch.export cannot trace this model ({type(error).__name__}: {reason})") from error
    return image, text


class _Graphs(Format):
    """What both formats share."""

    tolerance = 1e-4

    def reason(self, module: Exportable) -> str | None:
        """Why there are no two graphs, or None: whether they can be traced, only a trial can tell."""
        return reason_not(lambda: TwoTowers.of(module.model))

    def write(self, module: Exportable, folder: Path) -> None:
        """Writes both graphs and the settings of preprocessing."""
        settings = module.to_mapping()
        kept = {"tokenizer": settings["tokenizer"], "embed_dim": settings["embed_dim"]}
        kept["transform"] = plain_settings(module.transform_settings)
        content = {**kept, "image_size": module.image_size, "scale": float(module.model.scale())}
        (folder / _SETTINGS).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        if (tokenizer := kept["tokenizer"]).get("content"):
            (folder / "tokenizer.json").write_text(tokenizer["content"], encoding="utf-8")
        image, text = exported_towers(module)
        self._write(image, folder, "image")
        self._write(text, folder, "text")

    def features(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Unit features (B, D) and (N, D) of uint8 pixels (B, 3, S, S) and N texts, by the graphs; the module tokenizes."""
        tokens, mask = module.tokenizer(list(texts))
        images = torch.cat([self._run(folder, "image", {"pixels": part}) for part in torch.split(pixels, 2)])
        inputs = {"tokens": tokens, "mask": mask.long()}
        return {"image": images, "text": self._run(folder, "text", inputs)}

    def _write(self, program: ExportedProgram, folder: Path, name: str) -> None:
        raise NotImplementedError

    def _run(self, folder: Path, name: str, inputs: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


@formats.register("onnx")
class OnnxFormat(_Graphs):
    """image.onnx, text.onnx and inference.json (tokenizer and preprocessing)."""

    title = "ONNX"
    usage = """import onnxruntime

image = onnxruntime.InferenceSession("{folder}/image.onnx")
features = image.run(["image_features"], {{"pixels": pixels}})[0]  # uint8 (B, 3, S, S), resized as inference.json says
text = onnxruntime.InferenceSession("{folder}/text.onnx")
features = text.run(["text_features"], {{"tokens": tokens, "mask": mask}})[0]  # int64 (B, L), mask 1 on text
"""

    def _write(self, program: ExportedProgram, folder: Path, name: str) -> None:
        for package in ("onnx", "onnxscript"):
            _needed(package)
        with _quiet():
            try:
                graph: Any = torch.onnx.export(program, dynamo=True, verbose=False, output_names=[f"{name}_features"])
                _name_axes(graph.model.graph)
            except Exception as error:  # torch.onnx raises many kinds, with advice to those who develop it
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0].partition('. ')[0][:160]}"
                raise InputError(f"torch.onnx cannot convert the {name} tower ({reason}): choose another format") from error
            graph.save(folder / f"{name}.onnx")

    def _run(self, folder: Path, name: str, inputs: dict[str, Tensor]) -> Tensor:
        session = _needed("onnxruntime").InferenceSession(str(folder / f"{name}.onnx"))
        return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])


@formats.register("torch-export")
class TorchExportFormat(_Graphs):
    """image.pt2, text.pt2 and inference.json (tokenizer and preprocessing)."""

    title = "torch.export"
    tolerance = 1e-5
    usage = """import torch

image = torch.export.load("{folder}/image.pt2").module()
features = image(pixels)  # uint8 (B, 3, S, S), resized as inference.json says
text = torch.export.load("{folder}/text.pt2").module()
features = text(tokens, mask)  # int64 (B, L), mask 1 on text
"""

    def _write(self, program: ExportedProgram, folder: Path, name: str) -> None:
        packed = io.BytesIO()  # torch's own writer of files ends the process where the disk is full
        torch.export.save(program, packed)
        (folder / f"{name}.pt2").write_bytes(packed.getbuffer())

    def _run(self, folder: Path, name: str, inputs: dict[str, Tensor]) -> Tensor:
        program = torch.export.load(folder / f"{name}.pt2").module()
        with torch.no_grad():
            features: Tensor = program(*inputs.values())
        return features


def _name_axes(graph: Any) -> None:
    """Gives the axes of any size their names, wherever the exporter has put signs of its own for them."""
    import onnxscript.ir as ir  # here: an extra

    signs = {
        str(size.value): word
        for value in graph.inputs
        for size, word in zip(value.shape, _AXES[value.name], strict=False)
        if not isinstance(size, int)
    }
    values = [*graph.inputs, *graph.outputs, *(output for node in graph for output in node.outputs)]
    for value in {id(value): value for value in values if value.shape is not None}.values():
        for place, size in enumerate(value.shape):
            if not isinstance(size, int) and size.value is not None:
                said = re.sub(r"\w+", lambda sign: signs.get(sign[0], sign[0]), str(size.value))
                value.shape[place] = ir.SymbolicDim(said)


def _needed(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"format 'onnx' needs {package}: pip install \"lightning-clip[onnx]\"") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
