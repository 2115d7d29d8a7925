"""A module is usable as soon as it is made: weights, copies, files, forward; loggers see what it is made of."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from torch import nn

from lightning_clip import ClipModule, InputError, PairBatch
from lightning_clip.core.types import KeptFeatures

TEXTS = ["a red circle", "two blue squares and a star"]


def batch_of(module: ClipModule) -> PairBatch:
    batch: PairBatch = next(iter(small_data().attach(module).train_dataloader()))
    return batch


class TestAtOnce:
    @pytest.mark.parametrize(
        "ask",
        [
            lambda module: list(module.parameters()),
            lambda module: module.state_dict(),
            lambda module: module.model,
            lambda module: module.double(),
            lambda module: module.requires_grad_(False),
            lambda module: list(module.modules())[1:],
            lambda module: module.encode_text("a dog"),
            repr,
        ],
        ids=["parameters", "state_dict", "model", "double", "requires_grad_", "modules", "encode_text", "repr"],
    )
    def test_whoever_asks_finds_the_towers(self, ask: Any) -> None:
        module = small_module()
        assert not module.is_built
        ask(module)
        assert module.is_built and sum(value.numel() for value in module.parameters()) > 1_000_000

    def test_what_is_asked_comes_back_whole(self) -> None:
        """The first answer is that of a module that was built before, not that of an empty one."""
        names = {name for name, _ in small_module().named_parameters()}
        built = small_module()
        built.configure_model()
        assert names == {name for name, _ in built.named_parameters()} and len(names) > 20
        assert set(small_module().state_dict()) == set(built.state_dict())
        assert "image_encoder" in repr(small_module()) and "text_projection" in repr(small_module())
        assert next(small_module().double().parameters()).dtype == torch.float64
        frozen = small_module().requires_grad_(False)
        assert not any(value.requires_grad for value in frozen.parameters())

    def test_weights_are_loaded_into_it(self) -> None:
        first, second = small_module(), small_module()
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.encode_text(TEXTS), second.encode_text(TEXTS))

    def test_weights_of_another_module_are_refused(self) -> None:
        with pytest.raises(RuntimeError, match="size mismatch for model.image_projection.weight"):
            small_module().load_state_dict(small_module(embed_dim=8).state_dict())

    def test_settings_do_not_build_it(self) -> None:
        module = small_module()
        assert module.embed_dim == 16 and module.tokenizer.context_length == 24 and module.hparams["embed_dim"] == 16
        assert module.transform_settings.resize == "crop" and module.micro_batch_size is None
        module.train().eval()
        assert not module.is_built

    def test_towers_come_from_the_seed_of_the_first_use(self) -> None:
        made = small_module()
        torch.manual_seed(5)
        first = made.encode_text(TEXTS)
        torch.manual_seed(5)
        assert torch.equal(small_module().encode_text(TEXTS), first)

    def test_on_the_meta_device(self) -> None:
        module = small_module()
        with torch.device("meta"):
            module.configure_model()
        assert all(value.is_meta for value in module.parameters())

    def test_an_optimizer_of_ones_own(self) -> None:
        """A training loop without a Trainer."""
        module = small_module()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        batch, losses = batch_of(module), []
        for _ in range(3):
            optimizer.zero_grad()
            loss = module.compute_loss(module(batch), batch)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]


class TestCopies:
    @pytest.mark.parametrize("protocol", [2, 5])
    @pytest.mark.parametrize("built", [True, False], ids=["built", "not built"])
    def test_saved_whole(self, built: bool, protocol: int) -> None:
        module = small_module(execution={"channels_last": True}, adapt={"image": {"lock": True}})
        if built:
            module.configure_model()
        file = io.BytesIO()
        torch.save(module, file, pickle_protocol=protocol)
        if not built:
            torch.manual_seed(3)
        expected = module.encode_text(TEXTS)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        if not built:
            torch.manual_seed(3)
        assert torch.equal(again.encode_text(TEXTS), expected) and again.to_mapping() == module.to_mapping()

    @pytest.mark.parametrize("protocol", [2, 5])
    def test_model_alone(self, protocol: int, tmp_path: Path) -> None:
        module = small_module(image_encoder={"name": "resnet10t", "image_size": 32}, execution={"channels_last": True})
        torch.save(module.model, tmp_path / "model.pt", pickle_protocol=protocol)
        again = torch.load(tmp_path / "model.pt", weights_only=False)
        image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        assert torch.equal(again.eval().encode_image(image), module.eval().model.encode_image(image))

    def test_after_a_fit(self, tmp_path: Path) -> None:
        module = small_module()
        small_trainer(tmp_path, max_steps=2).fit(module, small_data())
        torch.save(module, tmp_path / "module.pt", pickle_protocol=2)
        again = torch.load(tmp_path / "module.pt", weights_only=False)
        assert torch.equal(again.encode_text(TEXTS), module.encode_text(TEXTS))

    def test_deep_copy(self) -> None:
        module = small_module()
        again = copy.deepcopy(module)
        assert not again.is_built  # nor does copying build anything
        expected = module.encode_text(TEXTS)
        again = copy.deepcopy(module)
        with torch.no_grad():
            next(iter(module.parameters())).zero_()
            module.model.text_projection.weight.zero_()  # type: ignore[operator]
        assert torch.equal(again.encode_text(TEXTS), expected)


class TestForward:
    def test_a_batch_and_its_parts(self) -> None:
        module = small_module()
        batch = batch_of(module)
        whole = module(batch)
        parts = module(batch.image, batch.tokens, batch.mask)
        for column in ("image", "text"):
            torch.testing.assert_close(whole.features[column], parts.features[column])
        assert whole.image_features.requires_grad and torch.equal(whole.scale, parts.scale)
        by_name = module(image=batch.image, tokens=batch.tokens, mask=batch.mask)
        assert torch.equal(by_name.image_features, parts.image_features)

    def test_one_column(self) -> None:
        module = small_module()
        batch = batch_of(module)
        assert set(module(batch.image).features) == {"image"} and module(batch.image).text_features is None
        texts = module(None, batch.tokens, batch.mask)
        assert set(texts.features) == {"text"} and texts.image_features is None

    def test_it_calls_what_a_subclass_made_of_encode(self) -> None:
        class Mine(ClipModule):
            def encode(self, batch: PairBatch) -> Any:
                return super().encode(batch)._replace(rows={"keys": torch.arange(batch.size)})

        module = Mine(IMAGE, TEXT, embed_dim=16, tokenizer={"name": "clip", "context_length": 24})
        assert module(batch_of(module)).rows["keys"].tolist() == list(range(16))

    def test_kept_features_are_told_from_pixels_by_their_type(self) -> None:
        module = small_module()
        batch = batch_of(module)
        features = module.model.image_backbone(batch.image)
        kept = module(batch._replace(image=KeptFeatures(features)))
        torch.testing.assert_close(kept.image_features, module(batch).image_features)


class TestRecorded:
    def test_what_the_module_is_made_of(self) -> None:
        module = small_module(loss="sigmoid", micro_batch_size=8)
        recorded = dict(module.hparams)
        assert recorded["image_tower"] == "vit_tiny_patch16_224" and recorded["text_tower"] == "clip_text"
        assert recorded["embed_dim"] == 16 and "sigmoid" in recorded["objective"]
        assert recorded["lr"] == 1e-3 and recorded["weight_decay"] == 0.2 and recorded["micro_batch_size"] == 8

    def test_loggers_get_module_and_data(self, tmp_path: Path) -> None:
        logger = CSVLogger(tmp_path)
        small_trainer(tmp_path, max_steps=2, logger=logger).fit(small_module(), small_data(batch=32))
        logger.save()
        text = (Path(logger.log_dir) / "hparams.yaml").read_text()
        for line in ("image_tower: vit_tiny_patch16_224", "embed_dim: 16", "lr: 0.001", "local_batch_size: 32"):
            assert line in text, text

    def test_a_batch_size_that_was_changed(self, tmp_path: Path) -> None:
        data = small_data(batch=32)
        assert data.hparams["local_batch_size"] == 32
        data.local_batch_size = 8
        logger = CSVLogger(tmp_path)
        small_trainer(tmp_path, max_steps=2, logger=logger).fit(small_module(), data)
        logger.save()
        assert "local_batch_size: 8" in (Path(logger.log_dir) / "hparams.yaml").read_text()

    def test_a_checkpoint_holds_arguments_instead(self, tmp_path: Path) -> None:
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(small_module(), small_data())
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        content = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert content["hyper_parameters"] == trainer.lightning_module.to_mapping()
        assert not {"hparams_name", "hparams_type"} & set(content)


class TestOneTower:
    def test_no_text_tower(self) -> None:
        with pytest.raises(
            InputError, match=r"objective 'pairs' reads column 'text', but no tower was built for it: give towers"
        ):
            ClipModule(IMAGE, "none")

    def test_an_objective_that_reads_images_alone(self, tmp_path: Path) -> None:
        objective = {"name": "simclr", "temperature": 0.2}
        module = ClipModule(IMAGE, "none", objective=objective, embed_dim=16, towers={"image": {"transform": {"views": 2}}})
        assert module.model.columns == ("image", "view2") and module.tokenizer is None
        assert isinstance(module.model, nn.Module) and not any("text" in name for name in module.state_dict())
        small_trainer(tmp_path, max_steps=2).fit(module, small_data())

    def test_a_text_tower_that_nobody_reads_is_not_built(self) -> None:
        module = ClipModule(IMAGE, TEXT, objective={"name": "simclr"}, embed_dim=16)
        assert "text" not in module.model.columns

    def test_asking_for_a_tower_that_is_not_there(self) -> None:
        module = ClipModule(IMAGE, objective={"name": "simclr"}, embed_dim=16)
        with pytest.raises(InputError, match="no tower reads column 'text': those that were built read image, view2"):
            module.model.tower("text")
