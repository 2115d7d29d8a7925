"""A module in use from several threads, and in half precision."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from small import IMAGE, small_data, small_module, small_trainer
from torch import Tensor, nn

from lightning_clip import ClipModule
from lightning_clip.model.evaluating import evaluating

DROPS = {**IMAGE, "drop_path_rate": 0.5, "drop_rate": 0.5, "depth": 2}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"name": "hf", "config": {**BERT, "vocab_size": 50000, "hidden_dropout_prob": 0.5}}


def at_once(calls: list[Callable[[], Tensor]]) -> list[Tensor]:
    with ThreadPoolExecutor(8) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


class TestThreads:
    def test_training_module_in_eight_threads(self) -> None:
        """Features of evaluation mode from each call, and afterwards the modes that were."""
        torch.manual_seed(0)
        module = small_module(image_encoder=DROPS, text_encoder=TEXT)
        pixels = torch.randint(0, 256, (160, 3, 32, 32), dtype=torch.uint8)
        texts = [f"picture {number}" for number in range(160)]
        module.eval()
        expected = [module.encode_image(pixels[n : n + 1]) for n in range(160)], [module.encode_text(t) for t in texts]
        module.train()
        module.model.image_encoder.model.blocks[0].eval()
        modes = [layer.training for layer in module.modules()]
        assert not torch.equal(module.model.encode_image(pixels), module.model.encode_image(pixels))  # it drops out
        images = at_once([lambda n=n: module.encode_image(pixels[n : n + 1]) for n in range(160)])  # type: ignore[misc]
        encoded = at_once([lambda t=t: module.encode_text(t) for t in texts])  # type: ignore[misc]
        wrong = sum(
            not torch.allclose(a, b, atol=1e-6) for a, b in zip([*images, *encoded], [*expected[0], *expected[1]], strict=True)
        )
        assert wrong == 0 and [layer.training for layer in module.modules()] == modes

    def test_the_last_call_brings_the_mode_back(self) -> None:
        model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
        first, second = evaluating(model), evaluating(model)
        with first:
            second.__enter__()
        assert not model.training and not model[0].training
        second.__exit__(None, None, None)
        torch.set_grad_enabled(True)  # a thread's own; this one left its two calls in the wrong order
        assert model.training and model[0].training
        with pytest.raises(ZeroDivisionError), evaluating(model):
            raise ZeroDivisionError
        assert model.training

    def test_built_once_by_eight_threads(self) -> None:
        torch.manual_seed(0)
        module = small_module(adapt={"image": {"lora": {"rank": 2}}})
        pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        features = at_once([lambda: module.encode_image(pixels)] * 16)
        assert all(torch.equal(found, module.encode_image(pixels)) for found in features)


@pytest.fixture(params=["bfloat16()", "to", "half()", "default"])
def half(request: pytest.FixtureRequest) -> ClipModule:
    """A module in half precision: converted, or made of it as under "bf16-true"."""
    torch.manual_seed(0)
    module = small_module(objective={"name": "pairs", "loss": "sigmoid"})
    if request.param == "default":
        torch.set_default_dtype(torch.bfloat16)
        try:
            module.configure_model()
        finally:
            torch.set_default_dtype(torch.float32)
        return module
    return {"bfloat16()": module.bfloat16, "half()": module.half, "to": lambda: module.to(torch.bfloat16)}[request.param]()


class TestHalfPrecision:
    def test_mean_std_and_temperature_stay_precise(self, half: ClipModule) -> None:
        model = half.model
        assert {w.dtype for w in model.image_encoder.parameters()} <= {torch.bfloat16, torch.float16}
        for value in (model.mean, model.std, model.logit_scale, model.logit_bias):
            assert value.dtype == torch.float32
        assert model.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073], abs=1e-7)
        assert float(model.scale()) == pytest.approx(10.0, rel=1e-6) and float(model.logit_bias) == -10.0

    def test_pixels_are_rounded_once(self, half: ClipModule) -> None:
        """Against NumPy in float64: half a unit in the last place of bfloat16 (8 bits), not several."""
        pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        seen: list[Tensor] = []
        half.model.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        half.encode_image(pixels)
        mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
        exact = torch.tensor((pixels.double().numpy() / 255 - mean[:, None, None]) / std[:, None, None])
        rounded = exact.to(seen[0].dtype).double()
        assert (seen[0].double() - exact).abs().max() <= (rounded - exact).abs().max() * 1.01

    def test_scores_and_losses(self, half: ClipModule) -> None:
        pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        scores = half.predictor.scores(pixels, ["cat", "dog"])
        images, words = half.encode_image(pixels), half.zero_shot_classifier(["cat", "dog"])
        expected = 10.0 * images.double() @ words.double()
        torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-4)

    def test_gradients_and_devices(self, half: ClipModule) -> None:
        half.model.logit_scale.grad = torch.ones(1)
        again = half.to(torch.float16)
        assert again.model.logit_scale.grad is not None and again.model.logit_scale.grad.dtype == torch.float32
        assert again.double().model.logit_scale.dtype == torch.float64  # more digits are welcome
        assert again.to("meta").model.mean.dtype == torch.float64 and again.model.mean.is_meta


class Scales(pl.Callback):
    """The temperature after each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append(float(pl_module.model.scale()))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_temperature_moves_in_pure_half_precision(loss: str, tmp_path: Path) -> None:
    """A step of 1e-4 is less than half a unit in the last place of bfloat16 at log(14.3): there it would stand for ever."""
    torch.manual_seed(0)
    module = small_module(loss=loss, optimizer={"lr": 1e-4, "warmup_steps": 1})
    scales = Scales()
    small_trainer(tmp_path, max_steps=8, precision="bf16-true", callbacks=[scales]).fit(module, small_data())
    assert module.model.text_encoder.token_embedding.weight.dtype == torch.bfloat16
    assert module.model.logit_scale.dtype == torch.float32
    start = {"softmax": 1 / 0.07, "sigmoid": 10.0}[loss]
    assert len(set(scales.seen)) == 8 and all(0 < abs(scale - start) < 8.1e-4 * start for scale in scales.seen)
