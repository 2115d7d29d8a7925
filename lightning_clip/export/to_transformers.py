"""The format of transformers: a folder that `AutoModel` and `AutoProcessor` (for CLIP `CLIPModel`) read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.data.tokenizers import JsonTokenizer, Tokenizer
from lightning_clip.encoders import ClipTextTransformer
from lightning_clip.export.formats import Format, formats, largest_difference, reason_not
from lightning_clip.export.interface import Exportable
from lightning_clip.weights.from_transformers import quiet_loading
from lightning_clip.weights.rules import to_theirs
from lightning_clip.weights.tokenizer_files import swapped, transformers_tokenizer, with_cleaning
from lightning_clip.weights.tokens import end_token
from lightning_clip.weights.towers import TwoTowers
from lightning_clip.weights.transformers_inputs import write_processor
from lightning_clip.weights.transformers_models import ForeignModel, write_model
from lightning_clip.weights.transformers_towers import LEGACY_END

__all__ = ["TransformersFormat"]

# Family -> column -> class of that tower alone with its projection, and the output that holds the features.
_OF_ONE_TOWER = {
    "clip": {
        "image": ("CLIPVisionModelWithProjection", "image_embeds"),
        "text": ("CLIPTextModelWithProjection", "text_embeds"),
    },
    "metaclip_2": {
        "image": ("MetaClip2VisionModelWithProjection", "image_embeds"),
        "text": ("MetaClip2TextModelWithProjection", "text_embeds"),
    },
    "siglip": {"image": ("SiglipVisionModel", "pooler_output"), "text": ("SiglipTextModel", "pooler_output")},
}


@formats.register("huggingface")
class TransformersFormat(Format):
    """config.json, model.safetensors, preprocessor_config.json and the tokenizer's files."""

    title = "transformers"
    usage = """from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("{folder}")
tokenizer, images = AutoTokenizer.from_pretrained("{folder}"), AutoImageProcessor.from_pretrained("{folder}")

# sentence-transformers reads the folder, too: SentenceTransformer("{folder}").encode(["a dog", picture])
"""

    def reason(self, module: Exportable) -> str | None:
        """Why transformers cannot hold the module exactly, or None."""
        if module.transform_settings.resize in ("pad", "pad_end"):
            return "transformers has no preprocessing that pads pictures to a square"
        return reason_not(lambda: _model(module))

    def write(self, module: Exportable, folder: Path) -> None:
        """Writes configuration, weights, image processor and the tokenizer's files."""
        from transformers import AutoConfig, AutoModel

        found = _model(module)
        tokenizer, weights = _ending_last(module, found)
        config: Any = AutoConfig.for_model(found.family, **found.config)
        for part in (config.text_config, config.vision_config):
            if hasattr(part, "projection_dim"):  # read by the classes of one tower, such as CLIPTextModelWithProjection
                part.projection_dim = module.embed_dim
        model: Any = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        theirs = to_theirs(found.rules, weights)
        for key in ("logit_scale", "logit_bias"):
            if key in theirs:
                theirs[key] = theirs[key].reshape(getattr(model, key).shape)
        missing = model.load_state_dict(theirs, strict=False)
        if problems := [key for key in (*missing.missing_keys, *missing.unexpected_keys) if not key.endswith("position_ids")]:
            raise InputError(f"transformers' {found.family} has other weights than this model: {', '.join(problems[:5])}")
        model.save_pretrained(folder)
        # SigLIP attends to its padding: a mask among the inputs would give other features.
        transformers_tokenizer(with_cleaning(tokenizer), masked=found.family != "siglip").save_pretrained(folder)
        write_processor(module.transform_settings, module.image_size).save_pretrained(folder)

    def differences(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, float]:
        """By column, how far transformers' features are from the module's at most, by its model and its classes of one tower.

        Args:
            module: what was written.
            folder: where it was written.
            pixels: uint8 (B, 3, S, S).
            texts: any.
        """
        found = super().differences(module, folder, pixels, texts)
        expected = {"image": module.predictor.encode_image(pixels), "text": module.predictor.encode_text(texts)}
        for column, features in _features_of_one_tower(module, folder, pixels, texts).items():
            found[column] = max(found[column], largest_difference(features, expected[column]))
        return found

    def features(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Unit features (B, D) and (N, D) of uint8 pixels (B, 3, S, S) and N texts, by transformers, from the folder alone."""
        from transformers import AutoModel

        model: Any = AutoModel.from_pretrained(folder).eval()
        pictures, ids = _inputs(module, folder, pixels, texts)
        with torch.no_grad():
            outputs = model.get_image_features(pixel_values=pictures), model.get_text_features(**ids)
        image, text = (value if isinstance(value, Tensor) else value.pooler_output for value in outputs)
        return {"image": normalize(image, dim=-1), "text": normalize(text, dim=-1)}

    def notes(self, module: Exportable) -> list[str]:
        """Differences of the centre crop and of the tokenizer."""
        found = []
        if module.transform_settings.resize == "crop":
            found.append("The corner of the centre crop may lie one pixel elsewhere: transformers rounds it down.")
        if module.tokenizer.to_mapping()["name"] == "clip" or getattr(module.tokenizer, "clean", None) is not None:
            found.append(
                "transformers' tokenizer omits the repair of broken letters, curly quotes and HTML entities in captions."
            )
        if isinstance(module.model.text_encoder, ClipTextTransformer) and end_token(module.tokenizer) == LEGACY_END:
            found.append("The id that ends a text was exchanged with the largest one: transformers gives id 2 another meaning.")
        return found


def _inputs(module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> tuple[Tensor, Any]:
    """What transformers makes of pixels (B, 3, S, S) and texts: pixel values, and token ids with their mask by name."""
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    processor: Any = AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    pictures = processor(list(pixels), do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
    padding = "max_length" if AutoConfig.from_pretrained(folder).model_type == "siglip" else True
    length = module.tokenizer.context_length
    return pictures, tokenizer(list(texts), truncation=True, max_length=length, padding=padding, return_tensors="pt")


def _features_of_one_tower(module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
    """Unit features by transformers' classes of one tower, for the families that have such; they read the same folder."""
    import transformers

    family = transformers.AutoConfig.from_pretrained(folder).model_type
    if family not in _OF_ONE_TOWER:
        return {}
    pictures, ids = _inputs(module, folder, pixels, texts)
    found = {}
    for column, inputs in (("image", {"pixel_values": pictures}), ("text", ids)):
        name, output = _OF_ONE_TOWER[family][column]
        with torch.no_grad(), quiet_loading():
            values = getattr(transformers, name).from_pretrained(folder).eval()(**inputs)
        found[column] = normalize(getattr(values, output), dim=-1)
    return found


def _model(module: Exportable) -> ForeignModel:
    return write_model(TwoTowers.of(module.model), module.tokenizer, module.embed_dim)


def _ending_last(module: Exportable, found: ForeignModel) -> tuple[Tokenizer, dict[str, Tensor]]:
    """Where texts end in id 2, the tokenizer and the embedding with that id exchanged for another.

    transformers takes 2 for a sign of old configurations and then looks for the end of a text at its largest id.
    """
    weights = dict(module.model.state_dict())
    if found.end is None or not isinstance(module.tokenizer, JsonTokenizer):
        return module.tokenizer, weights
    key, last = "text_encoder.token_embedding.weight", found.end
    order = torch.arange(len(weights[key]))
    order[LEGACY_END], order[last] = last, LEGACY_END
    weights[key] = weights[key][order.to(weights[key].device)]
    return swapped(module.tokenizer, LEGACY_END, last), weights
