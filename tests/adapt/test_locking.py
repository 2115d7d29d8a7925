"""Locked towers: no gradient, no optimizer state, statistics that stay; opened by depth and by stage; resumed in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from corners import corners
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from strategies.ranks import OPTIMIZER, alone, fit
from torch import Tensor

from lightning_clip import ClipModule, InputError
from lightning_clip.planning.towers import fake_clip

DEEP = {**IMAGE, "depth": 3}
RESNET = {"name": "resnet10t", "image_size": 32, "channels": [8, 8, 16, 16], "stem_width": 8}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 49408,
}
TWO_STAGES = {"stages": [{"until_step": 2, "image": {"lock": True}}]}


def trained_names(module: ClipModule, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def fitted(folder: Path, **settings: Any) -> tuple[ClipModule, dict[str, Tensor], Any]:
    torch.manual_seed(0)
    steps = settings.pop("max_steps", 2)
    module = small_module(optimizer=OPTIMIZER, **settings)
    module.configure_model()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = small_trainer(folder, max_steps=steps)
    trainer.fit(module, small_data(size=32))
    return module, before, trainer


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 1e-4: the class token begins at 1e-6, and after two steps of Adam rounding is still to be seen in it."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name].double() - value.double()).norm() <= 1e-4 * value.double().norm(), name


class TestLocked:
    @pytest.mark.parametrize("image", [DEEP, RESNET], ids=["vit", "resnet"])
    def test_only_the_rest_is_trained(self, tmp_path: Path, image: dict[str, Any]) -> None:
        """The statistics of normalisation count as part of the tower."""
        module, before, trainer = fitted(tmp_path, image_encoder=image, adapt={"image": {"lock": True}})
        changed = trained_names(module, before)
        assert not any("image_encoder" in name for name in changed)
        assert {"model.image_projection.weight", "model.text_encoder.final_norm.weight", "model.logit_scale"} <= changed
        assert not module.model.image_encoder.training and module.model.text_encoder.training
        (optimizer,) = trainer.optimizers
        assert {id(parameter) for parameter in optimizer.state} == {
            id(value) for name, value in module.named_parameters() if "image_encoder" not in name
        }

    def test_with_its_head(self, tmp_path: Path) -> None:
        module, before, _ = fitted(tmp_path, adapt={"image": {"lock": True, "lock_projection": True}})
        assert not any("image" in name for name in trained_names(module, before))

    def test_a_text_tower(self, tmp_path: Path) -> None:
        text = {"name": "hf", "config": BERT}
        module, before, _ = fitted(tmp_path, text_encoder=text, adapt={"text": {"lock": True, "unlock_last": 1}})
        changed = {name for name in trained_names(module, before) if "text_encoder" in name}
        assert changed and all("layer.1." in name for name in changed)
        assert not module.model.text_encoder.model.embeddings.dropout.training  # type: ignore[union-attr,attr-defined]

    def test_train_leaves_it_still(self) -> None:
        module = small_module(image_encoder=RESNET, adapt={"image": {"lock": True}})
        module.configure_model()
        module.eval().train()
        assert not any(layer.training for layer in module.model.image_encoder.modules())
        assert module.model.image_projection.training

    def test_features_as_in_evaluation(self, tmp_path: Path) -> None:
        """Statistics and dropout are still: a training pass gives what encode_image gives."""
        module = small_module(image_encoder=RESNET, adapt={"image": {"lock": True}})
        module.configure_model()
        images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        assert torch.equal(module.model.encode_image(images).detach(), module.encode_image(images))


def test_what_a_user_freezes_by_hand_stays_so(tmp_path: Path) -> None:
    _, _, trainer = fitted(tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = small_module(optimizer=OPTIMIZER, micro_batch_size=8)
    again.configure_model()
    again.model.image_encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in again.model.image_encoder.state_dict().items()}
    small_trainer(tmp_path, max_steps=2).fit(again, small_data(size=32))
    again.on_load_checkpoint(torch.load(tmp_path / "last.ckpt", weights_only=True))
    assert not any(value.requires_grad for value in again.model.image_encoder.parameters())
    assert all(torch.equal(again.model.image_encoder.state_dict()[name], value) for name, value in before.items())


class TestOpenedByDepth:
    def test_last_blocks_and_what_follows(self, tmp_path: Path) -> None:
        module, before, _ = fitted(tmp_path, image_encoder=DEEP, adapt={"image": {"lock": True, "unlock_last": 2}})
        changed = {name for name in trained_names(module, before) if "image_encoder" in name}
        assert {name.split(".")[4] if "blocks" in name else name.split(".")[3] for name in changed} == {"1", "2", "norm"}

    def test_all_blocks_but_not_the_stem(self) -> None:
        module = small_module(image_encoder=DEEP, adapt={"image": {"lock": True, "unlock_last": 3}})
        module.configure_model()
        still = {name for name, value in module.model.image_encoder.named_parameters() if not value.requires_grad}
        assert still == {"model.cls_token", "model.pos_embed", "model.patch_embed.proj.weight", "model.patch_embed.proj.bias"}

    def test_more_than_there_are(self) -> None:
        module = small_module(adapt={"image": {"lock": True, "unlock_last": 2}})
        with pytest.raises(InputError, match=r"adapt.image.unlock_last 2 is more than the 1 blocks of the image tower: use at"):
            module.configure_model()

    def test_nothing_left(self) -> None:
        both = {tower: {"lock": True, "lock_projection": True} for tower in ("image", "text")}
        with pytest.raises(InputError, match="adapt locks all towers with their heads: nothing but the temperature"):
            small_module(adapt=both).configure_model()


class TestStages:
    def test_first_locked_then_trained(self, tmp_path: Path) -> None:
        first, before, _ = fitted(tmp_path, adapt=TWO_STAGES, max_steps=2)
        assert not any("image_encoder" in name for name in trained_names(first, before))
        whole, _, _ = fitted(tmp_path, adapt=TWO_STAGES, max_steps=4)
        changed = trained_names(whole, before)
        assert {name for name in before if "image_encoder" in name} <= changed
        assert whole.model.image_encoder.training

    def test_by_epoch(self, tmp_path: Path) -> None:
        stages = {"stages": [{"until_epoch": 1, "image": {"lock": True}}]}
        module, before, _ = fitted(tmp_path, adapt=stages, max_steps=2)
        assert not any("image_encoder" in name for name in trained_names(module, before))
        module, before, _ = fitted(tmp_path, adapt=stages, max_steps=3)
        assert any("image_encoder" in name for name in trained_names(module, before))

    def test_locked_later_loses_its_state(self, tmp_path: Path) -> None:
        later = {"image": {"lock": True}, "stages": [{"until_step": 2, "image": {"lock": False}}]}
        module, before, trainer = fitted(tmp_path, adapt=later, max_steps=4)
        assert any("image_encoder" in name for name in trained_names(module, before))
        states = {id(parameter) for parameter in trainer.optimizers[0].state}
        assert not states & {id(value) for value in module.model.image_encoder.parameters()}
        assert not module.model.image_encoder.training

    @pytest.mark.parametrize("stop", corners([1, 2, 3], 2))
    def test_resumes(self, tmp_path: Path, stop: int) -> None:
        """In the first stage, at its end and in the second: bit for bit what the whole run gives."""
        whole, _, _ = fitted(tmp_path, adapt=TWO_STAGES, max_steps=4)
        _, _, trainer = fitted(tmp_path, adapt=TWO_STAGES, max_steps=stop)
        trainer.save_checkpoint(tmp_path / "half.ckpt")
        torch.manual_seed(9)
        again = small_module(optimizer=OPTIMIZER, adapt=TWO_STAGES)
        small_trainer(tmp_path, max_steps=4).fit(
            again, small_data(size=32), ckpt_path=tmp_path / "half.ckpt", weights_only=True
        )
        for name, value in whole.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name

    @pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"], "ddp"))
    def test_on_ranks(self, tmp_path: Path, strategy: str) -> None:
        assert_near(fit(tmp_path, strategy=strategy, adapt=TWO_STAGES)["weights"], alone(tmp_path, adapt=TWO_STAGES))

    @pytest.mark.parametrize("stop", corners([1, 2, 3], 1))
    @pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"], "clip_fsdp2"))
    def test_resumes_on_ranks_from_one_process(self, tmp_path: Path, strategy: str, stop: int) -> None:
        """With rates by depth besides: many groups, and the optimizer's state finds its parameters."""
        adapt = {**TWO_STAGES, "image": {"lr": 2e-3, "layer_decay": 0.5}, "text": {"weight_decay": 0.0}}
        whole = alone(tmp_path, adapt=adapt)
        torch.manual_seed(0)
        module, trainer = small_module(optimizer=OPTIMIZER, adapt=adapt), small_trainer(tmp_path, max_steps=stop)
        trainer.fit(module, small_data(size=32, batch=16))
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        assert_near(fit(tmp_path, strategy=strategy, adapt=adapt, resume=tmp_path / "one.ckpt", seed=5)["weights"], whole)

    def test_micro_batches_are_checked_before_the_tower_is_opened(self, tmp_path: Path) -> None:
        """A locked tower's normalisation does not see slices; an open one's would."""
        settings: dict[str, Any] = {"image_encoder": RESNET, "micro_batch_size": 8}
        fitted(tmp_path, adapt={"image": {"lock": True}}, **settings)
        with pytest.raises(InputError, match="micro_batch_size 8 with batch normalisation"):
            fitted(tmp_path, adapt=TWO_STAGES, **settings)

    def test_unknown_to_deepspeed(self) -> None:
        from lightning.pytorch.strategies import DeepSpeedStrategy

        from lightning_clip.adapt import Adaptation, AdaptSettings

        strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
        module = small_module()
        module.configure_model()
        with pytest.raises(InputError, match="adapt.stages cannot change what DeepSpeed trains"):
            Adaptation(module.model, AdaptSettings.of(TWO_STAGES), strategy)


@pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"]))  # quicker: TestStages
def test_locks_on_ranks(tmp_path: Path, strategy: str) -> None:
    adapt = {"image": {"lock": True}, "text": {"lock": True, "unlock_last": 1}}
    settings: dict[str, Any] = {"adapt": adapt, "text_encoder": {**TEXT, "layers": 2}, "micro_batch_size": 4}
    assert_near(fit(tmp_path, strategy=strategy, **settings)["weights"], alone(tmp_path, **settings))


def test_a_plan_is_of_the_stage_that_trains_most() -> None:
    def gradients(adapt: Any) -> int:
        fake = fake_clip(small_module(adapt=adapt))
        return sum(weight.numel() for weight in fake.model.parameters() if weight.requires_grad)

    assert gradients(TWO_STAGES) == gradients(None) > gradients({"image": {"lock": True}})


def test_a_checkpoint_knows_its_settings(tmp_path: Path) -> None:
    _, _, trainer = fitted(tmp_path, adapt=TWO_STAGES)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.training_settings.adapt.to_mapping()["stages"][0]["until_step"] == 2  # type: ignore[index]
