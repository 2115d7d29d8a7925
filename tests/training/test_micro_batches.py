"""Micro-batches: the gradient of the whole batch, also with dropout and with a subclass' own hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, arguments_of, small_data, small_module, small_trainer
from torch import Tensor

from lightning_clip import ClipModule, ClipOutput, InputError, PairBatch
from lightning_clip.training.micro_batches import encode_in_slices, take

_TRAINER = ("strategy", "devices", "gradient_clip_val", "precision", "max_steps")
OPTIMIZER = {"lr": 1e-2, "eps": 1e-2, "warmup_steps": 0}


def train(folder: Path, **arguments: Any) -> dict[str, Tensor]:
    """Weights after four steps from the same start."""
    trainer = {key: arguments.pop(key) for key in list(arguments) if key in _TRAINER}
    batch = arguments.pop("batch", 16)
    torch.manual_seed(0)
    module = arguments.pop("module", small_module)(optimizer=OPTIMIZER, **arguments)
    module.configure_model()
    small_trainer(folder, **trainer).fit(module, small_data(batch=batch))
    return module.state_dict()


def small_start() -> dict[str, Tensor]:
    """The weights from which `train` sets out."""
    torch.manual_seed(0)
    module = small_module(optimizer=OPTIMIZER)
    module.configure_model()
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        # Captions of another slice share other beginnings: sums are rounded in another order, and AdamW divides by small ones.
        assert (found[name] - value).double().norm() <= 2e-5 * value.double().norm(), name


class TestSameWeights:
    @pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
    def test_one_process(self, tmp_path: Path, loss: str) -> None:
        assert_same(train(tmp_path, loss=loss, micro_batch_size=4), train(tmp_path, loss=loss))

    def test_two_ranks(self, tmp_path: Path) -> None:
        ranks = {"strategy": "ddp_fork", "devices": 2, "batch": 8}
        assert_same(train(tmp_path, micro_batch_size=2, **ranks), train(tmp_path))

    def test_clipped_gradients(self, tmp_path: Path) -> None:
        assert_same(train(tmp_path, micro_batch_size=4, gradient_clip_val=0.1), train(tmp_path, gradient_clip_val=0.1))

    def test_mixed_precision(self, tmp_path: Path) -> None:
        """Autocast is on again when a slice is computed again; two steps, since bfloat16 is slow on a CPU."""
        settings = {"precision": "bf16-mixed", "max_steps": 2}
        found, expected = train(tmp_path, micro_batch_size=4, **settings), train(tmp_path, **settings)
        start = small_start()
        for name, value in expected.items():
            moved = (value - start[name]).double().norm()
            # Sums of a slice are rounded to bfloat16 (2^-8) before they are added up, and AdamW divides by small ones.
            assert (found[name] - value).double().norm() <= 3e-2 * moved + 1e-9, name

    def test_hooks_of_a_subclass(self, tmp_path: Path) -> None:
        class Mine(ClipModule):
            def __init__(self, **arguments: Any) -> None:
                super().__init__(IMAGE, TEXT, embed_dim=16, **arguments_of(**arguments))

            def encode(self, batch: PairBatch) -> ClipOutput:
                output = super().encode(batch)
                assert output.image_features is not None and len(batch.captions) == len(batch.image)
                turned = torch.nn.functional.normalize(output.image_features.roll(1, dims=1) + 0.1, dim=-1)
                return output._replace(features={**output.features, "image": turned})

        assert_same(train(tmp_path, module=Mine, micro_batch_size=4), train(tmp_path, module=Mine))


def test_dropout_is_drawn_alike_when_a_slice_is_computed_again(tmp_path: Path) -> None:
    """With dropout and patch dropout the gradient is that of the forward pass that made the loss."""
    image = {**IMAGE, "patch_size": 8, "patch_drop_rate": 0.5, "proj_drop_rate": 0.3}
    torch.manual_seed(0)
    module = small_module(image_encoder=image, micro_batch_size=4)
    module.configure_model()
    batch = next(iter(small_data().attach(module).train_dataloader()))
    gradients = []
    for encode in ("again", "kept"):
        module.zero_grad()
        torch.manual_seed(7)
        if encode == "again":
            output = encode_in_slices(module.encode, batch, 4)
        else:
            order = torch.tensor(batch.lengths).argsort(stable=True)
            parts = [module.encode(take(batch, rows)) for rows in order.split(4)]
            columns = {column: torch.cat([part.features[column] for part in parts]) for column in ("image", "text")}
            output = ClipOutput({column: value[order.argsort()] for column, value in columns.items()}, parts[0].scale)
        module.compute_loss(output, batch)["loss"].backward()
        gradients.append([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    for again, kept in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-8)


def test_slices_keep_what_belongs_together() -> None:
    module = small_module()
    batch = next(iter(small_data().attach(module).train_dataloader()))
    part = take(batch, torch.tensor([3, 1, 7]))
    assert part.keys == [batch.keys[3], batch.keys[1], batch.keys[7]] and part.captions[2] == batch.captions[7]
    assert torch.equal(part.tokens[1], batch.tokens[1]) and torch.equal(part.image[0], batch.image[3])
    assert batch.lengths is not None and part.lengths == [batch.lengths[place] for place in (3, 1, 7)]


def test_slices_hold_captions_of_like_length() -> None:
    module = small_module()
    batch = next(iter(small_data().attach(module).train_dataloader()))
    seen: list[list[int]] = []

    def encode(part: PairBatch) -> ClipOutput:
        seen.append(part.lengths or [])
        return module.encode(part)

    output = encode_in_slices(encode, batch, 5)
    assert [length for part in seen for length in part] == sorted(batch.lengths or []) and [*map(len, seen)] == [5, 5, 5, 1]
    torch.testing.assert_close(output.text_features, module.encode(batch).text_features)
    torch.testing.assert_close(output.image_features, module.encode(batch).image_features)


class Rows(ClipModule):
    """Hands out more than features for each row, of several kinds and orders."""

    def encode(self, batch: PairBatch) -> ClipOutput:
        output = super().encode(batch)
        images = output.features["image"]
        rows = {"index": batch.index, "score": images.sum(dim=1), "more": {"twice": 2 * images, "text": output.text_features}}
        return output._replace(rows=rows)


class TestRows:
    def module(self) -> Rows:
        torch.manual_seed(0)
        return Rows(IMAGE, TEXT, embed_dim=16, tokenizer={"name": "clip", "context_length": 24})

    @pytest.mark.parametrize("size", [1, 4, 5])
    def test_are_put_together_in_the_order_of_the_batch(self, size: int) -> None:
        module = self.module()
        batch = next(iter(small_data().attach(module).train_dataloader()))
        assert (batch.lengths or []) != sorted(batch.lengths or [])  # slices are not in the batch's order
        found, whole = encode_in_slices(module.encode, batch, size), module.encode(batch)
        assert torch.equal(found.rows["index"], batch.index)
        for one, other in ((found.rows, whole.rows), (found.rows["more"], whole.rows["more"])):
            for name in ("score", "twice", "text"):
                if name in other:
                    torch.testing.assert_close(one[name], other[name])
        assert set(found.rows) == {"index", "score", "more"} and set(found.rows["more"]) == {"twice", "text"}

    def test_their_gradient_is_that_of_the_batch(self) -> None:
        module = self.module()
        batch = next(iter(small_data().attach(module).train_dataloader()))
        gradients = []
        for size in (4, 16):
            module.zero_grad()
            rows = encode_in_slices(module.encode, batch, size).rows
            (rows["score"].square().sum() + (rows["more"]["twice"] * rows["more"]["text"]).sum()).backward()
            gradients.append({name: value.grad for name, value in module.named_parameters() if value.grad is not None})
        assert_same(*gradients)  # type: ignore[arg-type]

    def test_reach_the_loss_of_a_fit(self, tmp_path: Path) -> None:
        seen: list[list[int]] = []

        class Watch(Rows):
            def compute_loss(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
                seen.append(output.rows["index"].tolist())
                assert seen[-1] == batch.index.tolist()
                return super().compute_loss(output, batch)

        settings = {"optimizer": OPTIMIZER, "micro_batch_size": 4}
        small_trainer(tmp_path, max_steps=2).fit(Watch(IMAGE, TEXT, embed_dim=16, training=settings), small_data())
        assert len(seen) >= 2 and sorted(map(len, seen)) == [16] * len(seen)


class TestRefused:
    def test_a_size_that_does_not_divide(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="micro_batch_size 6 does not divide local_batch_size 16: take 4, or another"):
            train(tmp_path, micro_batch_size=6)

    def test_batch_normalisation(self, tmp_path: Path) -> None:
        tower = {"name": "resnet10t", "image_size": 32, "channels": [16, 16, 16, 16], "stem_width": 8}
        with pytest.raises(InputError, match=r"micro_batch_size 4 with batch normalisation \(\d+ layers, the first 'image_enc"):
            train(tmp_path, image_encoder=tower, micro_batch_size=4)

    def test_frozen_batch_normalisation_is_welcome(self, tmp_path: Path) -> None:
        class Frozen(ClipModule):
            def __init__(self, **arguments: Any) -> None:
                tower = {"name": "resnet10t", "image_size": 32, "channels": [16, 16, 16, 16], "stem_width": 8}
                super().__init__(tower, TEXT, embed_dim=16, **arguments_of(**arguments))

            def on_train_start(self) -> None:
                self.model.image_encoder.eval()
                super().on_train_start()

        assert_same(train(tmp_path, module=Frozen, micro_batch_size=4), train(tmp_path, module=Frozen))

    def test_nonsense(self) -> None:
        with pytest.raises(InputError, match="micro_batch_size 0 must be at least 1"):
            small_module(micro_batch_size=0)
