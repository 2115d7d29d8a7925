"""The text of a first recipe: every choice with its reason in a comment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_clip.planning.first_choices import Choices
from lightning_clip.planning.first_look import Look

__all__ = ["Start", "expected_time", "recipe_text"]

_REPEATED = 0.02  # share of repeated captions from which equal ones count as positives of each other
_SIDED = 0.01  # share of captions that speak of left and right from which pictures are not mirrored
_LONG = 40  # words of a caption from which it is a report
_TEMPLATES = ["a photo of a {}.", "a picture of a {}.", "a {}."]


@dataclass(frozen=True)
class Start:
    """What a recipe is written from.

    Attributes:
        look: at the data.
        choices: by time and machine.
        name: of the run.
        data: as the user named it.
        minutes: that the user gave.
        tokenizer: a vocabulary that was learnt from the captions; None takes CLIP's.
        weights: a published model or checkpoint to adapt; None trains from scratch.
        label_column: of a table whose captions are beside it.
    """

    look: Look
    choices: Choices
    name: str
    data: str
    minutes: float
    tokenizer: str | None = None
    weights: str | None = None
    label_column: str | None = None


def recipe_text(start: Start) -> str:
    """The recipe as YAML.

    Args:
        start: what it is written from.
    """
    return "\n".join([*_head(start), *_model(start), *_data(start), *_trainer(start), ""])


def _head(start: Start) -> Iterator[str]:
    look, choices = start.look, start.choices
    yield f"# Written by lightning-clip start for {_line(start.data)}"
    yield f"# and {_in_words(start.minutes)} on this machine ({choices.device})."
    yield "# lightning-clip fit --config THIS_FILE    Change whatever you know better; data inspect shows what is in the data."
    yield f"# {look.pairs:,} training pairs, {look.inspection.captions:,} captions"
    if look.inspection.layout:
        yield f"# {_line(look.inspection.layout)}"
    if repeats := look.inspection.duplicate_images:
        yield f"# {repeats} of {look.inspection.looked_at} pictures that were looked at have the bytes of another:"
        yield "# lightning-clip data curate removes repeats."


def _model(start: Start) -> Iterator[str]:
    look, choices = start.look, start.choices
    yield "model:"
    if start.weights is None:
        rung = choices.rung
        yield f"  # The largest towers that {choices.epochs} epochs leave time for; pictures have {look.short_side} px."
        yield f"  image_encoder: {_flow({**rung.image, 'image_size': rung.image_size})}"
        text = {"name": "clip_text", "width": rung.width, "layers": rung.layers, "heads": max(2, rung.width // 64)}
        yield f"  text_encoder: {_flow(text)}"
        yield f"  embed_dim: {rung.embed_dim}"
        yield from _tokenizer(start)
    else:
        yield "  # Published weights know most of what is in pictures already; their size, tokenizer and pixels are kept."
        yield f"  pretrained: {_flow(start.weights)}"
    yield from _objective(start)
    yield from _training(start)
    yield from _pictures(start)


def _tokenizer(start: Start) -> Iterator[str]:
    length = start.choices.context_length
    if start.tokenizer is None:
        yield f"  # CLIP's vocabulary is of English; 99 % of the captions that were looked at fit into {length} tokens."
        yield f"  tokenizer: {_flow({'name': 'clip', 'context_length': length})}"
    else:
        yield f"  # {start.look.foreign:.0%} of the letters are not Latin, so this vocabulary was learnt from the captions."
        yield f"  tokenizer: {_flow({'name': start.tokenizer, 'context_length': length})}"


def _objective(start: Start) -> Iterator[str]:
    look = start.look
    texts = look.inspection.captions
    words = {"name": "words", "size": 3000, "all_captions": True, "weight": 0.5}
    if not texts:
        yield "  # Captions are made of class names: pictures of one class are positives of each other, not negatives."
        yield f"  objective: {_flow({'name': 'softmax', 'duplicates': True})}"
        return
    several = look.inspection.captions_per_image[1] > 1
    pairs: dict[str, Any] = {"name": "several_texts", "count": 1} if several else {"name": "softmax"}
    if look.repeated > _REPEATED or start.label_column:
        pairs = {"name": "softmax", "duplicates": True}
        why = f"{look.repeated:.0%} of the captions repeat another" if look.repeated > _REPEATED else "class names repeat"
        yield f"  # {why}: equal texts are positives of each other, not negatives."
    elif several:
        yield "  # Pictures have several captions: two of them are positives of a step."
    if start.weights is not None:
        yield f"  objective: {_flow(pairs)}"
        return
    yield "  # Beside pairs the words of the captions are predicted, which helps where there are few pairs; exports omit it."
    yield f"  objective: [{_flow(pairs)}, {_flow(words)}]"


def _training(start: Start) -> Iterator[str]:
    choices = start.choices
    steps = max(1, start.look.pairs // choices.batch_size) * choices.epochs
    warmup = max(1, min(500, steps // 20))
    yield "  training:"
    if start.weights is None:
        yield "    # Muon for matrices, AdamW for the rest: more from the same few epochs. Warm-up is a twentieth of the steps."
        yield f"    optimizer: {_flow({'name': 'muon', 'lr': 0.002, 'weight_decay': 0.1, 'warmup_steps': warmup})}"
        if choices.device == "cpu":
            yield "    execution: {channels_last: true}  # convolutions are faster so"
    elif choices.device == "cpu":
        yield "    # The image tower is locked (LiT): its features are computed once and kept, which a CPU has the time for."
        yield f"    optimizer: {_flow({'lr': 0.0003, 'weight_decay': 0.1, 'warmup_steps': warmup})}"
        locked = {"lock": True, "cache": f"runs/{start.name}/features"}
        yield f"    adapt: {_flow({'image': locked, 'text': {'layer_decay': 0.8}})}"
    else:
        yield "    # All layers learn, the first ones least, at a rate that keeps what the weights know."
        yield f"    optimizer: {_flow({'lr': 3.0e-5, 'weight_decay': 0.1, 'warmup_steps': warmup})}"
        yield f"    adapt: {_flow({'image': {'layer_decay': 0.75}, 'text': {'layer_decay': 0.75}})}"


def _pictures(start: Start) -> Iterator[str]:
    look, kind = start.look, start.look.kind
    transform: dict[str, Any] = {}
    yield "  towers:"
    yield "    image:"
    if start.weights is not None and start.choices.device == "cpu":
        yield "      # Kept features need the same pixels each time."
        transform["augment"] = False
    else:
        transform["crop_scale"] = [0.9, 1.0] if start.weights else [0.5, 1.0]
        mirrored = look.sides <= _SIDED and kind.form != "dicom"
        transform["flip"] = 0.5 if mirrored else 0.0
        sided = "scans have sides" if kind.form == "dicom" else f"{look.sides:.0%} of the captions speak of left or right"
        said = "Mirrored half of the time." if mirrored else f"Not mirrored: {sided}."
        yield f"      # Crops stand in for more pictures. {said}"
    if kind.form == "dicom":
        yield "      # DICOM goes through its own window; for another say window: [-1000, 400] (lungs) or so."
    elif kind.form == "bands":
        transform |= {"bands": [1, 2, 3], "percentiles": [2, 98]}
        yield f"      # {kind.bands} bands: the first three are shown; of Sentinel-2 name bands: [4, 3, 2], window: [0, 3000]."
    elif not kind.eight_bits:
        transform["window"] = [round(kind.low, 3), round(max(kind.high, kind.low + 1e-3), 3)]
        yield "      # More than 8 bits: nearly the least and largest value become black and white."
    elif kind.form == "grey":
        yield "      # Grey pictures are repeated to three channels, so that published weights can be tried, too."
    yield f"      transform: {_flow(transform)}"


def _data(start: Start) -> Iterator[str]:
    stages, choices = start.look.stages, start.choices
    yield "data:"
    yield f"  # Training, validation and test: {_line(stages.why)}."
    for part, spec in (("train", stages.train), ("val", stages.val), ("test", stages.test)):
        if spec is not None:
            yield f"  {part}: {_flow(_for_training(spec, start.label_column))}"
    yield f"  local_batch_size: {choices.batch_size}"
    yield f"  num_workers: {choices.workers}"
    if start.look.inspection.words[0] > _LONG:
        yield "  # Texts are long: one sentence of them is shown at a time, another in each epoch."
        yield "  captions: sentence"
    if not start.look.inspection.captions:
        yield "  # There are no texts, so that captions are made of class names."
        yield f"  captions: {_flow({'name': 'template', 'templates': _TEMPLATES})}"


def _for_training(spec: Mapping[str, Any], label_column: str | None) -> dict[str, Any]:
    """A table's texts, with the class's name as one more: the words of the classes are then learnt."""
    found = dict(spec)
    caption = found.get("caption_column")
    if label_column and caption is not None:
        found.pop("label_column", None)
        found["caption_column"] = {caption: 1, label_column: 1} if isinstance(caption, str) else caption
    return found


def _trainer(start: Start) -> Iterator[str]:
    look, choices, folder = start.look, start.choices, f"runs/{start.name}"
    steps = max(1, look.pairs // choices.batch_size)
    yield "trainer:"
    rate = choices.samples_per_second
    yield f"  # {rate:,.0f} pairs a second are expected, {expected_time(start)} with loading and validation."
    yield f"  max_epochs: {choices.epochs}"
    yield f"  check_val_every_n_epoch: {max(1, choices.epochs // 3)}"
    yield f"  log_every_n_steps: {min(10, steps)}"
    yield "  num_sanity_val_steps: 0"
    if choices.device == "cuda":
        yield "  precision: bf16-mixed"
    yield f"  default_root_dir: {_flow(folder)}"
    yield "  callbacks:"
    val = _of_part(look.stages, "val")
    if val is not None and look.inspection.captions:
        yield "    - class_path: lightning_clip.Retrieval"
    if val is not None and look.class_names and len(look.class_names) > 1:
        yield "    - class_path: lightning_clip.ZeroShotClassification"
        yield "      init_args:"
        yield "        datasets:"
        for part, spec in (("classes", val), ("classes_of_test", _of_part(look.stages, "test"))):
            if spec is not None and spec != (val if part != "classes" else None):
                yield f"          {part}: {_flow(_labelled(spec, start.label_column))}"
    yield "    - class_path: lightning_clip.Report"
    yield f"      init_args: {_flow({'path': f'{folder}/report.html', 'title': f'First run on {Path(start.data).name}'})}"
    yield "    - class_path: lightning.pytorch.callbacks.ModelCheckpoint"
    kept = {"dirpath": folder, "filename": "last", "save_on_train_epoch_end": True, "enable_version_counter": False}
    yield f"      init_args: {_flow(kept)}"
    yield "  logger:"
    yield "    class_path: lightning.pytorch.loggers.CSVLogger"
    yield f"    init_args: {_flow({'save_dir': folder, 'name': 'logs'})}"


def _labelled(spec: Mapping[str, Any], label_column: str | None) -> dict[str, Any]:
    """A table's pictures by class alone, where captions stand beside it."""
    own = {"caption_column": None, "label_column": label_column, "templates": "plain"} if label_column else {}
    return {**spec, **own}


def _of_part(stages: Any, part: str) -> dict[str, Any] | None:
    """The settings of validation, whether they are given or come from a split."""
    given: dict[str, Any] | None = getattr(stages, part)
    if given is not None or "split" not in stages.train:
        return given or stages.test
    split: Mapping[str, Any] = stages.train["split"]
    return {**stages.train, "split": {**split, "part": part}}


def expected_time(start: Start) -> str:
    """What the run will take, in words."""
    return _in_words(max(1.0, round(start.look.pairs * start.choices.minutes_per_pair)))


def _in_words(number: float) -> str:
    """A number of minutes in words."""
    return f"{number:g} minute{'' if number == 1 else 's'}"


def _line(text: str) -> str:
    """Text of others in a comment: on one line, whatever it holds."""
    return " ".join(text.split())


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
