"""Export: a module is written in a format, read back by the format's library and compared."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.checkpoints.fit import check_finite_weights
from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.core.locks import only_writer
from lightning_clip.export import to_files, to_graphs, to_open_clip, to_timm, to_transformers
from lightning_clip.export.card import Run, model_card
from lightning_clip.export.evaluated import PLOTS
from lightning_clip.export.formats import Format, formats, refusal
from lightning_clip.export.interface import Exportable
from lightning_clip.merging.merged import whole
from lightning_clip.model.evaluating import evaluating
from lightning_clip.weights.own import parts_of

__all__ = ["Exported", "export", "push_to_hub"]

_MODULES = (to_files, to_graphs, to_open_clip, to_timm, to_transformers)  # importing them registers their formats
_OF_COLOURS = ("huggingface", "open_clip")  # formats whose preparation of pictures knows three channels
_TEXTS = [
    "a dog",
    "a photo of two cats on the beach.",
    "a red bus in the rain, seen from above",
    "winter",
    "an oak",
    "Three Men, TWO dogs!",
    "a very long caption, " * 50,
]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: its place.
        differences: by column, the largest absolute difference between the module and what the format's library reads: of unit
            features of images and texts, of weights where a tower reads something else.
    """

    folder: Path
    differences: dict[str, float]

    @property
    def image_difference(self) -> float:
        """Of unit image features."""
        return self.differences["image"]

    @property
    def text_difference(self) -> float:
        """Of unit text features."""
        return self.differences["text"]


def export(module: Exportable, format: str, output: str | Path, run: Run | None = None, *, towers: bool = False) -> Exported:
    """Writes a module in a format of another library, reads it back with that library and compares.

    Args:
        module: a `ClipModule` with weights.
        format: "safetensors", "huggingface", "open_clip", "onnx", "torch-export", or "timm" for the image tower alone.
        output: folder to make; it appears under its name only when it is complete.
        run: for the model card.
        towers: omit what a subclass has learned beside the towers, such as a classifier's head or learned prompts.

    Raises:
        InputError: unknown format, one that cannot hold the model exactly, weights in half precision, an output that exists,
            no space, or another process that writes there.
    """
    formats.build(format)  # an unknown one is said first
    target = Path(output).expanduser()
    if not target.resolve().parent.is_dir():
        raise InputError(f"--output {str(target)!r}: there is no folder {str(target.parent)!r}, make it first")
    with only_writer(target, "--output"):
        if target.exists():
            raise InputError(f"--output {str(target)!r} exists and is never replaced: remove it or give another name")
        made: Any = module
        made = whole(made)
        kept = _held(formats.build(format), made)
        with _without(made.model, list(made.model.parts()) if towers else made.training_parts - kept):
            return _exported(made, format, target, run or Run("a live module"))


def _exported(module: Exportable, format: str, target: Path, run: Run) -> Exported:
    writer, model = formats.build(format), module.model
    if others := sorted(
        {key.removeprefix("model.").partition(".")[0] for key in module.state_dict()}
        - (parts_of(module.recipe) | _held(writer, module))
    ):
        raise InputError(
            f"this {type(module).__name__} has weights beside its towers ({', '.join(others)}), which {writer.title} does not "
            "hold: export its towers alone (--towers, towers=True), or keep the checkpoint"
        )
    kinds = {str(value.dtype) for value in model.state_dict().values() if value.is_floating_point()} - {"torch.float32"}
    if kinds:
        raise InputError(
            f"weights of this module are {', '.join(sorted(kinds))}, and exports are float32: call module.float() first"
        )
    channels = model.mean.shape[1]
    if channels != 3 and format in _OF_COLOURS:
        raise InputError(
            f"the image tower takes {channels} channels, and {writer.title} prepares pictures of three: export as safetensors, "
            "onnx or torch-export"
        )
    check_finite_weights("the module", model.state_dict())
    with evaluating(model), _on_cpu(model):
        if (error := refusal(format, module)) is not None:
            raise error
        with beside(target, folder=True) as folder:
            writer.write(module, folder)
            differences = _read_back(writer, module, folder)
            card = model_card(module, run, writer, title=target.name, difference=max(differences.values()))
            (folder / "README.md").write_text(card, encoding="utf-8")
            for _, plot in run.evaluation.plots if run.evaluation else ():
                (folder / PLOTS).mkdir(exist_ok=True)
                shutil.copy(plot, folder / PLOTS)
            writer.moved(folder, target)
    return Exported(target, differences)


def _held(writer: Format, module: Any) -> frozenset[str]:
    """Names of parts of the objective that a format holds."""
    kept = frozenset(part for part in module.objective.kept_parts if writer.holds(part))
    return kept | module.objective.scoring_parts if writer.holds_scorers else kept


def _read_back(writer: Format, module: Exportable, folder: Path) -> dict[str, float]:
    """By column, how far what was written is from the module.

    Raises:
        InputError: further than the format may be.
    """
    pixels = (
        _pixels(module.image_size, module.model.mean.shape[1])
        if "image" in module.model.columns
        else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    )
    texts = [*_TEXTS, *(f"a photo of {word}" for word in module.training_settings.adapt.text.new_tokens)]
    found = writer.differences(module, folder, pixels, texts)
    if not max(found.values()) <= writer.tolerance:
        raise InputError(
            f"read back by {writer.title}, features differ by {max(found.values()):.1e}, more than {writer.tolerance:.0e}: "
            "nothing was written. Choose another format"
        )
    return found


@contextmanager
def _on_cpu(model: nn.Module) -> Iterator[None]:
    """While it lasts, the model is on the CPU."""
    device = next(model.parameters()).device
    model.cpu()
    try:
        yield
    finally:
        model.to(device)


@contextmanager
def _without(model: nn.Module, parts: Collection[str]) -> Iterator[None]:
    """While it lasts, the model lacks these parts."""
    held = {name: part for name, part in model.named_children() if name in parts}
    for name in held:
        delattr(model, name)
    try:
        yield
    finally:
        for name, part in held.items():
            setattr(model, name, part)


def push_to_hub(folder: Path, repository: str) -> str:
    """Uploads a folder to the Hugging Face hub under the account that is logged in there; returns its address.

    Raises:
        InputError: the hub cannot be reached or does not accept the folder.
    """
    import huggingface_hub

    try:
        hub = huggingface_hub.HfApi()
        address = hub.create_repo(repository, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Model exported by lightning_clip")
    except Exception as error:  # of several libraries
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{str(folder)!r} is written, but repository {repository!r} cannot be pushed to "
            f"({type(error).__name__}: {reason}): log in with `hf auth login`, or upload the folder later"
        ) from error
    return str(address)


def _pixels(size: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, channels, size, size), dtype=torch.uint8, generator=generator)
