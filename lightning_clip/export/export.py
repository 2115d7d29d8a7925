"""Export: a module is written in a format, read back by the format's library and compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.export import to_files, to_graphs, to_open_clip, to_transformers
from lightning_clip.export.card import Run, model_card
from lightning_clip.export.formats import formats, refusal
from lightning_clip.export.interface import Exportable
from lightning_clip.merging.merged import whole
from lightning_clip.weights.own import parts_of

__all__ = ["Exported", "export", "push_to_hub"]

_MODULES = (to_files, to_graphs, to_open_clip, to_transformers)  # importing them registers their formats
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
        image_difference: largest absolute difference of unit image features between the module and the format's library.
        text_difference: likewise of text features.
    """

    folder: Path
    image_difference: float
    text_difference: float


def export(module: Exportable, format: str, output: str | Path, run: Run | None = None, *, towers: bool = False) -> Exported:
    """Writes a module in a format of another library, reads it back with that library and compares.

    Args:
        module: with weights.
        format: "safetensors", "huggingface", "open_clip", "onnx" or "torch-export".
        output: folder to make; it appears under its name only when it is complete.
        run: for the model card.
        towers: omit what a subclass has learned beside the towers, such as a classifier's head or learned prompts.

    Raises:
        InputError: unknown format, one that cannot hold the model exactly, weights in half precision, an output that exists,
            or no space.
    """
    formats.build(format)  # an unknown one is said first
    target = Path(output).expanduser()
    if target.exists():
        raise InputError(f"--output {str(target)!r} exists and is never replaced: remove it or give another name")
    if not target.resolve().parent.is_dir():
        raise InputError(f"--output {str(target)!r}: there is no folder {str(target.parent)!r}, make it first")
    module = whole(module)  # type: ignore[type-var]  # of a live module that has merged parts
    with _without(module, list(module.model.parts()) if towers else module.training_parts):
        return _exported(module, format, target, run or Run("a live module"))


def _exported(module: Exportable, format: str, target: Path, run: Run) -> Exported:
    writer = formats.build(format)
    if others := sorted(
        {key.removeprefix("model.").partition(".")[0] for key in module.state_dict()} - parts_of(module.recipe)
    ):
        raise InputError(
            f"this {type(module).__name__} has weights beside its towers ({', '.join(others)}), which no format holds: "
            "export its towers alone (--towers, towers=True), or keep the checkpoint"
        )
    if (kind := module.model.logit_scale.dtype) != torch.float32:
        raise InputError(f"the weights of this module are {kind}, and exports are float32: call module.float() first")
    training = [layer for layer in module.modules() if layer.training]
    device = module.device
    module.eval()
    module.to("cpu")
    try:
        if (error := refusal(format, module)) is not None:
            raise error
        with beside(target, folder=True) as folder:
            writer.write(module, folder)
            pixels = _pixels(module.image_size)
            texts = [*_TEXTS, *(f"a photo of {word}" for word in module.training_settings.adapt.text.new_tokens)]
            features = writer.features(module, folder, pixels, texts)
            differences = (
                _difference(features[0], module.predictor.encode_image(pixels)),
                _difference(features[1], module.predictor.encode_text(texts)),
            )
            if not max(differences) <= writer.tolerance:
                raise InputError(
                    f"read back by {writer.title}, features differ by {max(differences):.1e}, more than "
                    f"{writer.tolerance:.0e}: nothing was written. Choose another format"
                )
            card = model_card(
                module,
                run,
                title=target.name,
                library=writer.title.lower(),
                usage=writer.usage.format(folder=target.name),
                difference=max(differences),
                notes=writer.notes(module),
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
            writer.moved(folder, target)
    finally:
        module.to(device)
        for layer in training:
            layer.training = True
    return Exported(target, *differences)


@contextmanager
def _without(module: Exportable, parts: Collection[str]) -> Iterator[None]:
    """While it lasts, the module's model lacks these parts."""
    held = {name: part for name, part in module.model.named_children() if name in parts}
    for name in held:
        delattr(module.model, name)
    try:
        yield
    finally:
        for name, part in held.items():
            setattr(module.model, name, part)


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


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).abs().max())


def _pixels(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8, generator=generator)
