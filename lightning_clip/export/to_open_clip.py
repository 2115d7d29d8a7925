"""The format of open_clip: a folder that `open_clip.create_model_and_transforms("local-dir:...")` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_clip.encoders import HuggingFaceTextEncoder
from lightning_clip.export.formats import Format, formats, reason_not
from lightning_clip.export.interface import Exportable
from lightning_clip.weights.clip import temperature
from lightning_clip.weights.open_clip_decoder import write_decoder
from lightning_clip.weights.open_clip_images import write_image
from lightning_clip.weights.open_clip_inputs import write_tokenizer_settings, write_transform
from lightning_clip.weights.open_clip_texts import TEXT_FOLDER, text_config, write_text
from lightning_clip.weights.rules import to_ours, to_theirs
from lightning_clip.weights.tokenizer_files import transformers_tokenizer
from lightning_clip.weights.tokens import is_clip
from lightning_clip.weights.towers import ForeignTower, NotHeld, TwoTowers

__all__ = ["OpenClipFormat"]


@formats.register("open_clip")
class OpenClipFormat(Format):
    """open_clip_config.json, open_clip_model.safetensors, and the tokenizer's files."""

    title = "open_clip"
    usage = """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")
tokenizer = open_clip.get_tokenizer("local-dir:{folder}")
"""

    def holds(self, part: str) -> bool:
        """CoCa's decoder."""
        return part == "captioner"

    def reason(self, module: Exportable) -> str | None:
        """Why open_clip cannot hold the module exactly, or None."""
        if module.transform_settings.resize == "pad_end":
            return "open_clip has no preprocessing that pads pictures on one side"
        if side := module.transform_settings.resize_to:
            return f"open_clip has no preprocessing that resizes to more than the tower's size, as resize_to {side} does"
        return reason_not(lambda: _towers(module))

    def write(self, module: Exportable, folder: Path) -> None:
        """Writes configuration, weights and the tokenizer's files."""
        from safetensors.torch import save_file

        image, text = _towers(module)
        model = module.model
        if isinstance(model.text_encoder, HuggingFaceTextEncoder):
            text_config(model.text_encoder).save_pretrained(folder / TEXT_FOLDER)
        if not is_clip(module.tokenizer):
            transformers_tokenizer(module.tokenizer).save_pretrained(folder)
        preprocess = write_transform(module.transform_settings, module.image_size)
        config, decoder = _config(module, image, text, folder), write_decoder(model)
        if decoder is not None:
            config |= {"multimodal_cfg": decoder[0], "custom_text": True}
            for part in ("vision_cfg", "text_cfg"):
                config[part]["output_tokens"] = True
        content = {"model_cfg": config, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        state = model.state_dict()
        for tower in (image, text):
            state |= to_ours(tower.before, state, "the model")
        weights = to_theirs([*image.rules, *text.rules, *temperature(bias=model.logit_bias is not None)], state)
        weights |= {} if decoder is None else decoder[1]
        save_file({**weights, **image.extra}, folder / "open_clip_model.safetensors", metadata={"format": "pt"})

    def features(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Unit features (B, D) and (N, D) of uint8 pixels (B, 3, S, S) and N texts, by open_clip, from the folder alone."""
        import open_clip

        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        model.eval()
        settings: Any = open_clip.get_model_preprocess_cfg(model)
        mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(texts))
        with torch.no_grad():
            image = model.encode_image((pixels.float() / 255 - mean) / std, normalize=True)
            return {"image": image, "text": model.encode_text(tokens, normalize=True)}

    def moved(self, folder: Path, target: Path) -> None:
        """Writes the path of a Hugging Face tower's configuration, which open_clip resolves from where Python runs."""
        path = folder / "open_clip_config.json"
        content = json.loads(path.read_text("utf-8"))
        if "hf_model_name" in content["model_cfg"]["text_cfg"]:  # open_clip looks for it from where Python runs
            content["model_cfg"]["text_cfg"]["hf_model_name"] = str(target.resolve() / TEXT_FOLDER)
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")

    def notes(self, module: Exportable) -> list[str]:
        """Differences of the centre crop and of the tokenizer, and a path that is not relative."""
        found = []
        if module.transform_settings.resize == "floor_crop":
            found.append(
                "The corner of the centre crop may lie one pixel elsewhere: open_clip rounds where transformers rounds down."
            )
        if isinstance(module.model.text_encoder, HuggingFaceTextEncoder):
            found.append(
                f"open_clip_config.json names the folder {TEXT_FOLDER}/ by its path: change it if the folder is moved."
            )
        if getattr(module.tokenizer, "clean", "") is None:
            found.append("open_clip repairs entities and spaces of captions before its tokenizer, which training did not.")
        return found


def _towers(module: Exportable) -> tuple[ForeignTower, ForeignTower]:
    """Both towers as open_clip has them.

    Raises:
        NotHeld: it has none like one of them.
    """
    towers = TwoTowers.of(module.model)
    image = write_image(towers.image, towers.image_head)
    text = write_text(towers.text, towers.text_head, module.tokenizer)
    if None not in (image.quick_gelu, text.quick_gelu) and image.quick_gelu != text.quick_gelu:
        raise NotHeld("its towers have different activations, and open_clip has one setting for both")
    text.settings |= write_tokenizer_settings(module.tokenizer)
    return image, text


def _config(module: Exportable, image: ForeignTower, text: ForeignTower, folder: Path) -> dict[str, Any]:
    """open_clip's settings of the whole model."""
    texts, bias = dict(text.settings), module.model.logit_bias
    if "hf_model_name" in texts:
        texts["hf_model_name"] = str(folder.resolve() / TEXT_FOLDER)
    config = {"embed_dim": module.embed_dim, "vision_cfg": image.settings, "text_cfg": texts}
    config |= {"quick_gelu": bool(image.quick_gelu or text.quick_gelu)}
    config |= {"custom_text": True} if text.custom else {}
    return config | ({} if bias is None else {"init_logit_bias": float(bias.detach())})
