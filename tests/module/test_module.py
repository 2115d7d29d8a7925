"""ClipModule: training, hooks, checkpoints in a fresh process, and every error a user may meet."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from torch import Tensor
from waiting import PATIENCE

from lightning_clip import ClipModule, ClipOutput, InputError, PairBatch, SoftmaxContrastiveLoss
from lightning_clip.encoders import ImageEncoder


def fit(tmp_path: Path, module: pl.LightningModule | None = None, **arguments: Any) -> tuple[Any, pl.Trainer]:
    torch.manual_seed(0)
    module = module or small_module()
    trainer = small_trainer(tmp_path, **arguments)
    trainer.fit(module, small_data())
    return module, trainer


class TestTraining:
    def test_loss_falls_on_scenes_it_has_seen(self, tmp_path: Path) -> None:
        losses: list[float] = []

        class Watch(pl.Callback):
            def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
                losses.append(outputs["loss"].item())

        torch.manual_seed(0)
        tower = {"name": "resnet10t", "image_size": 32, "channels": [16, 16, 32, 32], "stem_width": 8}
        module = small_module(image_encoder=tower, optimizer={"lr": 3e-3, "warmup_steps": 2})
        small_trainer(tmp_path, max_steps=60, callbacks=[Watch()]).fit(module, small_data(size=16))
        assert sum(losses[-4:]) / 4 < 0.75 * math.log(16)  # of guessing

    def test_same_seed_same_weights_with_any_number_of_workers(self, tmp_path: Path) -> None:
        states = []
        for workers in (0, 2):
            torch.manual_seed(3)
            module = small_module(transform={"crop_scale": [0.3, 1.0], "flip": 0.5})
            small_trainer(tmp_path).fit(module, small_data(num_workers=workers))
            states.append(module.state_dict())
        for key, value in states[0].items():
            torch.testing.assert_close(states[1][key], value, rtol=0, atol=0)

    def test_logged_values(self, tmp_path: Path) -> None:
        _module, trainer = fit(tmp_path, log_every_n_steps=1)
        found = trainer.callback_metrics
        assert {"train/loss", "train/scale", "train/learning_rate", "train/samples_per_second", "val/loss"} <= set(found)
        assert found["train/samples_per_second"] > 0

    def test_scale_is_clamped(self, tmp_path: Path) -> None:
        module = small_module(loss=SoftmaxContrastiveLoss(initial_scale=9.99, max_scale=10.0))
        module.configure_model()
        with torch.no_grad():
            module.model.logit_scale.fill_(5.0)
        fit(tmp_path, module, max_steps=2)
        assert module.model.logit_scale.item() <= math.log(10.0)

    def test_fixed_scale_stays(self, tmp_path: Path) -> None:
        module, _ = fit(tmp_path, small_module(loss={"name": "softmax", "initial_scale": 10.0, "learn_scale": False}))
        assert module.model.logit_scale.item() == pytest.approx(math.log(10.0))

    def test_sigmoid_learns_its_bias(self, tmp_path: Path) -> None:
        module, _ = fit(tmp_path, small_module(loss="sigmoid"))
        assert module.model.logit_bias.item() != -10.0

    def test_hooks_are_used(self, tmp_path: Path) -> None:
        calls: list[str] = []

        class Mine(ClipModule):
            def encode(self, batch: PairBatch) -> ClipOutput:
                calls.append("encode")
                return super().encode(batch)

            def compute_loss(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
                parts = super().compute_loss(output, batch)
                return {"loss": 2 * parts["loss"], "half": parts["loss"]}

            @staticmethod
            def choose_caption(pair: Any, rng: Any) -> str:
                return "always this"

        module = Mine(IMAGE, TEXT, embed_dim=16, training={"optimizer": {"warmup_steps": 0}})
        _, trainer = fit(tmp_path, module)
        assert calls and trainer.callback_metrics["val/loss"] == pytest.approx(2 * trainer.callback_metrics["val/half"].item())

    def test_two_ranks(self, tmp_path: Path) -> None:
        """Two forked ranks on half the batch each give the weights of one process on the whole."""
        # A large eps keeps Adam from blowing up gradients that are zero but for rounding (the bias of keys).
        torch.manual_seed(0)
        optimizer = {"lr": 1e-2, "eps": 1e-2, "warmup_steps": 0}
        one, two = small_module(optimizer=optimizer), small_module(optimizer=optimizer)
        one.configure_model()
        two.configure_model()
        two.load_state_dict(one.state_dict())
        small_trainer(tmp_path).fit(one, small_data(batch=16))
        trainer = small_trainer(tmp_path, strategy="ddp_fork", devices=2)
        trainer.fit(two, small_data(batch=8))
        for name, value in one.state_dict().items():
            torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-5, atol=2e-6)

    def test_two_ranks_with_a_hugging_face_tower(self, tmp_path: Path) -> None:
        """Its pooler gets no gradient, which DDP must not wait for."""
        settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        bert = {"name": "hf", "config": {"model_type": "bert", "vocab_size": 49408, **settings}}
        trainer = small_trainer(tmp_path, strategy="ddp_fork", devices=2)
        module = small_module(text_encoder=bert, optimizer={"lr": 1e-2, "warmup_steps": 0})
        module.configure_model()
        before = module.model.text_projection.weight.detach().clone()  # type: ignore[operator]
        trainer.fit(module, small_data(batch=8))
        assert not torch.equal(before, module.model.text_projection.weight)  # type: ignore[arg-type]


class TestUse:
    def test_images_of_every_kind(self) -> None:
        module = small_module()
        picture = Image.new("RGB", (40, 60), "red")
        one, several = module.encode_image(picture), module.encode_image([picture, picture])
        tensor = module.encode_image(torch.full((2, 3, 60, 40), 255, dtype=torch.uint8))
        assert one.shape == (1, 16) and several.shape == tensor.shape == (2, 16)
        torch.testing.assert_close(several[0], one[0])
        torch.testing.assert_close(tensor.norm(dim=-1), torch.ones(2))
        with pytest.raises(InputError, match="floats outside of 0 to 1: the model normalises pixels itself"):
            module.encode_image(torch.randn(3, 8, 8))

    def test_texts_and_tokens(self) -> None:
        module = small_module()
        texts = ["a red circle!", "a dog"]
        tokens, _ = module.tokenizer(texts)
        torch.testing.assert_close(module.encode_text(texts), module.encode_text(tokens))
        torch.testing.assert_close(module.encode_text("a dog")[0], module.encode_text(texts)[1])

    def test_encoding_leaves_the_modes_as_they_were(self) -> None:
        module = small_module(image_encoder={"name": "resnet10t", "image_size": 64})
        module.configure_model()
        module.train()
        module.model.text_encoder.eval()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        features = module.encode_image(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
        assert not features.requires_grad and module.model.image_encoder.training and not module.model.text_encoder.training
        for name, value in module.state_dict().items():  # BatchNorm did not move
            torch.testing.assert_close(value, before[name])

    def test_classifier(self) -> None:
        module = small_module()
        classifier = module.zero_shot_classifier(["cat", "dog", "bird"], ["a {}", "the {}"])
        assert classifier.shape == (16, 3)
        torch.testing.assert_close(classifier.norm(dim=0), torch.ones(3))

    def test_preset(self) -> None:
        with torch.device("meta"):
            module = ClipModule.from_preset("ViT-B/32", objective="sigmoid")
        assert module.embed_dim == 512 and module.objective.loss.initial_bias == -10.0


class TestCheckpoint:
    def test_restores_with_no_arguments(self, tmp_path: Path) -> None:
        settings = {"transform": {"mean": [0.1, 0.2, 0.3], "resize": "squash"}, "loss": {"name": "sigmoid"}}
        module, trainer = fit(tmp_path, small_module(**settings))
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
        images = torch.randint(0, 256, (2, 3, 50, 40), dtype=torch.uint8)
        torch.testing.assert_close(again.encode_image(images), module.encode_image(images))
        torch.testing.assert_close(again.encode_text(["a cat"]), module.encode_text(["a cat"]))
        assert again.to_mapping() == module.to_mapping() and not again.training

    def test_trained_tokenizer_travels_with_it(self, tmp_path: Path) -> None:
        from lightning_clip.data import train_tokenizer

        train_tokenizer(["一只狗", "一只猫"] * 5, 300).save(tmp_path / "tokenizer.json")
        module, trainer = fit(tmp_path, small_module(tokenizer={"name": str(tmp_path / "tokenizer.json")}))
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        (tmp_path / "tokenizer.json").unlink()
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        torch.testing.assert_close(again.encode_text(["一只猫"]), module.encode_text(["一只猫"]))

    @pytest.mark.slow
    def test_classifies_in_a_fresh_process(self, tmp_path: Path) -> None:
        _, trainer = fit(tmp_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
        command = [sys.executable, "-m", "lightning_clip", "classify", "red.png", "--labels", "red circle,blue square"]
        done = subprocess.run(
            [*command, "--checkpoint", "last.ckpt"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "red circle" in done.stdout and "%" in done.stdout

    @pytest.mark.parametrize("workers", [0, 1])
    def test_resumes_where_it_stopped(self, tmp_path: Path, workers: int) -> None:
        whole, _ = fit(tmp_path, max_steps=8)
        keep = pl.callbacks.ModelCheckpoint(tmp_path, "last")

        class Stop(pl.Callback):
            def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
                if trainer.current_epoch == 1:
                    raise KeyboardInterrupt

        with pytest.raises(SystemExit):
            # The learning rate falls over the whole run, so the first half must know its length.
            fit(tmp_path, max_steps=8, callbacks=[keep, Stop()], enable_checkpointing=True)
        second = small_module()
        data = small_data(num_workers=workers)
        small_trainer(tmp_path, max_steps=8).fit(second, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0)

    def test_live_objects_are_asked_for(self, tmp_path: Path) -> None:
        class Mine(ImageEncoder):
            def __init__(self) -> None:
                super().__init__(output_dim=3, image_size=32)

            def forward(self, image: Tensor) -> Tensor:
                return image.mean(dim=(2, 3))

        module, trainer = fit(tmp_path, small_module(image_encoder=Mine()))
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        with pytest.raises(InputError, match=r"live Mine as image_encoder.*load_from_checkpoint\(path, image_encoder=...\)"):
            ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", image_encoder=Mine())
        torch.testing.assert_close(again.encode_text(["a"]), module.encode_text(["a"]))

    def test_what_was_loaded_trains_in_training_mode(self, tmp_path: Path) -> None:
        _module, trainer = fit(tmp_path)
        trainer.save_checkpoint(path := tmp_path / "last.ckpt")
        lock = {"training": {"adapt": {"text": {"lock": True}}}}
        for loaded in (ClipModule.load_from_checkpoint(path, **lock), ClipModule.from_pretrained(str(path), **lock)):
            assert not any(layer.training for layer in loaded.modules())
            fit(tmp_path, loaded)
            assert loaded.training and loaded.model.image_encoder.training and not loaded.model.text_encoder.training

    def test_subclass_comes_back_as_itself(self, tmp_path: Path) -> None:
        from lightning_clip.variants import ConvirtModule

        _module, trainer = fit(tmp_path, ConvirtModule(IMAGE, TEXT, embed_dim=16))
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        assert type(again) is ConvirtModule and again.objective.loss.image_weight == 0.75


class TestCheckpointErrors:
    def test_missing(self, tmp_path: Path) -> None:
        (tmp_path / "last.ckpt").touch()
        with pytest.raises(InputError, match="checkpoint '.*lost.ckpt' does not exist.*did you mean 'last.ckpt'"):
            ClipModule.load_from_checkpoint(tmp_path / "lost.ckpt")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder: name the .ckpt file in it"):
            ClipModule.load_from_checkpoint(tmp_path)

    def test_truncated(self, tmp_path: Path) -> None:
        _, trainer = fit(tmp_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        data = (tmp_path / "last.ckpt").read_bytes()
        (tmp_path / "last.ckpt").write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match="is no complete checkpoint"):
            ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")

    def test_of_another_class(self, tmp_path: Path) -> None:
        from lightning.pytorch.demos.boring_classes import BoringModel

        trainer = small_trainer(tmp_path)
        trainer.strategy.connect(BoringModel())
        trainer.save_checkpoint(tmp_path / "other.ckpt", weights_only=True)
        with pytest.raises(InputError, match="was not written by ClipModule: give one written by `lightning-clip fit`"):
            ClipModule.load_from_checkpoint(tmp_path / "other.ckpt")

    def test_of_a_sibling(self, tmp_path: Path) -> None:
        from lightning_clip.variants import ConvirtModule

        _, trainer = fit(tmp_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        with pytest.raises(InputError, match="was written by lightning_clip.ClipModule, not by ConvirtModule"):
            ConvirtModule.load_from_checkpoint(tmp_path / "last.ckpt")

    def test_other_width(self, tmp_path: Path) -> None:
        _, trainer = fit(tmp_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        with pytest.raises(InputError, match="does not fit ClipModule: size mismatch for model.image_projection.weight"):
            ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", embed_dim=8)

    def test_arbitrary_pickle(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}, "thing": Path("x")}, tmp_path / "evil.ckpt")
        with pytest.raises(InputError, match="Python objects, or is no checkpoint: reading them may run code"):
            ClipModule.load_from_checkpoint(tmp_path / "evil.ckpt")


class TestLossesOfAnEvaluation:
    def test_are_means_over_samples(self, tmp_path: Path) -> None:
        """21 pairs in batches of 8, 8 and 5: each batch weighs as many pairs as it has."""
        module, data = small_module(), small_data(21, batch=8)
        (found,) = small_trainer(tmp_path).validate(module, data, verbose=False)
        module.eval()
        with torch.no_grad():
            batches = list(data.attach(module).val_dataloader())
            losses = [module.compute_loss(module.encode_batch(batch), batch)["loss"].double() for batch in batches]
        sizes = [batch.size for batch in batches]
        assert sizes == [8, 8, 5]
        expected = sum(size * float(loss) for size, loss in zip(sizes, losses, strict=True)) / 21
        assert found["val/loss"] == pytest.approx(expected, abs=1e-6)


class TestUntrained:
    def test_random_weights_are_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        module, trainer = small_module(), small_trainer(tmp_path)
        trainer.test(module, small_data(), verbose=False)
        assert "This model is untrained" in caplog.text

    def test_trained_or_loaded_weights_are_not(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        module, trainer = fit(tmp_path, limit_val_batches=1)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        others = [ClipModule.load_from_checkpoint(tmp_path / "last.ckpt"), small_module(), small_module()]
        others[1].load_state_dict(module.state_dict())
        for other, path in zip([module, *others], [None, None, None, tmp_path / "last.ckpt"], strict=True):
            small_trainer(tmp_path).validate(other, small_data(), ckpt_path=path, verbose=False)
        ClipModule(pretrained=str(tmp_path / "last.ckpt"))
        assert "untrained" not in caplog.text


class TestSettings:
    def test_tokenizer_larger_than_the_embedding(self) -> None:
        with pytest.raises(InputError, match="the tokenizer has 49408 ids but the text encoder embeds 100"):
            small_module(text_encoder={**TEXT, "vocab_size": 100}).configure_model()

    def test_context_longer_than_the_tower(self) -> None:
        module = small_module(text_encoder={**TEXT, "context_length": 16}, tokenizer="clip")
        with pytest.raises(InputError, match="context_length 77 exceeds the text encoder's 16"):
            module.configure_model()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"optimizer": {"lr": "fast"}}, "optimizer.lr 'fast' must be a number"),
            ({"optimizer": {"warmup_steps": 1.5}}, "optimizer.warmup_steps 1.5 must be a whole number or null"),
            ({"optimizer": {"betas": 0.9}}, "optimizer.betas 0.9 must be a list of 2 numbers"),
            ({"transform": {"augment": "no way"}}, "transform.augment 'no way' must be true or false"),
            ({"transform": {"mean": 0.5}}, "transform.mean 0.5 must be a list of numbers or null"),
            ({"transform": {"crop_scale": ["a", 1]}}, "transform.crop_scale .* must be a list of 2 numbers"),
            ({"transform": {"flip": True}}, "transform.flip True must be a number"),
            ({"transform": {"resize": 224}}, "transform.resize 224 must be text"),
            ({"execution": {"compile": "maybe"}}, "execution.compile 'maybe' must be true, false or auto"),
        ],
    )
    def test_values_of_another_kind(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            small_module(**given)

    def test_unknown_optimizer_and_transform_setting(self) -> None:
        with pytest.raises(InputError, match="optimizer has no setting 'learning_rate'.*Known: betas"):
            small_module(optimizer={"learning_rate": 1.0})
        with pytest.raises(InputError, match="transform has no setting 'crop_scales': did you mean 'crop_scale'"):
            small_module(transform={"crop_scales": 1.0})

    def test_batch_larger_than_the_data(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="a batch of 65 on each of 1 ranks needs 65 samples, but the data has 64"):
            small_trainer(tmp_path).fit(small_module(), small_data(batch=65))
