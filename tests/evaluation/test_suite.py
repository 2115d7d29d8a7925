"""A whole suite: two ranks give one process's figures, the second run reads what is kept, mistakes are listed at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from corners import corners
from small import save_checkpoint, small_module, write_folder
from torch.nn.functional import normalize

from lightning_clip import InputError
from lightning_clip.cli import main
from lightning_clip.data import SyntheticScenes
from lightning_clip.evaluation.extraction import extract, local_features
from lightning_clip.evaluation.features import Features, load_features, save_features
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.models import PredictorModel, open_model
from lightning_clip.evaluation.run_suite import Outcome, run_suite
from lightning_clip.evaluation.suite import Suite
from lightning_clip.evaluation.summary import write_summary
from lightning_clip.prompts.evaluation_sets import open_evaluation_set

CPU = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
SCENES = {"name": "synthetic", "held_out": True, "image_size": 32}
SETS: dict[str, Any] = {
    "scenes": {
        **SCENES,
        "size": 61,
        "templates": ["a {}", "a photo of a {}"],
        "train": {"size": 200, "seed": 1},
        "protocols": [
            "zero_shot",
            {"name": "linear_probe", "max_iterations": 10},
            {"name": "few_shot", "shots": [1, 2], "seeds": 2},
            {"name": "robustness", "corruptions": ["jpeg"], "strengths": [3]},
            "retrieval",
        ],
    }
}


@pytest.fixture(scope="module")
def model() -> PredictorModel:
    pl.seed_everything(0)
    return PredictorModel(small_module().predictor, "small").eval()  # type: ignore[return-value]


@pytest.fixture(scope="module")
def measured(model: PredictorModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """What the suite says of two models, and the folder of their features."""
    pl.seed_everything(1)
    other = PredictorModel(small_module().predictor, "other").eval()
    folder = tmp_path_factory.mktemp("measured")
    return run_suite(suite(folder), [model, other]), folder  # type: ignore[list-item]


def suite(folder: Path, sets: Any = None, **changes: Any) -> Suite:
    return Suite(sets or SETS, output=str(folder), batch_size=16, trainer=changes.pop("trainer", CPU), **changes)


class TestExtraction:
    @pytest.mark.slow
    def test_two_ranks_are_one_process(self, model: PredictorModel, measured: tuple[Outcome, Path], tmp_path: Path) -> None:
        """61 images: 31 and 30; the same figures, every metric."""
        one, folder = measured
        ranks = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork", "enable_progress_bar": False}
        two = run_suite(suite(tmp_path, trainer=ranks), [model])
        assert not one.failures and not two.failures and len(one.extracted) == 2 * len(two.extracted) == 6
        for label, results in one.results["scenes"].items():
            assert results["small"].metrics == pytest.approx(two.results["scenes"][label]["small"].metrics, abs=1e-6)
        (own,) = (tmp_path / "features").iterdir()
        paths = [sorted((place / "features" / own.name).glob("scenes-test-*")) for place in (folder, tmp_path)]
        first, second = (load_features(path[-1]) for path in paths)
        assert first.index.tolist() == second.index.tolist() == list(range(61)) and first.keys == second.keys
        assert torch.allclose(first.image_features, second.image_features, atol=1e-6)

    def test_features_are_the_models(self, model: PredictorModel, tmp_path: Path) -> None:
        scenes = SyntheticScenes("test", 5, image_size=32)
        found = extract(model, Images(scenes, model.transform()), tmp_path / "f.safetensors", trainer=CPU)
        pixels = torch.stack([scenes[place].image for place in range(5)])  # type: ignore[misc]
        assert torch.allclose(found.image_features, model.predictor.encode_image(pixels), atol=1e-6)
        assert torch.allclose(
            found.text_features, model.predictor.encode_text([scenes[i].captions[0] for i in range(5)]), atol=1e-6
        )
        projected = normalize(model.predictor.model.image_projection(found.backbone), dim=-1)
        assert torch.allclose(projected, found.image_features, atol=1e-6)
        again = local_features(model, Images(scenes, model.transform()), 2)
        assert torch.allclose(again.backbone, found.backbone, atol=1e-5) and again.text_index.tolist() == list(range(5))

    def test_what_cannot_be_read_is_named(self, model: PredictorModel, tmp_path: Path) -> None:
        table = write_folder(tmp_path / "photos")
        (tmp_path / "photos/2.jpg").write_bytes(b"broken")
        source = open_evaluation_set({"name": str(table), "retrieval": True}).source
        found = extract(model, Images(source, model.transform()), tmp_path / "f.safetensors", trainer=CPU)
        assert found.index.tolist() == [0, 1, 3, 4, 5] and found.skipped == {"sample 2": "not an image"}

    def test_bad_features(self, tmp_path: Path) -> None:
        features = Features(torch.eye(2), torch.eye(2), torch.tensor([0, 3]), torch.arange(2), ["a", "b"])
        with pytest.raises(InputError, match="image 'b' of x has label 3, outside the 3 class names"):
            features.checked("x", 3)
        with pytest.raises(InputError, match="hold NaN or infinite values"):
            Features(torch.full((2, 2), torch.nan), torch.eye(2), torch.zeros(2), torch.arange(2)).checked("x")
        with pytest.raises(InputError, match="has no image that could be read"):
            Features(*(torch.zeros(0, 2),) * 2, torch.zeros(0), torch.zeros(0)).checked("x")
        save_features(features, tmp_path / "f.safetensors")
        content = (tmp_path / "f.safetensors").read_bytes()
        (tmp_path / "f.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match="are broken .*: delete the file"):
            load_features(tmp_path / "f.safetensors")


class TestSuite:
    def test_second_time_nothing_is_computed(
        self, model: PredictorModel, measured: tuple[Outcome, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, folder = measured
        monkeypatch.setattr(PredictorModel, "encode_image", None)
        monkeypatch.setattr(PredictorModel, "encode_text", None)
        second = run_suite(suite(folder), [model])
        assert first.extracted and not second.extracted and not second.failures
        assert second.results["scenes"]["zero_shot"]["small"].metrics == first.results["scenes"]["zero_shot"]["small"].metrics
        sets = {"scenes": {**SETS["scenes"], "protocols": [{"name": "zero_shot", "bins": 5}]}}
        assert not run_suite(suite(folder, sets), [model]).failures  # other settings, the same features

    def test_another_models_features_are_not_taken(self, model: PredictorModel, tmp_path: Path) -> None:
        sets = {"scenes": {**SETS["scenes"], "protocols": ["zero_shot"]}}
        run_suite(suite(tmp_path, sets), [model])
        pl.seed_everything(1)
        other = PredictorModel(small_module().predictor, "small").eval()
        assert run_suite(suite(tmp_path, sets), [other]).extracted and other.identity != model.identity  # type: ignore[list-item]

    def test_goes_on_after_failures(self, model: PredictorModel, tmp_path: Path) -> None:
        sets = {
            "gone": {"name": str(tmp_path / "gone"), "protocols": ["zero_shot"]},
            "one_class": {**SCENES, "size": 8, "class_names": [f"c{n}" for n in range(8)], "protocols": ["linear_probe"]},
            "few": {**SETS["scenes"], "protocols": [{"name": "few_shot", "shots": [100]}, "zero_shot"]},
        }
        outcome = run_suite(suite(tmp_path / "out", sets), [model])
        reasons = {(failure.dataset, failure.protocol): failure.reason for failure in outcome.failures}
        assert "does not exist" in reasons["gone", "zero_shot"]
        assert "one_class has no train split" in reasons["one_class", "linear_probe"]
        assert "fewer than 100 shots" in reasons["few", "few_shot"] and list(outcome.results) == ["few"]
        assert "Not measured" in write_summary(outcome, tmp_path / "out").read_text()

    def test_report(self, measured: tuple[Outcome, Path], tmp_path: Path) -> None:
        outcome, _ = measured
        page = write_summary(outcome, tmp_path).read_text()
        for words in ("Models side by side", "few-shot", "Linear probe", "robustness", "small - other", "images found"):
            assert words in page
        record = json.loads((tmp_path / "report.json").read_text())
        assert record["results"]["scenes"]["zero_shot"]["other"]["metrics"]["top1"] <= 1
        assert (tmp_path / "report.csv").read_text().startswith("set,protocol,model,measure,value,chance")
        assert (tmp_path / "report.md").read_text().count("\n") == 2 + 10

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "the suite has no sets"),
            ({"sets": {}}, "the suite has no sets"),
            ({"sets": {"a": {"name": "x"}}}, "set 'a' of the suite has no protocols"),
            ({"sets": {"a": {"protocols": ["zero_shots"]}}}, "unknown protocol 'zero_shots': did you mean 'zero_shot'"),
            ({"set": {}}, "the suite has no setting 'set': did you mean 'sets'"),
        ],
    )
    def test_mistakes(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Suite.parse(given)

    def test_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save_checkpoint(tmp_path / "a.ckpt")
        sets = {"scenes": {**SETS["scenes"], "protocols": ["zero_shot"]}}
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"sets": sets, "trainer": CPU, "output": str(tmp_path / "out")}))
        command = ["evaluate", "--checkpoint", f"mine={tmp_path / 'a.ckpt'}", "--suite", str(tmp_path / "suite.yaml")]
        assert main(command) == 0 and (tmp_path / "out/report.html").exists() and "mine" in capsys.readouterr().out
        assert main(command) == 0 and "all features were there already" in capsys.readouterr().out
        gone = {"sets": {"gone": {"name": "gone", "protocols": ["zero_shot"]}}}
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump(gone))
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--output", str(tmp_path / "other")])
        assert stopped.value.code == 1 and "not measured: gone:" in capsys.readouterr().err
        assert main(["evaluate", "--checkpoint", "no.ckpt", "--suite", str(tmp_path / "suite.yaml")]) == 2


class TestModels:
    @pytest.mark.parametrize(
        ("name", "width"), corners([("ViT-S-32-alt", 384), ("RN50-quickgelu", 2048)], ("ViT-S-32-alt", 384))
    )
    def test_open_clip(self, name: str, width: int, tmp_path: Path) -> None:
        import open_clip

        pl.seed_everything(0)
        reference = open_clip.create_model(name).eval()
        torch.save(reference.state_dict(), tmp_path / "weights.pt")
        model = open_model(f"open_clip:{name}/{tmp_path / 'weights.pt'}")
        pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
        mean, std = (
            torch.tensor(value).view(1, 3, 1, 1) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )
        with torch.no_grad():
            expected = reference.encode_image((pixels / 255 - mean) / std, normalize=True)
            texts = reference.encode_text(open_clip.tokenize(["a cat", "two dogs"]), normalize=True)
            features, backbone = model.encode_image(pixels)
        assert torch.allclose(features, expected, atol=1e-5) and backbone.shape == (2, width)
        assert torch.allclose(model.encode_text(["a cat", "two dogs"]), texts, atol=1e-5)

    def test_hugging_face_folder(self, tmp_path: Path) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

        pl.seed_everything(0)
        small = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "projection_dim": 8,
        }
        text = {
            **small,
            "vocab_size": 10,
            "max_position_embeddings": 12,
            "eos_token_id": 2,
            "bos_token_id": 1,
            "pad_token_id": 0,
        }
        config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=8)
        reference = CLIPModel(config).eval()
        backend = Tokenizer(
            models.WordLevel({"<pad>": 0, "<s>": 1, "cat": 2, "dog": 3, "a": 4, "<unk>": 5, "</s>": 6}, "<unk>")
        )
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
        reference.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
        model = open_model(str(tmp_path))
        pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        processor = CLIPImageProcessor.from_pretrained(tmp_path)
        inputs = processor(list(pixels), return_tensors="pt", do_resize=False)
        with torch.no_grad():
            expected = reference.get_image_features(**inputs).pooler_output
            features, _ = model.encode_image(pixels)
        assert model.image_size == 32 and torch.allclose(features, normalize(expected, dim=-1), atol=1e-5)
        assert model.encode_text(["a cat", "dog", "a cat"]).shape == (3, 8)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("open_clip:ViT-B-32", "must be open_clip:NAME/WEIGHTS"),
            ("open_clip:ViT-B-33/openai", "no model 'ViT-B-33': did you mean 'ViT-B-32"),
            ("open_clip:ViT-B-32/openay", "no weights 'openay' of ViT-B-32: did you mean 'openai'"),
            ("gone.ckpt", "'gone.ckpt' does not exist"),
            ("hf:/no/such/folder", "folder '/no/such/folder' does not exist"),
            ("hf:no/such-model", "cannot be loaded .* Without network give a folder or a file"),
        ],
    )
    def test_mistakes(self, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match=message):
            open_model(name)

    def test_whatever_has_a_predictor(self) -> None:
        module = small_module()

        class Watched:
            predictor = module.predictor

        named = {"ClipModule": module, "Predictor": module.predictor, "Watched": Watched()}
        texts = module.encode_text(["a cat"])
        for name, source in named.items():
            model = open_model(source)
            assert model.name == name and not model.predictor.model.training  # type: ignore[union-attr]
            torch.testing.assert_close(model.encode_text(["a cat"]), texts)
            assert open_model(model) is model
        with pytest.raises(InputError, match="Linear has no predictor: give a ClipModule, or a LightningModule with"):
            open_model(torch.nn.Linear(2, 2))  # type: ignore[arg-type]

    def test_identity_knows_weights_preprocessing_and_vocabulary(self) -> None:
        def identity(**arguments: Any) -> str:
            pl.seed_everything(0)
            return open_model(small_module(**arguments)).identity

        first = identity()
        assert identity() == first
        others = [
            identity(transform={"resize": "pad"}),
            identity(transform={"resize": "pad", "fill": 0}),
            identity(transform={"resize": "floor_crop"}),
            identity(transform={"interpolation": "bilinear"}),
            identity(tokenizer={"name": "clip", "context_length": 16}),
            identity(embed_dim=8),
        ]
        assert len({first, *others}) == 7


def shown(example: str) -> str:
    """The code of an example on the page about evaluating."""
    page = (Path(__file__).parents[2] / "docs/concepts/evaluating.md").read_text("utf-8")
    return page.partition(f"<!-- example: {example} -->\n```python\n")[2].partition("```")[0]


class TestPage:
    def test_a_predictor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        save_checkpoint(tmp_path / "last.ckpt")
        names: dict[str, Any] = {"images": torch.zeros(3, 3, 40, 40, dtype=torch.uint8)}
        exec(shown("predictor").replace("predictor.scores", "scores = predictor.scores"), names)
        assert names["scores"].shape == (3, 2)

    def test_a_model_of_another_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        sets = {
            "scenes": {**SCENES, "size": 20, "protocols": ["zero_shot", "retrieval", "linear_probe"], "train": {"size": 60}}
        }
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"sets": sets, "trainer": CPU}))
        names: dict[str, Any] = {}
        exec(shown("evaluated model"), names)
        outcome = names["outcome"]
        assert not outcome.failures and set(outcome.results["scenes"]) == {"zero_shot", "retrieval", "linear_probe"}
        assert names["Brightness"]("again", image_size=32).identity == names["Brightness"]("b", image_size=32).identity


def test_a_trainer_that_lightning_refuses(tmp_path: Path) -> None:
    """Once, before anything is read, and not for every protocol of every set."""
    sets = {"scenes": {"name": "synthetic", "size": 4, "protocols": ["zero_shot"]}}
    suite = Suite(sets, output=str(tmp_path / "out"), trainer={"accelerator": 1000})
    with pytest.raises(
        InputError, match=r"the suite's trainer \{'accelerator': 1000\} is refused by Lightning: You selected an"
    ):
        run_suite(suite, [])
