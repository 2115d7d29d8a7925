"""Settings that change how a model is run: same result, same names; and the guard against losses that are not finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import run_ranks
from small import IMAGE, TEXT, arguments_of, small_data, small_module, small_trainer
from torch import Tensor

from lightning_clip import ClipModule, ClipOutput, InputError, PairBatch
from lightning_clip.module.running import over_ranks
from lightning_clip.training.guard import FiniteGuard

BERT = {
    "name": "hf",
    "config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 49408,
    },
}
RESNET = {"name": "resnet10t", "image_size": 32, "channels": [16, 16, 16, 16], "stem_width": 8}


def gradients(**arguments: Any) -> tuple[dict[str, Tensor], list[str]]:
    torch.manual_seed(0)
    module = small_module(**arguments)
    module.configure_model()
    module.double()  # batch normalisation over few samples magnifies the rounding of float32
    batch = next(iter(small_data().attach(module).train_dataloader()))
    torch.manual_seed(1)
    module.compute_loss(module.encode(batch), batch)["loss"].backward()
    found = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    return found, list(module.state_dict())


@pytest.mark.parametrize(
    ("towers", "execution"),
    [
        ({}, {"checkpoint": ["image", "text"]}),
        ({"text_encoder": BERT}, {"checkpoint": "text"}),
        ({"image_encoder": RESNET}, {"channels_last": True}),
        ({"image_encoder": RESNET}, {"checkpoint": ["image"]}),
        ({}, {"text_chunks": 1}),
    ],
    ids=str,
)
def test_same_gradients_and_names(towers: dict[str, Any], execution: dict[str, Any]) -> None:
    plain, plain_names = gradients(**towers)
    found, names = gradients(**towers, execution=execution)
    assert names == plain_names and set(found) == set(plain)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-10)


def test_checkpointed_blocks_are_computed_again() -> None:
    calls = []
    module = small_module(execution={"checkpoint": ["text"]})
    module.configure_model()
    module.model.text_encoder.blocks()[0].register_forward_pre_hook(lambda *_: calls.append(1))
    batch = next(iter(small_data().attach(module).train_dataloader()))
    module.compute_loss(module.encode(batch), batch)["loss"].backward()
    assert len(calls) == 2
    module.encode_text("a cat")
    assert len(calls) == 3


@pytest.mark.slow
def test_compiled_towers_keep_results_and_names() -> None:
    plain, plain_names = gradients()
    found, names = gradients(execution={"compile": True})
    assert names == plain_names
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_patch_dropout_drops_patches_in_training_only() -> None:
    module = small_module(image_encoder={**IMAGE, "patch_size": 8, "patch_drop_rate": 0.5})
    module.configure_model()
    seen: list[int] = []
    module.model.image_encoder.blocks()[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    module.model.encode_image(image)
    module.encode_image(image)
    assert seen == [9, 17]  # the class token and 8 of 16 patches, then all of them


def test_average_of_weights(tmp_path: Path) -> None:
    """Lightning's own callback averages the weights of a ClipModule, evaluates and stores the average."""
    from lightning.pytorch.callbacks import EMAWeightAveraging

    module = small_module(optimizer={"lr": 1e-2, "warmup_steps": 0})
    module.configure_model()
    start = module.model.image_projection.weight.detach().clone()
    trainer = small_trainer(tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)])
    trainer.fit(module, small_data())
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    averaged = ClipModule.load_from_checkpoint(tmp_path / "ema.ckpt")
    assert not torch.equal(averaged.model.image_projection.weight, start)


class TestNorm:
    def test_of_the_gradients_is_logged(self, tmp_path: Path) -> None:
        module = small_module()
        trainer = small_trainer(tmp_path, log_every_n_steps=1, gradient_clip_val=1e-9)
        trainer.fit(module, small_data())
        assert trainer.callback_metrics["train/gradient_norm"] > 1e-3  # before clipping


class Broken(ClipModule):
    """Its loss is NaN at step 1."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(IMAGE, TEXT, embed_dim=16, **arguments_of(optimizer={"lr": 1e-2, "warmup_steps": 0}, **arguments))
        self.weights: list[Tensor] = []

    def compute_loss(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        parts = super().compute_loss(output, batch)
        return {"loss": parts["loss"] * (math.nan if self.trainer.global_step == 1 and self.training else 1.0)}

    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)
        self.weights.append(self.model.image_projection.weight.detach().clone())  # type: ignore[operator]


class TestGuard:
    def test_stops(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"the loss of step 1 is not finite on some rank: lower optimizer.lr, clip"):
            small_trainer(tmp_path).fit(Broken(), small_data())

    def test_skips_a_step_and_goes_on(self, tmp_path: Path) -> None:
        module = Broken(execution={"non_finite": "skip"})
        trainer = small_trainer(tmp_path)
        trainer.fit(module, small_data())
        first, second, third, _ = module.weights
        assert torch.equal(first, second) and not torch.equal(second, third) and third.isfinite().all()
        assert trainer.callback_metrics["train/skipped_steps"] == 1

    def test_ignores(self, tmp_path: Path) -> None:
        module = Broken(execution={"non_finite": "ignore"})
        small_trainer(tmp_path).fit(module, small_data())
        assert not module.weights[-1].isfinite().all()

    def test_on_all_ranks_alike(self) -> None:
        assert run_ranks(_watches, 2) == [True, True]

    def test_features_that_are_not_finite(self, tmp_path: Path) -> None:
        module = small_module()
        module.configure_model()
        with torch.no_grad():
            module.model.text_projection.weight[0, 0] = math.nan  # type: ignore[index, operator]
        with pytest.raises(InputError, match=r"text_features \(16, 16\) hold NaN or infinity in 16 rows"):
            small_trainer(tmp_path).fit(module, small_data())


def _watches(rank: int, world_size: int) -> bool:
    return FiniteGuard("skip").watch(over_ranks({"loss": torch.tensor([1.0, math.inf][rank])})["loss"], 0)


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"checkpoint": ["imgae"]}, "unknown tower 'imgae' in execution.checkpoint: did you mean 'image'"),
        ({"non_finite": "stpo"}, "unknown execution.non_finite 'stpo': did you mean 'stop'"),
        ({"compiled": True}, "execution has no setting 'compiled': did you mean 'compile'"),
        ({"text_chunks": 0}, "execution.text_chunks 0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(execution: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_module(execution=execution)


def test_settings_survive_a_checkpoint(tmp_path: Path) -> None:
    module = small_module(execution={"checkpoint": ["text"], "non_finite": "skip"}, micro_batch_size=8)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, small_data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.training_settings.execution == module.training_settings.execution and again.micro_batch_size == 8
