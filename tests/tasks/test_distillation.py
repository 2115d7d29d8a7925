"""Distillation: the divergence against loops, itself as teacher, several teachers, other towers, stored features, ranks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import run_ranks
from reference import distillation as reference
from small import IMAGE, TEXT, small_trainer, write_folder
from tasks.labelled import GIVEN, fit, module_of
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.cli import main
from lightning_clip.core.types import TEACHERS, Pair, PairBatch
from lightning_clip.data import pair_sources, train_tokenizer
from lightning_clip.data.teachers import StoredTeacher, stacked, stored_features, teachers_of
from lightning_clip.export.export import export
from lightning_clip.losses.distillation import feature_distance, relational_kl
from lightning_clip.merging.mixing import write_checkpoint
from lightning_clip.tasks import DistillationModule

WIDE = {"name": "vit_tiny_patch16_224", "image_size": 48, "patch_size": 16, "depth": 1, "embed_dim": 48, "num_heads": 2}


def unit(seed: int, count: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=-1)


def scenes(**arguments: Any) -> ClipDataModule:
    source = {"name": "synthetic", "size": 32, "image_size": 32}
    return ClipDataModule(source, local_batch_size=arguments.pop("batch", 8), **arguments)  # type: ignore[arg-type]


def batch_for(module: ClipModule, data: ClipDataModule) -> PairBatch:
    found: PairBatch = next(iter(data.attach(module).train_dataloader()))
    return found


def student(start: ClipModule | None = None, **arguments: Any) -> DistillationModule:
    module: DistillationModule = module_of(DistillationModule, start, **arguments)
    return module.train()


def losses_of(module: ClipModule, batch: PairBatch) -> dict[str, Tensor]:
    return module.compute_loss(module.encode_batch(batch), batch)


@pytest.fixture(scope="module")
def teacher() -> ClipModule:
    """Another size, width, vocabulary and temperature than the student's."""
    torch.manual_seed(5)
    tokenizer = train_tokenizer(["a red circle in the middle"] * 3, 280)
    text = {"name": "clip_text", "width": 48, "layers": 1, "heads": 2}
    module = ClipModule(
        WIDE,
        text,
        embed_dim=24,
        tokenizer=tokenizer,
        objective={"name": "pairs", "loss": {"name": "softmax", "initial_scale": 30.0}},
    )
    module.configure_model()
    return module.eval()


class TestRelationalKl:
    @pytest.mark.parametrize("rows_at_once", [1024, 4])
    def test_loops(self, rows_at_once: int) -> None:
        arrays = [unit(seed, width=width) for seed, width in ((0, 5), (1, 5), (2, 7), (3, 7))]
        found = relational_kl(*arrays[:2], torch.tensor([4.0]).double(), *arrays[2:], 9.0, rows_at_once=rows_at_once)
        images, texts, teacher_images, teacher_texts = (array.numpy() for array in arrays)
        expected = reference.relational_kl(images, texts, 4.0, teacher_images, teacher_texts, 9.0)
        assert found.item() == pytest.approx(expected, rel=1e-12)

    def test_gradients_against_finite_differences(self) -> None:
        scale = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        inputs = (unit(0).requires_grad_(), unit(1).requires_grad_(), scale)
        for rows_at_once in (1024, 4):
            assert torch.autograd.gradcheck(
                lambda *own, at_once=rows_at_once: relational_kl(*own, unit(2), unit(3), 5.0, rows_at_once=at_once), inputs
            )

    def test_of_itself_is_zero_with_zero_gradient(self) -> None:
        images, texts, scale = unit(0).requires_grad_(), unit(1).requires_grad_(), torch.tensor([9.0]).double().requires_grad_()
        loss = relational_kl(images, texts, scale, images, texts, 9.0)
        loss.backward()
        assert loss.item() == 0.0
        for value in (images, texts, scale):
            assert value.grad is not None and value.grad.abs().max() < 1e-14

    def test_ranks_of_different_sizes_equal_one_process(self) -> None:
        sizes, places = [4, 2], [(0, 4), (4, 6)]

        def on_rank(rank: int, world_size: int) -> tuple[float, Tensor, Tensor]:
            low, high = places[rank]
            images, texts = (unit(seed)[low:high].requires_grad_() for seed in (0, 1))
            loss = relational_kl(images, texts, torch.tensor([4.0]).double(), unit(2)[low:high], unit(3)[low:high], 9.0)
            loss.backward()
            assert images.grad is not None and texts.grad is not None
            return loss.item(), images.grad / world_size, texts.grad / world_size

        images, texts = unit(0).requires_grad_(), unit(1).requires_grad_()
        expected = relational_kl(images, texts, torch.tensor([4.0]).double(), unit(2), unit(3), 9.0)
        expected.backward()
        found = run_ranks(on_rank, 2)
        assert sum(loss for loss, _, _ in found) / len(sizes) == pytest.approx(expected.item(), rel=1e-12)
        assert images.grad is not None and texts.grad is not None
        torch.testing.assert_close(torch.cat([gradient for _, gradient, _ in found]), images.grad)
        torch.testing.assert_close(torch.cat([gradient for _, _, gradient in found]), texts.grad)


class TestModule:
    def test_itself_teaches_nothing(self) -> None:
        start = module_of(ClipModule).eval()
        module = student(start, teachers=start, features=1.0)
        batch = batch_for(module, scenes())
        loss = losses_of(module, batch)
        loss["loss"].backward()
        assert abs(loss["distillation_logits"].item()) < 1e-6 and loss["distillation_features"].item() < 1e-10
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert gradients and max(float(gradient.abs().max()) for gradient in gradients) < 1e-5

    def test_two_teachers_average_by_weight(self, teacher: ClipModule) -> None:
        other = module_of(ClipModule, embed_dim=8).eval()
        start = module_of(ClipModule)

        def losses(teachers: Any) -> dict[str, Tensor]:
            torch.manual_seed(1)
            module = student(start, teachers=teachers, distance="cosine", contrastive=0.5)
            batch = batch_for(module, scenes())
            return losses_of(module, batch)

        first, second = losses(teacher), losses([other])
        both = losses([{"source": teacher, "weight": 3}, {"source": other, "weight": 1}])
        torch.testing.assert_close(
            both["distillation_logits"], 0.75 * first["distillation_logits"] + 0.25 * second["distillation_logits"]
        )
        torch.testing.assert_close(both["loss"], both["distillation_logits"] + 0.5 * both["pairs"])
        assert first["pairs"] == second["pairs"]

    def test_teachers_see_the_same_captions_and_crops(self, teacher: ClipModule) -> None:
        """Against the teacher's own way: its tokenizer on the chosen texts, its size from the student's pixels."""
        module = student(teachers=[teacher])
        batch = batch_for(module, scenes())
        taught = module.distillation.taught(batch)
        assert batch.texts is not None and taught.scales == [pytest.approx(30.0)]
        torch.testing.assert_close(taught.text[0], teacher.encode_text(batch.texts), rtol=1e-4, atol=1e-5)
        resized = torch.stack([teacher.image_transform(False)(image) for image in batch.image])
        torch.testing.assert_close(taught.image[0], teacher.encode_image(resized), rtol=1e-4, atol=1e-5)

    def test_feature_distances(self, teacher: ClipModule) -> None:
        module = student(teachers=teacher, logits=0.0, features=2.0)
        batch = batch_for(module, scenes())
        output, bridges = module.encode(batch), module.model.bridges
        assert {name: tuple(layer.weight.shape) for name, layer in bridges.items()} == {  # type: ignore[union-attr, operator]
            "image_0": (24, 16),
            "text_0": (24, 16),
        }
        taught, parts = module.distillation.taught(batch), losses_of(module, batch)
        own = [bridges["image_0"](output.image_features), bridges["text_0"](output.text_features)]  # type: ignore[index]
        expected = sum((mine - theirs[0]).pow(2).sum(1).mean() for mine, theirs in zip(own, taught[:2], strict=True)) / 2
        torch.testing.assert_close(parts["distillation_features"], expected)
        torch.testing.assert_close(parts["loss"], 2 * expected)

    def test_without_teachers_it_is_a_clip_module(self, tmp_path: Path) -> None:
        """For comparison: no teacher is opened."""
        module, plain = student(teachers="nowhere.ckpt", logits=0.0, contrastive=1.0), module_of(ClipModule)
        batch = batch_for(module, scenes())
        torch.testing.assert_close(losses_of(module, batch)["loss"], losses_of(plain.train(), batch)["loss"])
        fit(module, tmp_path, data=scenes())

    def test_micro_batches_and_ranks_change_nothing(self, tmp_path: Path, teacher: ClipModule) -> None:
        def weights(**arguments: Any) -> dict[str, Tensor]:
            batch, ranks = arguments.pop("batch", 16), arguments.pop("ranks", {})
            settings = {"contrastive": 0.5, "features": 0.3, "optimizer": {"lr": 1e-2, "eps": 1e-2, "warmup_steps": 0}}
            module = student(teachers=copy.deepcopy(teacher), **settings, **arguments)
            fit(module, tmp_path, data=scenes(batch=batch), **ranks)
            return module.state_dict()

        expected = weights()
        assert not any("teacher" in name for name in expected)
        for found in (weights(micro_batch_size=4), weights(batch=8, ranks={"strategy": "ddp_fork", "devices": 2})):
            for name, value in expected.items():
                # The gradient of a word that all captions share is near 6, and rounded to 1e-6 of that.
                torch.testing.assert_close(found[name], value, rtol=2e-5, atol=1e-5, msg=name)

    def test_it_learns_and_a_checkpoint_needs_no_teacher(self, tmp_path: Path, teacher: ClipModule) -> None:
        write_checkpoint(teacher, tmp_path / "teacher.ckpt")
        module = student(teachers=str(tmp_path / "teacher.ckpt"), features=0.5, distance="cosine")
        batch = batch_for(module, scenes(batch=32))
        before = losses_of(module, batch)["loss"].item()
        trainer = fit(module, tmp_path, steps=10, data=scenes(batch=32, val={"name": "synthetic", "size": 8, "image_size": 32}))
        assert losses_of(module.train(), batch)["loss"].item() < before
        assert {"val/loss", "val/pairs", "train/distillation_logits", "train/distillation_features"} <= set(
            trainer.callback_metrics
        )
        trainer.save_checkpoint(tmp_path / "student.ckpt")
        (tmp_path / "teacher.ckpt").unlink()
        again = ClipModule.load_from_checkpoint(tmp_path / "student.ckpt")
        assert isinstance(again, DistillationModule) and again.distillation.teacher_dims == [24]
        assert torch.equal(again.encode_text(["a dog"]), module.eval().encode_text(["a dog"]))

    def test_what_bridges_widths_is_for_training_alone(self, tmp_path: Path, teacher: ClipModule) -> None:
        module = student(teachers=teacher, features=1.0).eval()
        names = set(module.state_dict())
        assert any("bridges" in name for name in names)
        export(module, "safetensors", tmp_path / "out")
        again = ClipModule.from_pretrained(tmp_path / "out")
        assert torch.equal(again.encode_text(["a dog"]), module.encode_text(["a dog"]))
        assert set(module.state_dict()) == names
        write_checkpoint(module, tmp_path / "student.ckpt")
        again = ClipModule.from_pretrained(tmp_path / "student.ckpt")
        assert torch.equal(again.encode_text(["a dog"]), module.encode_text(["a dog"]))


class TestStored:
    @pytest.fixture
    def shards(self, tmp_path: Path, teacher: ClipModule) -> Path:
        """32 pictures of the student's size with two captions each, taught by two teachers."""
        write_folder(tmp_path / "pairs", count=8, size=(32, 32))
        for name, module in (("wide", teacher), ("other", module_of(ClipModule, embed_dim=8))):
            write_checkpoint(module, tmp_path / f"{name}.ckpt")
        given = ["--data", str(tmp_path / "pairs"), "--output", str(tmp_path / "taught/train-%06d.tar")]
        names = [f"--teacher={tmp_path / name}.ckpt" for name in ("wide", "other")]
        assert main(["data", "teach", *given, *names, "--dtype=float32", "--pairs-per-shard=5"]) == 0
        return tmp_path

    def test_equal_live_ones(self, shards: Path, teacher: ClipModule) -> None:
        data = ClipDataModule(str(shards / "taught/train-*.tar"), local_batch_size=8)
        live = student(teachers=[str(shards / "wide.ckpt"), str(shards / "other.ckpt")])
        stored = student()
        batch = batch_for(live, data)
        expected, found = live.distillation.taught(batch), stored.distillation.taught(batch)
        assert found.scales == pytest.approx(expected.scales)
        for mine, theirs in zip([*found.image, *found.text], [*expected.image, *expected.text], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        losses = [losses_of(module, batch)["loss"] for module in (live, stored)]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)

    def test_trains_with_workers_and_feature_distance(self, shards: Path) -> None:
        data = ClipDataModule(str(shards / "taught/train-*.tar"), local_batch_size=4, num_workers=1)
        module = DistillationModule(IMAGE, TEXT, features=1.0, **GIVEN)
        trainer = fit(module, shards, data=data)
        assert module.distillation.teacher_dims == [24, 8] and "train/distillation_features" in trainer.callback_metrics
        trainer.save_checkpoint(shards / "student.ckpt")
        assert DistillationModule.load_from_checkpoint(shards / "student.ckpt").distillation.teachers == "stored"

    def test_weights(self, shards: Path) -> None:
        data = ClipDataModule(str(shards / "taught/train-*.tar"), local_batch_size=8)
        weighted = {"source": "stored", "weight": [3, 1]}
        live = [{"source": str(shards / "wide.ckpt"), "weight": 3}, {"source": str(shards / "other.ckpt")}]
        modules = [student(teachers=teachers) for teachers in (weighted, live)]
        batch = batch_for(modules[1], data)
        losses = [losses_of(module, batch)["loss"] for module in modules]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
        assert modules[0].distillation.to_mapping()["teachers"] == weighted
        alike = student(teachers={"source": "stored", "weight": [1, 1, 1]})
        with pytest.raises(InputError, match="teachers has 3 weights, but the pairs have features of 2 teachers"):
            losses_of(alike, batch)

    def test_widths_are_read_where_there_is_no_trainer(self, shards: Path) -> None:
        module = DistillationModule(IMAGE, TEXT, features=1.0, **GIVEN)
        module.read_data(ClipDataModule(str(shards / "taught/train-*.tar"), local_batch_size=4))
        assert module.distillation.teacher_dims == [24, 8]

    def test_they_survive_packing_anew(self, shards: Path) -> None:
        given = ["--data", str(shards / "taught/train-*.tar"), "--output", str(shards / "again/train-%06d.tar")]
        assert main(["data", "pack", *given]) == 0
        pair = pair_sources.build(str(shards / "again/train-*.tar"))[3]
        found = teachers_of(pair, pair.captions[-1])
        assert found is not None and [len(one.image) for one in found] == [24, 8]

    def test_half_precision(self) -> None:
        taught = StoredTeacher(unit(0, 1)[0].float(), unit(1, 2).float(), 30.0)
        pair = Pair(b"", ("a", "b"), "1", metadata={TEACHERS: stored_features([taught])})
        (found,) = teachers_of(pair, "b") or []
        torch.testing.assert_close(found.text, taught.text[1], atol=1e-3, rtol=0)
        assert stacked([[found], None]) is None

    def test_a_new_caption_is_a_bad_sample(self, shards: Path) -> None:
        pair = pair_sources.build(str(shards / "taught/train-000000.tar"))[0]
        with pytest.raises(ValueError, match="the teachers have not seen this caption"):
            teachers_of(pair, "another")
        with pytest.raises(ValueError, match="stored teacher features are broken"):
            teachers_of(Pair(b"", ("a",), "1", metadata={TEACHERS: b"??"}), "a")

    def test_missing_features(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match="has no stored teacher features: write shards with them by lightning-clip data teach"
        ):
            fit(DistillationModule(IMAGE, TEXT, features=1.0, **GIVEN), tmp_path, data=scenes())
        with pytest.raises(InputError, match="or another of its batch has no stored teacher features"):
            fit(student(), tmp_path, data=scenes())

    def test_features_of_other_teachers(self, shards: Path, teacher: ClipModule) -> None:
        """Fewer teachers, or another one of the same width, are not taken for those of the rest of the batch."""
        one, other = StoredTeacher(torch.ones(2), torch.ones(2), 10.0), StoredTeacher(torch.ones(2), torch.ones(2), 20.0)
        assert stacked([[one], [one]]) is not None
        for found in ([[one], [one, other]], [[one], [other]], [[one], [StoredTeacher(torch.ones(3), torch.ones(3), 10.0)]]):
            assert stacked(found) is None
        given = ["--data", str(shards / "pairs"), "--output", str(shards / "less/train-%06d.tar")]
        assert main(["data", "teach", *given, f"--teacher={shards / 'wide.ckpt'}"]) == 0
        mixed = {"name": "mix", "sources": [str(shards / "taught/train-*.tar"), str(shards / "less/train-*.tar")]}
        with pytest.raises(InputError, match="no stored teacher features, or those of other teachers: write all shards"):
            fit(student(), shards, data=ClipDataModule(mixed, local_batch_size=8))


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"teachers": []}, "teachers is empty: give at least one, or 'stored'"),
            ({"teachers": {"path": "x"}}, "must have 'source' and may have 'weight', nothing else"),
            ({"teachers": {"source": "x", "weight": 0}}, "weight 0.0 of teacher 'x' must be above 0"),
            (
                {"teachers": [{"source": "stored", "weight": 2}]},
                "stored teachers stand alone, with a weight for each: {'source'",
            ),
            (
                {"teachers": {"source": "stored", "weight": 2}},
                "stored teachers have a weight above 0 each, {'source': 'stored'",
            ),
            ({"teachers": {"source": "stored", "weight": [1, 0]}}, "stored teachers have a weight above 0 each"),
            ({"logits": 0.0}, "are weights of the loss: from 0, and one of them above it"),
            ({"contrastive": -1.0}, "contrastive -1.0, logits 1.0, features 0.0 are weights"),
            ({"distance": "msr"}, "unknown distance 'msr': did you mean 'mse'"),
        ],
    )
    def test_settings(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            DistillationModule(IMAGE, TEXT, **GIVEN, **arguments)

    def test_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="teacher of type Linear cannot encode images and texts: give a checkpoint"):
            fit(student(teachers=nn.Linear(2, 2)), tmp_path, data=scenes())
        with pytest.raises(InputError, match="nowhere.ckpt"):
            fit(student(teachers=str(tmp_path / "nowhere.ckpt")), tmp_path, data=scenes())

    def test_a_teacher_that_cannot_encode(self, tmp_path: Path) -> None:
        broken = module_of(ClipModule)
        broken.model.text_projection = nn.Linear(3, 3)
        with pytest.raises(InputError, match=r"teacher 'ClipModule' cannot encode \(RuntimeError"):
            fit(student(teachers=broken), tmp_path, data=scenes())
        broken.model.text_projection = nn.Linear(32, 3)
        with pytest.raises(InputError, match=r"gives \(1, 16\) for an image and \(1, 3\) for a text: both must be \(1, D\)"):
            fit(student(teachers=broken), tmp_path, data=scenes())

    def test_other_widths_than_before(self, tmp_path: Path, teacher: ClipModule) -> None:
        with pytest.raises(InputError, match=r"the teachers' widths are \[24\], but this student was made for \[12\]"):
            fit(
                student(objective=[{"name": "pairs"}, {"name": "distillation", "teachers": teacher, "teacher_dims": [12]}]),
                tmp_path,
                data=scenes(),
            )

    def test_unknown_distance(self) -> None:
        with pytest.raises(InputError, match="unknown distance 'l1'"):
            feature_distance(unit(0), unit(1), "l1")


def test_live_teachers_are_noted_by_kind(tmp_path: Path, teacher: ClipModule) -> None:
    """A checkpoint of a student with live teachers can be used, but not trained on without them."""
    module = student(teachers=teacher)
    write_checkpoint(module, tmp_path / "student.ckpt")
    again = DistillationModule.load_from_checkpoint(tmp_path / "student.ckpt")
    with pytest.raises(InputError, match="written with a live ClipModule as teacher, which it cannot hold: pass it again"):
        small_trainer(tmp_path).fit(again, scenes())
