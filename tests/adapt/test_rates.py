"""Learning rates and decay by tower and depth: BEiT's rule counted by hand, the optimizer's groups, the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import IMAGE, TEXT, small_data, small_module, small_trainer

from lightning_clip.training.optim import build_optimizer

ADAPT = {"image": {"lr": 1e-2, "layer_decay": 0.5, "weight_decay": 0.3}, "text": {"layer_decay": 0.1}}


def rates(**arguments: object) -> dict[str, tuple[float, float]]:
    module = small_module(image_encoder={**IMAGE, "depth": 2}, text_encoder={**TEXT, "layers": 2}, adapt=ADAPT, **arguments)
    module.configure_model()
    settings = module.training_settings.optimizer
    found = module.adaptation.rates(settings, module.undecayed)
    optimizer = build_optimizer(module.model, settings, module.undecayed, rates=found)
    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    ("name", "lr", "weight_decay"),
    [
        ("image_projection.weight", 1e-2, 0.3),
        ("image_encoder.model.norm.weight", 1e-2, 0.0),
        ("image_encoder.model.blocks.1.mlp.fc1.weight", 1e-2 * 0.5, 0.3),
        ("image_encoder.model.blocks.0.mlp.fc1.bias", 1e-2 * 0.25, 0.0),
        ("image_encoder.model.patch_embed.proj.weight", 1e-2 * 0.125, 0.3),
        ("text_projection.weight", 1e-3, 0.2),
        ("text_encoder.transformer.0.attn.qkv.weight", 1e-5, 0.2),
        ("text_encoder.token_embedding.weight", 1e-6, 0.2),
        ("logit_scale", 1e-3, 0.0),
    ],
)
def test_by_depth(name: str, lr: float, weight_decay: float) -> None:
    assert rates()[name] == pytest.approx((lr, weight_decay))


def test_every_parameter_once() -> None:
    module = small_module(image_encoder={**IMAGE, "depth": 2}, text_encoder={**TEXT, "layers": 2})
    module.configure_model()
    assert set(rates()) == {name for name, _ in module.model.named_parameters()}


def test_the_schedule_scales_them_all(tmp_path: Path) -> None:
    module = small_module(adapt=ADAPT, optimizer={"lr": 1e-3, "warmup_steps": 0})
    trainer = small_trainer(tmp_path, max_steps=2, log_every_n_steps=1)
    trainer.fit(module, small_data(size=32))
    groups = trainer.optimizers[0].param_groups
    assert all(group["lr"] < 1e-6 * group["initial_lr"] for group in groups) and len(groups) > 6
    assert trainer.callback_metrics["train/learning_rate"] == pytest.approx(0, abs=1e-8)
