"""Callbacks: keys, figures against a separate computation, uneven ranks, and the files they write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from small import IMAGE, small_data, small_module, small_trainer, write_folder

from lightning_clip import ClipDataModule, InputError, LogExamples, Report, Retrieval, WriteFeatures, ZeroShotClassification
from lightning_clip.callbacks.report_sections import curve_figures, result_rows
from lightning_clip.callbacks.zero_shot import _Examples
from lightning_clip.data.decoding import decode
from lightning_clip.evaluation.extraction import local_features
from lightning_clip.evaluation.feature_provider import LiveSubject
from lightning_clip.evaluation.images import ImageBatch, ImageSample
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols.zero_shot import ZeroShot
from lightning_clip.prompts.evaluation_sets import EvaluationSet, evaluation_sets, open_evaluation_set

HELD_OUT = {"name": "synthetic", "held_out": True, "size": 48, "image_size": 32, "templates": ["a {}", "the {}"]}


class TestZeroShot:
    def test_keys_and_values(self, tmp_path: Path) -> None:
        module, callback = small_module(), ZeroShotClassification({"held_out": HELD_OUT}, local_batch_size=20)
        trainer = small_trainer(tmp_path, callbacks=[callback])
        trainer.validate(module, small_data())
        dataset = callback.datasets["held_out"]
        classifier = module.zero_shot_classifier(list(dataset.class_names), dataset.templates)
        images = torch.stack([dataset.source[i].image for i in range(48)])  # type: ignore[misc]
        labels = torch.tensor([dataset.source[i].label for i in range(48)])
        logits = module.encode_image(images) @ classifier
        expected = {
            "top1": (logits.argmax(1) == labels).float().mean(),
            "top5": (logits.topk(5).indices == labels[:, None]).any(1).float().mean(),
        }
        for key, value in expected.items():
            assert trainer.callback_metrics[f"val/zero_shot/held_out/{key}"] == pytest.approx(value.item(), abs=1e-6)
        result = callback.results["held_out"]
        assert result.chance == 1 / 8 and result.confusion.sum() == 48 and len(result.examples) == 32

    def test_folder_of_classes_and_a_table(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            write_folder(tmp_path / "classes" / name, count=3)
        write_folder(tmp_path / "table", count=3)
        (tmp_path / "table/labels.csv").write_text("image,label\n0.jpg,dog\n1.jpg,cat\n2.jpg,dog\n")
        table = {"name": str(tmp_path / "table/labels.csv"), "caption_column": None, "label_column": "label"}
        sets = {"folder": str(tmp_path / "classes"), "table": table}
        trainer = small_trainer(tmp_path, callbacks=[ZeroShotClassification(sets)])
        trainer.test(small_module(), small_data(), verbose=False)
        assert {"test/zero_shot/folder/top1", "test/zero_shot/table/mean_per_class"} <= set(trainer.callback_metrics)

    def test_a_registered_set(self) -> None:
        @evaluation_sets.register("tiny_test_set")
        def tiny() -> EvaluationSet:
            return open_evaluation_set(HELD_OUT)

        assert ZeroShotClassification({"mine": "tiny_test_set"}).datasets["mine"].templates == ["a {}", "the {}"]

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="template 'a photo' must have one {}"):
            ZeroShotClassification({"x": {**HELD_OUT, "templates": ["a photo"]}})
        with pytest.raises(InputError, match="class_names has 2 entries but .* has 8 classes"):
            ZeroShotClassification({"x": {**HELD_OUT, "class_names": ["a", "b"]}})
        with pytest.raises(InputError, match="does not know its class names: give class_names"):
            ZeroShotClassification({"x": {"name": str(write_folder(tmp_path))}})
        with pytest.raises(InputError, match="'x' has 0 class names: use EvaluationSuite with a protocol that fits it"):
            ZeroShotClassification({"x": {**HELD_OUT, "retrieval": True}})
        with pytest.raises(InputError, match="'x' has several classes an image: use EvaluationSuite"):
            ZeroShotClassification({"x": {**HELD_OUT, "multilabel": True}})

    def test_figures_are_those_of_the_protocol(self) -> None:
        """Several names of a class too, whatever the batch."""
        module = small_module()
        scenes = open_evaluation_set(HELD_OUT)
        several = [[name, f"drawn {name}"] for name in scenes.names]
        dataset = EvaluationSet(scenes.source, several, scenes.templates)
        model = PredictorModel(module.predictor)
        subject = LiveSubject(model, dataset, "x", lambda by, images, classes: local_features(by, images, 48))
        expected = ZeroShot().evaluate(subject)
        found = ZeroShotClassification({"x": dataset}, local_batch_size=7).evaluate(module, dataset)
        assert found.metrics == pytest.approx({name: expected.metrics[name] for name in found.metrics}, abs=1e-6)
        assert len(found.metrics) == 3 and found.confusion.tolist() == expected.details["confusion"]

    def test_a_module_without_predictor(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="BoringModel has no predictor: give a ClipModule"):
            small_trainer(tmp_path, callbacks=[ZeroShotClassification({"x": HELD_OUT})]).validate(BoringModel())
        with pytest.raises(InputError, match="BoringModel has no predictor: give a ClipModule"):
            small_trainer(tmp_path, callbacks=[Retrieval()]).validate(BoringModel())

    def test_any_lightning_module_with_a_predictor(self, tmp_path: Path) -> None:
        class Own(BoringModel):
            predictor = small_module().predictor

        trainer = small_trainer(tmp_path, callbacks=[ZeroShotClassification({"x": HELD_OUT})])
        trainer.validate(Own())
        assert "val/zero_shot/x/top1" in trainer.callback_metrics


class TestRetrieval:
    def test_keys_and_values(self, tmp_path: Path) -> None:
        table = str(write_folder(tmp_path, count=20))
        module = small_module()
        trainer = small_trainer(tmp_path, callbacks=[Retrieval(ks=(1, 3))])
        data = ClipDataModule(val=table, local_batch_size=6)
        trainer.validate(module, data, verbose=False)
        source = data.source("val")
        texts = [(caption, i) for i in range(20) for caption in source.captions(i)]
        prepared = list(data.attach(module).val_dataloader())
        images = torch.cat([module.encode_image(batch.image) for batch in prepared])
        similarity = module.encode_text([caption for caption, _ in texts]) @ images.T
        own = torch.tensor([i for _, i in texts])
        ranks = 1 + (similarity >= similarity.gather(1, own[:, None])).sum(1) - 1
        expected = (ranks <= 3).float().mean().item()
        assert trainer.callback_metrics["val/retrieval/text_to_image/recall@3"] == pytest.approx(expected, abs=1e-6)
        assert "val/retrieval/image_to_text/median_rank" in trainer.callback_metrics

    def test_two_ranks_with_uneven_shares_equal_one(self, tmp_path: Path) -> None:
        module = small_module()
        module.configure_model()
        found = []
        for arguments in ({}, {"strategy": "ddp_fork", "devices": 2}):
            callbacks = [Retrieval(), ZeroShotClassification({"held_out": HELD_OUT})]
            trainer = small_trainer(tmp_path, callbacks=callbacks, **arguments)
            trainer.validate(module, small_data(21, batch=4), verbose=False)
            found.append(
                {key: value.item() for key, value in trainer.callback_metrics.items() if "/retr" in key or "/zero" in key}
            )
        assert found[0].keys() == found[1].keys() and len(found[0]) == 11
        for key, value in found[0].items():
            assert found[1][key] == pytest.approx(value, abs=1e-6), key

    @pytest.mark.parametrize("spoilt", [0, 1])
    def test_fewer_pairs_than_ranks(self, tmp_path: Path, spoilt: int) -> None:
        """One pair on two ranks, or two of which one cannot be read: figures of that pair, and no rank waits for another."""
        table = write_folder(tmp_path, count=1 + spoilt)
        if spoilt:
            (tmp_path / "1.jpg").write_bytes(b"spoilt")
        module, found = small_module(), []
        module.configure_model()
        for arguments in ({}, {"strategy": "ddp_fork", "devices": 2}):
            trainer = small_trainer(tmp_path, callbacks=[Retrieval()], **arguments)
            data = ClipDataModule(val=str(table), test=str(table), local_batch_size=4, max_bad_share=0.5)
            if not spoilt or not arguments:
                outputs = small_trainer(tmp_path).predict(module, data)
                assert sum(len(output.image_features) for output in outputs) == 1  # type: ignore[union-attr, misc, arg-type]
            data.max_bad_share = 1.0  # of each rank's own samples
            (figures,) = trainer.validate(module, data, verbose=False)
            found.append(figures)
        assert found[0] == pytest.approx(found[1], abs=1e-6) and found[0]["val/retrieval/text_to_image/recall@1"] == 1.0


class TestReport:
    def test_page_and_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        callbacks: list[Any] = [
            Report(str(tmp_path / "out/report.html"), "My run"),
            ZeroShotClassification({"held_out": HELD_OUT}),
            Retrieval(),
        ]
        trainer = small_trainer(tmp_path, callbacks=callbacks, log_every_n_steps=1, enable_checkpointing=True)
        trainer.fit(small_module(), small_data())
        page = (tmp_path / "out/report.html").read_text()
        for heading in (
            "My run",
            "Result",
            "Zero-shot: held out",
            "most often taken for",
            "Retrieval",
            "Captions of images",
            "Where it looks",
        ):
            assert heading in page
        assert page.count("<svg ") == 4 and page.count("data:image/png;base64,") > 32 + 6  # three curves, a matrix; pictures
        assert not re.search(r"(?:src|href)=\"(?!data:|#)|url\((?!#)", page)  # nothing from elsewhere
        printed = capsys.readouterr().out
        assert (
            "held out: zero-shot top-1" in printed and "12.5 %" in printed and "lightning-clip classify picture.jpg" in printed
        )
        trainer.test(small_module(), small_data(), verbose=False)
        assert (tmp_path / "out/report_test.html").exists() and not list(tmp_path.glob("out/*.partial*"))


def test_features_are_written(tmp_path: Path) -> None:
    module = small_module()
    writer = WriteFeatures(str(tmp_path / "features.npz"))
    small_trainer(tmp_path, callbacks=[writer]).predict(module, small_data(20, batch=8), return_predictions=False)
    with np.load(tmp_path / "features.npz") as found:
        assert found["image_features"].shape == found["text_features"].shape == (20, 16)
        assert len(found["keys"]) == 20 and found["index"].tolist() == list(range(20))
    datasets = pytest.importorskip("datasets")
    writer = WriteFeatures(str(tmp_path / "features"))
    small_trainer(tmp_path, callbacks=[writer]).predict(module, small_data(20, batch=8), return_predictions=False)
    with np.load(tmp_path / "features.npz") as found:
        dataset = datasets.load_from_disk(tmp_path / "features").with_format("numpy")
        assert np.array_equal(dataset["image_features"][:], found["image_features"])
        assert dataset["key"][:].tolist() == found["keys"].tolist() and (dataset["label"][:] >= 0).all()
    again = small_trainer(tmp_path, callbacks=[writer])
    with pytest.raises(InputError, match="features' exist and are never replaced"):
        again.predict(module, small_data(20, batch=8), return_predictions=False)
    with pytest.raises(InputError, match=r"end in '.csv': give a file .npz, or a folder for a dataset"):
        WriteFeatures("features.csv")


class TestExamples:
    def test_classes_are_shown_equally_often(self) -> None:
        """A set that goes round its classes, as scenes do: every so many images would be those of some classes alone."""
        callback = ZeroShotClassification({"held_out": {**HELD_OUT, "size": 80}}, local_batch_size=24)
        module = small_module()
        module.configure_model()
        result = callback.evaluate(module, callback.datasets["held_out"])
        labels = [label for _, label, *_ in result.examples]
        assert labels == 4 * list(range(8))
        logits = module.zero_shot_classifier(result.class_names, callback.datasets["held_out"].templates)
        for image, _, predicted, share in result.examples[:5]:
            probabilities = torch.softmax(module.model.scale() * module.encode_image(image[None]) @ logits, dim=-1)[0]
            assert predicted == int(probabilities.argmax()) and share == pytest.approx(float(probabilities.max()), abs=1e-5)

    def test_of_many_classes_some_are_shown_and_not_the_first_alone(self) -> None:
        examples = _Examples()
        for start in range(0, 1000, 50):  # sorted by class, two images of each
            label = torch.arange(start, start + 50) // 2
            samples = [ImageSample(torch.empty(0), place, "", 0, ()) for place in range(50)]
            examples.take(ImageBatch(torch.zeros(50, 3, 2, 2, dtype=torch.uint8), samples, []), torch.zeros(50, 500), label)
        labels = [label for _, label, *_ in examples.shown()]
        assert len(labels) == len(set(labels)) == 32 and min(labels) < 50 and max(labels) > 450

    def test_pictures_to_classify_are_left_and_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        callbacks: list[Any] = [Report("out/report.html", pictures=3), ZeroShotClassification({"held_out": HELD_OUT})]
        trainer = small_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
        trainer.fit(small_module(), small_data())
        names = callbacks[1].results["held_out"].class_names
        found = sorted(tmp_path.glob("out/pictures/*.png"))
        assert [path.stem for path in found] == sorted(name.replace(" ", "_") for name in names[:3])
        assert decode(found[0].read_bytes()).shape == (3, 192, 192)
        printed = capsys.readouterr().out
        assert f"classify out/pictures/{names[0].replace(' ', '_')}.png --labels '{names[0]}," in printed

    def test_names_of_curves(self) -> None:
        keys = {
            "val/zero_shot/held_out/top1": "held out",
            "val/classification/top1": "classification",
            "val/linear_probe/digits/top1": "linear probe: digits",
            "val/retrieval/text_to_image/recall@10": "text → image",
            "val/retrieval/scenes/image_to_text/recall@10": "scenes: image → text",
            "val/video_retrieval/clips/text_to_video/recall@10": "video retrieval: clips: text → video",
        }
        figures = dict(curve_figures({key: [(1, 0.5), (2, 0.6)] for key in keys}))
        drawn = [text.get_text() for figure in figures.values() for text in figure.axes[0].get_legend().get_texts()]
        assert sorted(drawn) == sorted(keys.values())

    def test_videos_in_the_place_of_images(self, tmp_path: Path) -> None:
        clips = {"name": "moving_shapes", "size": 16, "image_size": 32}
        callbacks = [Report(tmp_path / "report.html"), Retrieval(column="video"), LogExamples()]
        trainer = small_trainer(tmp_path, callbacks=callbacks, logger=TensorBoardLogger(tmp_path), max_steps=2)
        towers = {"video": {"name": "meanP", "image": IMAGE, "projection": "none"}}
        objective = {"name": "pairs", "between": ["video", "text"]}
        module = small_module(image_encoder="none", towers=towers, embed_dim=32, objective=objective)
        trainer.fit(module, ClipDataModule(train=clips, val=clips, local_batch_size=8))
        assert ">text → video<" in (tmp_path / "report.html").read_text("utf-8")

    def test_what_was_not_evaluated_has_its_loss(self) -> None:
        assert result_rows([], [], {"train/loss": [(1, 3.0), (2, 2.5)]}) == [("loss of the last batch", "2.500", "")]
        assert result_rows([], [], {"val/loss": [(1, 3.0)], "train/loss": [(1, 9.0)]}) == [("validation loss", "3.000", "")]
        assert not result_rows([], [], {})

    def test_no_table_of_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        trainer = small_trainer(tmp_path, max_steps=1, callbacks=[Report(str(tmp_path / "report.html"))])
        trainer.fit(small_module(), small_data())
        printed = capsys.readouterr().out
        assert "nothing was evaluated" in printed and "measure" not in printed
        assert ">Result<" not in (tmp_path / "report.html").read_text()
