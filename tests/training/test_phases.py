"""Phases: few tokens or small images first, then all; the same images give what they gave, resumed runs see the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, small_data, small_module, small_trainer
from torch import Tensor

from lightning_clip import ClipModule, InputError
from lightning_clip.training.phases import Phase, phases_of, smaller

SIZES = {**IMAGE, "patch_size": 8}
PHASES = [{"until": 0.5, "keep_tokens": 0.5}, {"until": 0.75, "image_size": 16}]


class Seen:
    """Numbers of tokens that the tower's first block reads, step by step."""

    def __init__(self, module: ClipModule) -> None:
        self.counts: list[int] = []
        module.model.tower("image").blocks()[0].register_forward_hook(self.note)

    def note(self, block: Any, inputs: Any, output: Any) -> None:
        if block.training:
            self.counts.append(inputs[0].shape[1])


def run(
    folder: Path, steps: int = 8, resume: Path | None = None, save_at: int | None = None
) -> tuple[list[int], dict[str, Tensor]]:
    import lightning.pytorch as pl

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == save_at:
                trainer.save_checkpoint(folder / "half.ckpt")

    torch.manual_seed(0 if resume is None else 5)
    module = small_module(image_encoder=SIZES, training={"phases": PHASES})
    seen = Seen(module)
    trainer = small_trainer(folder, max_steps=steps, callbacks=[Save()])
    trainer.fit(module, small_data(size=64, batch=8), ckpt_path=resume)
    return seen.counts, {name: value.clone() for name, value in module.state_dict().items()}


def test_tokens_of_each_step_and_resume(tmp_path: Path) -> None:
    """16 patches and a class token: half of them in steps 0 to 3, then 16 pixels for two steps, then all."""
    counts, whole = run(tmp_path, save_at=3)
    assert counts == [9, 9, 9, 9, 5, 5, 17, 17]
    again, weights = run(tmp_path, resume=tmp_path / "half.ckpt")
    assert again == counts[3:]
    assert all(torch.equal(weights[name], value) for name, value in whole.items())
    assert ClipModule.load_from_checkpoint(tmp_path / "half.ckpt").training_settings.phases == phases_of(PHASES)


def test_a_tower_that_takes_sizes_gives_what_it_gave() -> None:
    torch.manual_seed(0)
    tower: Any = small_module(image_encoder=SIZES).model.tower("image").eval()
    image = torch.randn(2, 3, 32, 32)
    before = tower(image)
    tower.take_sizes()
    assert torch.equal(tower(image), before)
    assert tower(image[..., :16, :16]).shape == before.shape


def test_smaller_images_are_means_of_their_pixels() -> None:
    flat = torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(smaller(flat, 4), torch.full((1, 3, 4, 4), 77, dtype=torch.uint8))
    halves = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    halves[..., 4:] = 200
    found = smaller(halves, 4)
    assert found[0, 0, 0, 0] == 0 and found[0, 0, 0, 3] == 200


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ({"until": 0.5}, r"training.phases .* must be a list, such as"),
        ([{"keep_tokens": 0.5}], "without 'until': add the share of the run"),
        ([{"until": 1.5}], "phases.until 1.5 must be a number > 0 and < 1"),
        ([{"until": 0.5, "keep_tokens": 0.0}], "phases.keep_tokens 0.0 must be a number > 0 and <= 1"),
        ([{"until": 0.5, "tokens": 3}], "training.phases has no setting 'tokens'"),
        ([{"until": 0.5}, {"until": 0.2}], r"training.phases end at \[0.5, 0.2\] of the run: they must follow"),
    ],
)
def test_mistakes(phases: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        phases_of(phases)


@pytest.mark.parametrize(
    ("image", "phase", "message"),
    [
        ({"name": "resnet10t", "image_size": 32}, Phase(0.5, 0.5), "ResNet cannot drop image tokens: take a ViT, or smaller"),
        (SIZES, Phase(0.5, image_size=64), "phases.image_size 64 is above the image tower's 32"),
    ],
)
def test_towers_that_cannot(image: Any, phase: Phase, message: str, tmp_path: Path) -> None:
    module = small_module(image_encoder=image, training={"phases": [phase]})
    with pytest.raises(InputError, match=message):
        small_trainer(tmp_path, max_steps=2).fit(module, small_data(size=16, batch=8))
