"""Heads and contrastive fine-tuning on labels: where they begin, what learns, what a checkpoint holds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from reference import loops
from small import IMAGE, TEXT, small_trainer
from tasks.labelled import GIVEN, NAMES, fit, labelled_data, module_of
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip import ClipDataModule, ClipModule, InputError, PairBatch
from lightning_clip.core.types import ClipOutput, Pair
from lightning_clip.data import FewShotSource
from lightning_clip.data.synthetic import combination_names
from lightning_clip.tasks import ClassifierModule, FlypModule, SupervisedModule

PICTURES = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def batch_of(label: list[int], tokens: Tensor) -> PairBatch:
    count = len(label)
    return PairBatch(
        PICTURES[:count], tokens, tokens > 0, torch.tensor(label), torch.arange(count), [()] * count, ["key"] * count, []
    )


def output_of(count: int) -> ClipOutput:
    return ClipOutput({"image": torch.zeros(count, 16)}, torch.ones(1), rows={"logits": torch.zeros(count, 3)})


class TestClassifier:
    def test_begins_as_the_zero_shot_classifier(self) -> None:
        module = module_of(ClassifierModule, class_names=NAMES, templates=["a {}", "the {}"]).eval()
        expected = module.model.scale() * module.encode_image(PICTURES) @ module.zero_shot_classifier(NAMES, ["a {}", "the {}"])
        assert torch.equal(module.score_classes(PICTURES), expected)

    def test_first_loss_is_that_of_the_zero_shot_classifier(self, tmp_path: Path) -> None:
        module = module_of(ClassifierModule)
        data = labelled_data(batch=16).attach(module)
        trainer = small_trainer(tmp_path, max_steps=1, limit_val_batches=0)
        start = copy.deepcopy(module.eval())
        trainer.fit(module, data)
        start.classes.class_names = module.class_names
        source = data.source("train")
        images = torch.stack([start.image_transform(False)(source[row].image) for row in range(16)])
        label = torch.tensor([source.label(row) for row in range(16)])
        expected = torch.nn.functional.cross_entropy(start.score_classes(images), label)
        assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_learns_and_a_checkpoint_is_enough(self, tmp_path: Path) -> None:
        module = module_of(ClassifierModule)
        before = copy.deepcopy(module.state_dict())
        trainer = fit(module, tmp_path, steps=4)
        assert "val/classification/top1" in trainer.callback_metrics
        changed = {key.split(".")[1] for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
        assert changed == {"image_encoder", "image_projection", "classes"}
        trainer.save_checkpoint(tmp_path / "head.ckpt")
        again = ClassifierModule.load_from_checkpoint(tmp_path / "head.ckpt")
        assert again.class_names == module.class_names and len(again.class_names) == 8
        assert torch.equal(again.score_classes(PICTURES), module.eval().score_classes(PICTURES))

    def test_head_alone(self, tmp_path: Path) -> None:
        module = module_of(ClassifierModule, head_only=True)
        before = copy.deepcopy(module.state_dict())
        fit(module, tmp_path)
        changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
        assert changed == {"model.classes.weight", "model.classes.started"}
        assert not module.train().model.image_encoder.training

    def test_micro_batches_and_ranks_change_nothing(self, tmp_path: Path) -> None:
        def weights(**arguments: Any) -> dict[str, Tensor]:
            batch, ranks = arguments.pop("batch", 16), arguments.pop("ranks", {})
            module = module_of(ClassifierModule, optimizer={"lr": 1e-2, "eps": 1e-2, "warmup_steps": 0}, **arguments)
            fit(module, tmp_path, data=labelled_data(batch=batch), limit_val_batches=0, **ranks)
            return module.state_dict()

        expected = weights()
        for found in (weights(micro_batch_size=4), weights(batch=8, ranks={"strategy": "ddp_fork", "devices": 2})):
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)

    def test_goes_on_from_a_checkpoint(self, tmp_path: Path) -> None:
        """The head is not made anew from words."""
        module = module_of(ClassifierModule)
        fit(module, tmp_path, steps=2).save_checkpoint(tmp_path / "two.ckpt")
        resumed = module_of(ClassifierModule, optimizer={"lr": 1e-3, "warmup_steps": 0, "on_resume": "given"})
        small_trainer(tmp_path, max_steps=3).fit(resumed, labelled_data(), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
        words = resumed.zero_shot_classifier(resumed.class_names).T
        learned = module.model.classes.weight
        assert (resumed.model.classes.weight - learned).norm() < 0.1 * (learned - words).norm() + 0.01


def class_folders(root: Path, names: Sequence[str] = ("ant", "bee", "cat")) -> str:
    """One folder a class, without captions."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (number * 90, 20, 90)).save(root / name / "0.png")
    return str(root)


@pytest.mark.parametrize("kind", [ClassifierModule, FlypModule])
def test_images_with_labels_need_no_captions(kind: type[ClipModule], tmp_path: Path) -> None:
    data = ClipDataModule(class_folders(tmp_path / "train"), class_folders(tmp_path / "val"), local_batch_size=3)
    found = fit(kind(IMAGE, TEXT, **GIVEN), tmp_path, data=data).callback_metrics
    assert "train/loss" in found and ("val/classification/top1" in found) == (kind is ClassifierModule)


class TestErrors:
    def test_no_names(self) -> None:
        with pytest.raises(InputError, match="ClassifierHead has 0 class names and its training data knows no others"):
            module_of(ClassifierModule, class_names=None)

    @pytest.mark.parametrize(
        ("val", "names", "message"),
        [
            (["ant", "cat"], None, r"the val data stand for 2 classes \(ant, cat\), but 3 classes"),
            (["ant", "bee", "cat"], ["cat", "bee", "ant"], r"the train data .* 3 classes \(cat, bee, ant\) are learned"),
            (["ant", "bee", "cat"], ["an ant", "a bee"], r"the train data .* 2 classes \(an ant, a bee\) are learned"),
        ],
    )
    def test_labels_that_stand_for_other_classes(
        self, tmp_path: Path, val: list[str], names: list[str] | None, message: str
    ) -> None:
        """A split that lacks a class counts the rest anew."""
        data = ClipDataModule(class_folders(tmp_path / "train"), class_folders(tmp_path / "val", val), local_batch_size=3)
        with pytest.raises(InputError, match=message):
            fit(ClassifierModule(IMAGE, TEXT, **GIVEN, class_names=names), tmp_path, data=data)

    def test_adapters_of_a_tower_that_is_not_read(self) -> None:
        with pytest.raises(
            InputError,
            match=r"adapt.text.lora would never be learned: objective ClassifierHead runs the text tower only before",
        ):
            module_of(ClassifierModule, adapt={"text": {"lora": {"rank": 2}}})

    def test_no_labels(self, tmp_path: Path) -> None:
        tokens = torch.ones(2, 8, dtype=torch.long)
        module = module_of(ClassifierModule, class_names=NAMES)
        with pytest.raises(InputError, match="image 'key' has no label, but 3 classes are learned"):
            module.compute_loss(output_of(2), batch_of([0, -1], tokens))

    def test_a_label_too_many(self) -> None:
        tokens = torch.ones(1, 8, dtype=torch.long)
        module = module_of(ClassifierModule, class_names=NAMES)
        with pytest.raises(InputError, match="image 'key' has label 3, but 3 classes are learned"):
            module.compute_loss(output_of(1), batch_of([3], tokens))

    def test_smoothing(self) -> None:
        with pytest.raises(InputError, match=r"label_smoothing 1.0 must be in \[0, 1\)"):
            module_of(ClassifierModule, class_names=NAMES, label_smoothing=1.0)


class TestFlyp:
    def test_loss_is_the_reference_with_several_positives(self) -> None:
        """Two of a class under different sentences, two without label that share a caption, one alone."""
        module = module_of(FlypModule)
        label = [0, 0, 1, -1, -1, 0]
        tokens = torch.tensor([[5, 1], [6, 1], [7, 1], [8, 1], [8, 1], [6, 1]])
        positives = [{0, 1, 5}, {0, 1, 5}, {2}, {3, 4}, {3, 4}, {0, 1, 5}]
        generator = torch.Generator().manual_seed(0)
        image, text = (normalize(torch.randn(6, 16, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
        output = ClipOutput({"image": image, "text": text}, torch.tensor([9.0], dtype=torch.float64))
        found = module.compute_loss(output, batch_of(label, tokens))["loss"]
        expected = loops.softmax_loss_with_positives(image.numpy(), text.numpy(), 9.0, positives)
        assert found.item() == pytest.approx(expected, rel=1e-12)

    def test_captions_are_sentences_with_the_class(self) -> None:
        import random

        assert FlypModule.choose_caption(Pair(b"", (), "1", 0, {"class_name": "sea_lion"}), random.Random(0)) == (
            "a photo of a sea lion."
        )
        assert FlypModule.choose_caption(Pair(b"", ("a seal",), "1", 0), random.Random(0)) == "a seal"

    def test_trains_and_loads(self, tmp_path: Path) -> None:
        module = module_of(FlypModule)
        trainer = fit(module, tmp_path)
        trainer.save_checkpoint(tmp_path / "flyp.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "flyp.ckpt")
        assert type(again) is FlypModule and again.objective.loss.duplicates
        assert torch.equal(again.encode_image(PICTURES), module.eval().encode_image(PICTURES))


def test_names_of_the_training_source(tmp_path: Path) -> None:
    module = ClassifierModule(IMAGE, TEXT, **GIVEN)
    fit(module, tmp_path, steps=1, limit_val_batches=0)
    assert module.class_names == combination_names(held_out=True)


def test_few_shots_are_what_is_trained_on(tmp_path: Path) -> None:
    data = labelled_data(shots=3)
    source = data.source("train")
    assert isinstance(source, FewShotSource) and len(source) == 24
    assert issubclass(ClassifierModule, SupervisedModule)
