"""Labels and teachers as objectives of a plain `ClipModule`: by name, beside others, from a user's own file."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import run_ranks
from small import IMAGE, TEXT, small_trainer
from tasks.labelled import GIVEN, NAMES, fit, labelled_data, module_of
from torch import Tensor, nn
from variants.senses import error_of, share

from lightning_clip import ClipDataModule, ClipModule, InputError, PairBatch
from lightning_clip.core.types import ClipOutput
from lightning_clip.data.synthetic import combination_names
from lightning_clip.merging.mixing import write_checkpoint
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import ContrastivePairs, WeightedSum, build_objective, objectives
from lightning_clip.strategies import ClipDeepSpeedStrategy
from lightning_clip.tasks import ClassifierHead, ClassifierModule, ClassObjective, CoopModule, Distillation, LearnedPrompts
from lightning_clip.tasks.supervised import with_settings

PICTURES = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
EIGHT = combination_names(held_out=True)
SCENES = {"name": "synthetic", "size": 24, "image_size": 32}


def plain(objective: Any, **arguments: Any) -> Any:
    """A small ClipModule, nothing more, with an objective."""
    torch.manual_seed(0)
    return ClipModule(IMAGE, TEXT, **{**GIVEN, "objective": objective, **arguments})


def batch_of(module: ClipModule, size: int = 12) -> PairBatch:
    """Captioned and labelled scenes."""
    found: PairBatch = next(iter(labelled_data(batch=size).attach(module).train_dataloader()))
    return found


class TestAlone:
    @pytest.mark.parametrize("name", ["classes", "coop", "clip_adapter", "tip_adapter"])
    def test_by_name(self, name: str, tmp_path: Path) -> None:
        """Names of the classes from the data; a checkpoint is read without arguments; evaluation asks what was learned."""
        module = plain(name)
        trainer = fit(module, tmp_path, data=labelled_data())
        assert {"train/loss", "val/loss", "val/classification/top1"} <= set(trainer.callback_metrics)
        assert module.objective.class_names == EIGHT
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
        assert type(again) is ClipModule and again.to_mapping() == module.to_mapping()
        learned = again.predictor.scorer(EIGHT)(PICTURES)
        assert torch.equal(learned, module.eval().objective.scores(module.predictor, PICTURES))
        words = again.predictor.similarity(EIGHT)(PICTURES)
        assert not torch.equal(learned, words)
        assert torch.equal(again.predictor.scorer(EIGHT[::-1])(PICTURES), words.flip(1))

    @pytest.mark.slow
    def test_names_are_known_without_an_import(self) -> None:
        """In a process that imports `ClipModule` and nothing of this room."""
        script = (
            "import sys; from lightning_clip import ClipModule; assert 'lightning_clip.tasks' not in sys.modules; "
            "found = ClipModule(objective={'name': 'coop', 'class_names': ['a', 'b']}).objective; "
            "print(type(found).__name__, type(ClipModule(objective='distillation').objective).__name__)"
        )
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert found.stdout.split() == ["LearnedPrompts", "Distillation"]

    def test_teachers_alone(self, tmp_path: Path) -> None:
        """Nothing is scored in evaluation, and the temperature learns."""
        module = plain({"name": "distillation", "teachers": module_of(ClipModule, embed_dim=8)})
        before = copy.deepcopy(module.state_dict())
        metrics = fit(module, tmp_path, 3, ClipDataModule(SCENES, SCENES, local_batch_size=8)).callback_metrics
        assert "train/logits" in metrics and "val/loss" not in metrics
        assert not torch.equal(module.state_dict()["model.logit_scale"], before["model.logit_scale"])

    def test_only_features_leave_the_temperature_alone(self) -> None:
        module = plain({"name": "distillation", "teachers": "stored", "logits": 0.0, "features": 1.0, "teacher_dims": [8]})
        frozen = {name for name, parameter in module.model.named_parameters() if not parameter.requires_grad}
        assert frozen == {"logit_scale"} and module.model.bridges["image_0"].weight.shape == (8, 16)

    def test_predicted_features_are_of_all_columns(self, tmp_path: Path) -> None:
        module = module_of(ClassifierModule)
        (batch, *_) = small_trainer(tmp_path).predict(module, labelled_data(test={**SCENES, "held_out": True}))
        torch.testing.assert_close(batch.text_features[:1], module.encode_text([first_caption()]))

    def test_a_step_reads_images_alone(self, tmp_path: Path) -> None:
        """No caption is chosen or encoded."""
        seen: list[PairBatch] = []

        class Watches(ClassifierModule):
            def encode(self, batch: PairBatch) -> ClipOutput:
                seen.append(batch)
                output = super().encode(batch)
                assert set(output.features) == {"image"}
                return output

        fit(module_of(Watches), tmp_path, steps=1)
        assert seen and all(batch.tokens is None and batch.image is not None for batch in seen)


def first_caption() -> str:
    return ClipDataModule({**SCENES, "held_out": True}).source("train")[0].captions[0]


class TestTogether:
    def both(self, teacher: Any = None, **weights: float) -> list[dict[str, Any]]:
        """Pairs with classes, or with a teacher."""
        second = {"name": "classes", "class_names": EIGHT}
        if teacher is not None:
            second = {"name": "distillation", "teachers": teacher, "features": 0.5}
        return [{"name": "pairs", "weight": weights.get("pairs", 0.5)}, {**second, "weight": weights.get("second", 2.0)}]

    def test_sum_of_both(self) -> None:
        module = plain(self.both())
        batch = batch_of(module)
        parts = module.compute_loss(module.encode_batch(batch), batch)
        torch.testing.assert_close(parts["loss"], 0.5 * parts["pairs"] + 2 * parts["classes"])
        labels = nn.functional.cross_entropy(torch.zeros(12, 8), batch.label)  # the head is not filled yet
        torch.testing.assert_close(parts["classes"], labels)

    def test_what_any_of_them_learns_learns(self, tmp_path: Path) -> None:
        module = plain(self.both())
        assert all(parameter.requires_grad for parameter in module.model.parameters())
        before = copy.deepcopy(module.state_dict())
        metrics = fit(module, tmp_path).callback_metrics
        assert {"train/pairs", "train/classes", "val/classification/top1", "val/pairs"} <= set(metrics)
        changed = {name.split(".")[1] for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {"image_encoder", "image_projection", "text_encoder", "text_projection", "logit_scale", "classes"}

    @pytest.mark.parametrize("kind", ["classes", "teacher"])
    def test_gradients_in_slices_and_on_ranks(self, kind: str) -> None:
        """Ranks hold 8 and 4 samples."""
        teacher = module_of(ClipModule, embed_dim=8).eval() if kind == "teacher" else None
        module = plain(self.both(teacher))
        batch = batch_of(module)
        expected = gradients(module, batch)
        module.micro_batch_size = 4
        assert error_of(gradients(module, batch), expected) <= 1e-6

        def on_rank(rank: int, world_size: int) -> dict[str, Tensor]:
            return gradients(module, share(batch, rank, 8), world_size)

        for found in run_ranks(on_rank, 2):
            assert error_of(found, expected) <= 1e-6

    def test_watched(self, tmp_path: Path) -> None:
        """A weight of 0 costs nothing in training; where all that is scored in evaluation has it, it counts once."""
        teacher = module_of(ClipModule, embed_dim=8)
        module = plain(self.both(teacher, pairs=0.0))
        data = ClipDataModule(SCENES, SCENES, local_batch_size=8)
        metrics = fit(module, tmp_path, 3, data).callback_metrics
        assert "train/pairs" not in metrics and metrics["val/loss"] == metrics["val/pairs"] > 0

    def test_two_of_classes(self) -> None:
        with pytest.raises(InputError, match="objectives 'classes' and 'coop' both add a part 'classes' to the model"):
            _ = plain([{"name": "classes", "class_names": NAMES}, {"name": "coop", "class_names": NAMES}]).model

    def test_what_starts_from_it_goes_on_with_pairs(self, tmp_path: Path) -> None:
        """A head and teachers stay behind, towers and the loss over pairs do not."""
        loss = {"name": "pairs", "loss": {"name": "softmax", "duplicates": True}}
        for objective in ([loss, {"name": "classes", "class_names": NAMES}], [loss, {"name": "distillation"}]):
            module = plain(objective)
            write_checkpoint(module, tmp_path / "last.ckpt")
            again: Any = ClipModule.from_pretrained(str(tmp_path / "last.ckpt"))
            assert isinstance(again.objective, WeightedSum)
            (kept,) = again.objective.each().values()
            assert isinstance(kept, ContrastivePairs) and kept.loss.duplicates
            assert torch.equal(again.encode_text("a dog"), module.encode_text("a dog"))
        write_checkpoint(plain({"name": "classes", "class_names": NAMES}), tmp_path / "head.ckpt")
        assert isinstance(ClipModule.from_pretrained(str(tmp_path / "head.ckpt")).objective, ContrastivePairs)


def gradients(module: Any, batch: PairBatch, world_size: int = 1) -> dict[str, Tensor]:
    """Of a training step, averaged over ranks as DDP does."""
    module.zero_grad()
    module.compute_loss(module.encode_batch(batch), batch)["loss"].backward()
    found = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    if world_size > 1:
        for value in found.values():
            torch.distributed.all_reduce(value)
            value /= world_size
    return found


class Prototypes(ClassObjective):
    """The mean feature of each class's training images: ten lines of a user's own."""

    def build_classes(self, space: SharedSpace, num_classes: int) -> nn.Module:
        return nn.Linear(space.embed_dim, num_classes, bias=False)

    def start_classes(self, predictor: Predictor, data: Any) -> None:
        rows: Any = predictor.model.classes
        source = data.source("train")
        for place in range(len(self.names)):
            images = [source[row].image for row in range(len(source)) if source.label(row) == place]
            rows.weight[place] = predictor.encode_image(torch.stack(images)).mean(dim=0)  # (K, D) -> (D,)

    def class_logits(self, space: SharedSpace, image_features: Tensor) -> Tensor:
        logits: Tensor = space.classes(image_features)  # type: ignore[operator]
        return 10 * logits


class TestOfOnesOwn:
    def test_as_an_object(self, tmp_path: Path) -> None:
        module = plain(Prototypes())
        trainer = fit(module, tmp_path)
        assert "val/classification/mean_per_class" in trainer.callback_metrics and module.model.classes.started
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        with pytest.raises(InputError, match="written with a live Prototypes as objective, which it cannot hold: pass"):
            ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        again: Any = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", objective=Prototypes(EIGHT))
        assert torch.equal(again.model.classes.weight, module.model.classes.weight)

    def test_registered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(objectives._factories, "prototypes", Prototypes)
        module = plain({"name": "prototypes", "label_smoothing": 0.1})
        fit(module, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
        again: Any = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        assert again.objective.label_smoothing == 0.1 and again.objective.class_names == EIGHT


class TestPrompts:
    def test_their_classifier_is_made_once_an_evaluation(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[bool] = []
        whole = LearnedPrompts.classifier

        def counted(self: LearnedPrompts, space: SharedSpace) -> Tensor:
            made.append(self.training)
            return whole(self, space)

        monkeypatch.setattr(LearnedPrompts, "classifier", counted)
        module = module_of(CoopModule, context=2)
        trainer = fit(module, tmp_path, steps=2, data=labelled_data(batch=4), val_check_interval=1)
        assert trainer.num_val_batches == [4] and made == [True, False, True, False]
        before = module.score_classes(PICTURES)
        with torch.no_grad():
            module.model.classes.vectors.add_(1.0)
        assert not torch.equal(module.score_classes(PICTURES), before)

    def test_once_a_step_however_many_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[int] = []
        forward = type(module_of(CoopModule).model.text_encoder).forward

        def counted(self: Any, *inputs: Any) -> Tensor:
            made.append(len(inputs[0]))
            return forward(self, *inputs)

        module = module_of(CoopModule, context=2, micro_batch_size=4)
        monkeypatch.setattr(type(module.model.text_encoder), "forward", counted)
        gradients(module, batch_of(module))
        assert made == [8]


class TestErrors:
    def test_a_tower_that_was_not_built(self) -> None:
        with pytest.raises(InputError, match="objective 'classes' reads column 'text', but no tower was built for it"):
            ClipModule(IMAGE, "none", objective={"name": "classes", "class_names": NAMES})
        with pytest.raises(InputError, match="objective 'distillation' reads column 'image', but no tower was built for it"):
            ClipModule("none", TEXT, objective="distillation")

    def test_another_objective(self) -> None:
        with pytest.raises(InputError, match="CoopModule learns by objective 'coop', not by 'softmax': omit objective, or use"):
            CoopModule(IMAGE, TEXT, objective="softmax")
        with pytest.raises(InputError, match="M learns by objective 'classes', not by .*'coop'"):
            with_settings("classes", [{"name": "coop"}], {}, "M")

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match="unknown objective 'clases': did you mean 'classes'"):
            build_objective("clases")
        with pytest.raises(InputError, match="objective 'classes' has no setting 'head': did you mean 'head_only'"):
            build_objective({"name": "classes", "head": True})
        with pytest.raises(InputError, match=r"objective 'coop'.class_specific 'yes' must be true or false"):
            CoopModule(IMAGE, TEXT, class_specific="yes")

    def test_a_strategy_where_the_model_was_built_before(self, tmp_path: Path) -> None:
        module = module_of(ClassifierModule)
        strategy = ClipDeepSpeedStrategy.__new__(ClipDeepSpeedStrategy)
        module.trainer = small_trainer(tmp_path)
        module.trainer._accelerator_connector.strategy = strategy
        with pytest.raises(InputError, match="ClassifierHead fills what it learns when the run starts"):
            module.configure_model()

    @pytest.mark.parametrize(("logits", "features"), [(0.0, 0.0), (-1.0, 2.0)])
    def test_weights_of_teachers(self, logits: float, features: float) -> None:
        with pytest.raises(InputError, match=f"logits {logits} and features {features} are weights of the loss: from 0"):
            Distillation(logits=logits, features=features)

    def test_several_objectives_of_a_student(self) -> None:
        from lightning_clip.tasks import DistillationModule

        with pytest.raises(InputError, match="DistillationModule takes one objective of the pairs, not .* for several use"):
            DistillationModule(IMAGE, TEXT, objective=["pairs", "flyp"])


def test_labels_weigh_alike_on_uneven_ranks() -> None:
    """8 and 4 rows on two ranks: the mean of the losses is that of one process on all rows, and so are the gradients."""
    objective = ClassifierHead(NAMES, label_smoothing=0.1).train()
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(12, 3, generator=generator), torch.randint(0, 3, (12,), generator=generator)

    def loss_of(rows: slice) -> tuple[float, Tensor]:
        own = logits[rows].clone().requires_grad_()
        count = len(own)
        batch = PairBatch(None, None, None, label[rows], torch.arange(count), [()] * count, ["key"] * count, [])
        loss = objective(ClipOutput({}, torch.ones(1), rows={"logits": own}), batch)["loss"]
        loss.backward()
        assert own.grad is not None
        return loss.item(), own.grad

    def on_rank(rank: int, world_size: int) -> tuple[float, Tensor]:
        loss, gradient = loss_of(slice(0, 8) if rank == 0 else slice(8, 12))
        return loss, gradient / world_size

    expected, gradient = loss_of(slice(0, 12))
    found = run_ranks(on_rank, 2)
    assert sum(loss for loss, _ in found) / 2 == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(torch.cat([part for _, part in found]), gradient)
