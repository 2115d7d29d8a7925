"""Into open_clip: a module arrives, a folder that `open_clip.create_model_and_transforms("local-dir:...")` reads leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_clip.encoders import HuggingFaceTextEncoder
from lightning_clip.export.formats import Format, formats
from lightning_clip.export.to_open_clip_texts import text_config, text_part
from lightning_clip.export.to_open_clip_towers import Part, image_part
from lightning_clip.model.space import CLIP_MEAN, CLIP_STD
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.weights import layouts
from lightning_clip.weights.rules import to_ours, to_theirs
from lightning_clip.weights.tokenizer_files import transformers_tokenizer
from lightning_clip.weights.tokens import is_clip

__all__ = ["OpenClipFormat"]

_MODES = {"crop": "shortest", "floor_crop": "shortest", "pad": "longest", "squash": "squash"}
_TEXT_FOLDER = "text_config"


@formats.register("open_clip")
class OpenClipFormat(Format):
    """open_clip_config.json, open_clip_model.safetensors, and the tokenizer's files."""

    title = "open_clip"
    usage = """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")
tokenizer = open_clip.get_tokenizer("local-dir:{folder}")
"""

    def reason(self, module: ClipModule) -> str | None:
        image, text = _parts(module)
        if isinstance(image, str):
            return image
        if isinstance(text, str):
            return text
        if None not in (image.quick_gelu, text.quick_gelu) and image.quick_gelu != text.quick_gelu:
            return "its towers have different activations, and open_clip has one setting for both"
        return None

    def write(self, module: ClipModule, folder: Path) -> None:
        image, text = _parts(module)
        assert isinstance(image, Part) and isinstance(text, Part)
        model = module.model
        if "hf_model_name" in text.settings:
            text.settings["hf_model_name"] = str(folder.resolve() / _TEXT_FOLDER)
        config: dict[str, Any] = {"embed_dim": module.embed_dim, "vision_cfg": image.settings, "text_cfg": text.settings}
        config["quick_gelu"] = bool(image.quick_gelu or text.quick_gelu)
        if text.custom:
            config["custom_text"] = True
        if model.logit_bias is not None:
            config["init_logit_bias"] = float(model.logit_bias.detach())
        if isinstance(model.text_encoder, HuggingFaceTextEncoder):
            text_config(model.text_encoder).save_pretrained(folder / _TEXT_FOLDER)
        if not is_clip(module.tokenizer):
            transformers_tokenizer(module.tokenizer).save_pretrained(folder)
        content = {"model_cfg": config, "preprocess_cfg": _preprocess(module)}
        (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        rules = [*image.rules, *text.rules, *layouts.temperature(bias=model.logit_bias is not None)]
        state = model.state_dict()
        for part in (image, text):
            state |= to_ours(part.before, state, "the model")
        weights = to_theirs(rules, state)
        from safetensors.torch import save_file

        save_file({**weights, **image.extra}, folder / "open_clip_model.safetensors", metadata={"format": "pt"})

    def features(self, module: ClipModule, folder: Path, pixels: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        import open_clip

        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        model.eval()
        settings: Any = open_clip.get_model_preprocess_cfg(model)
        mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(texts))
        with torch.no_grad():
            image = model.encode_image((pixels.float() / 255 - mean) / std, normalize=True)
            return image, model.encode_text(tokens, normalize=True)

    def moved(self, folder: Path, target: Path) -> None:
        path = folder / "open_clip_config.json"
        content = json.loads(path.read_text("utf-8"))
        if "hf_model_name" in content["model_cfg"]["text_cfg"]:  # open_clip looks for it from where Python runs
            content["model_cfg"]["text_cfg"]["hf_model_name"] = str(target.resolve() / _TEXT_FOLDER)
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")

    def notes(self, module: ClipModule) -> list[str]:
        found = []
        if module.transform_settings.resize == "floor_crop":
            found.append(
                "The corner of the centre crop may lie one pixel elsewhere: open_clip rounds where transformers rounds down."
            )
        if isinstance(module.model.text_encoder, HuggingFaceTextEncoder):
            found.append(
                f"open_clip_config.json names the folder {_TEXT_FOLDER}/ by its path: change it if the folder is moved."
            )
        if getattr(module.tokenizer, "clean", "") is None:
            found.append("open_clip repairs entities and spaces of captions before its tokenizer, which training did not.")
        return found


def _parts(module: ClipModule) -> tuple[Part | str, Part | str]:
    """Both towers, each as open_clip has it or the reason why it has not."""
    module.configure_model()
    return image_part(module), text_part(module, _TEXT_FOLDER)


def _preprocess(module: ClipModule) -> dict[str, Any]:
    settings = module.transform_settings
    borders = {"fill_color": settings.fill} if settings.resize == "pad" else {}
    return {
        "size": [module.image_size, module.image_size],
        "mode": "RGB",
        "mean": list(settings.mean or CLIP_MEAN),
        "std": list(settings.std or CLIP_STD),
        "interpolation": settings.interpolation,
        "resize_mode": _MODES[settings.resize],
        **borders,
    }
