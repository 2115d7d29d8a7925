"""What a user may call an objective, and mistakes in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from torch import Tensor, nn

from lightning_clip import ClipModule, ClipOutput, InputError, PairBatch, SoftmaxContrastiveLoss
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import ContrastivePairs, Objective, WeightedSum, build_objective, objectives


class Adds(Objective):
    """Adds a part of a name to the model and keeps it small."""

    def __init__(self, part: str = "decoder") -> None:
        super().__init__()
        self.part = part

    def reads(self) -> tuple[str, ...]:
        return ("image",)

    def build(self, space: SharedSpace) -> None:
        space.add_module(self.part, nn.Linear(16, 3))

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        return {"scores": getattr(space, self.part)(output.features["image"])}

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        return {"loss": output.rows["scores"].square().mean(), "largest": output.rows["scores"].detach().max()}


def batch_of(module: ClipModule) -> PairBatch:
    batch: PairBatch = next(iter(small_data().attach(module).train_dataloader()))
    return batch


def loss_of(objective: Any) -> dict[str, Tensor]:
    """Of the same weights and pairs under another objective."""
    torch.manual_seed(0)
    module = small_module(objective=objective)
    batch = batch_of(module)
    return module.compute_loss(module.encoded_rows(batch), batch)


class TestNames:
    @pytest.mark.parametrize(
        "spec",
        [
            None,
            "pairs",
            "softmax",
            {"name": "softmax"},
            {"name": "pairs", "loss": "softmax"},
            {"name": "pairs", "loss": {"name": "softmax"}, "between": ["image", "text"]},
            SoftmaxContrastiveLoss(),
            ContrastivePairs(),
        ],
        ids=["default", "pairs", "loss", "loss mapping", "nested", "between", "live loss", "live objective"],
    )
    def test_ways_to_say_the_same(self, spec: Any) -> None:
        module = small_module(objective=spec)
        assert type(module.objective) is ContrastivePairs and type(module.objective.loss) is SoftmaxContrastiveLoss
        assert torch.equal(loss_of(spec)["loss"], loss_of("pairs")["loss"])

    def test_settings_of_a_loss(self) -> None:
        objective = build_objective({"name": "softmax", "image_weight": 0.75})
        assert isinstance(objective, ContrastivePairs) and objective.loss.image_weight == 0.75  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("sofmax", "unknown objective 'sofmax'"),
            ({"name": "pairs", "loss": "sofmax"}, "unknown loss 'sofmax': did you mean 'softmax'"),
            ({"name": "pairs", "los": "softmax"}, "objective 'pairs' has no setting 'los': did you mean 'loss'"),
            ({"loss": "softmax"}, "objective .* has no 'name': give one of"),
            ({"name": "pairs", "between": ["image"]}, r"'pairs'.between \['image'\] must be a list of 2 names"),
            ({"name": "pairs", "between": ["text", "text"]}, r"between \['text', 'text'\] must be two columns"),
        ],
    )
    def test_mistakes(self, spec: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            small_module(objective=spec)


class TestSum:
    def test_weights(self) -> None:
        parts = loss_of([{"name": "softmax"}, {"name": "sigmoid", "weight": 0.25}])
        assert set(parts) == {"loss", "softmax", "sigmoid"}
        torch.testing.assert_close(parts["loss"], parts["softmax"] + 0.25 * parts["sigmoid"])
        torch.testing.assert_close(parts["softmax"], loss_of("softmax")["loss"])

    def test_names_and_objects_without_weights(self) -> None:
        parts = loss_of(["pairs", ContrastivePairs()])
        torch.testing.assert_close(parts["loss"], parts["pairs"] + parts["ContrastivePairs"])

    def test_a_name_twice(self) -> None:
        both = build_objective([{"name": "pairs"}, {"name": "pairs", "between": ["image", "view2"], "weight": 0.5}])
        assert isinstance(both, WeightedSum) and both.weights == {"pairs": 1.0, "pairs_2": 0.5}
        assert both.reads() == ("image", "text", "view2")

    def test_a_single_one_with_a_weight(self) -> None:
        torch.testing.assert_close(loss_of({"name": "pairs", "weight": 2.0})["loss"], 2 * loss_of("pairs")["loss"])

    def test_temperature_and_bias_are_the_first_one_s(self) -> None:
        first, second = (small_module(objective=names) for names in (["sigmoid", "softmax"], ["softmax", "sigmoid"]))
        assert first.model.logit_bias is not None and second.model.logit_bias is None
        assert first.model.scale().item() == pytest.approx(10.0)

    def test_comes_back_from_a_checkpoint(self, tmp_path: Path) -> None:
        module = small_module(objective=[{"name": "softmax", "image_weight": 0.75}, {"name": "sigmoid", "weight": 0.25}])
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(module, small_data())
        assert {"train/loss", "train/pairs", "train/pairs_2"} & set(trainer.callback_metrics) or {
            "train/softmax",
            "train/sigmoid",
        } <= set(trainer.callback_metrics)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
        assert again.objective.to_mapping() == module.objective.to_mapping()
        assert list(again.objective.weights.values()) == [1.0, 0.25]  # type: ignore[union-attr,operator]

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ([], r"objective \[\] is an empty list: name at least one, such as pairs"),
            ([{"name": "pairs", "weight": 0}, {"name": "sigmoid", "weight": 0}], "weights of objectives .* are all 0: nothing"),
            ([{"name": "pairs", "weight": -1}], "the weight of objective 'pairs' -1 must be a number >= 0"),
            ([{"name": "pairs", "weight": "heavy"}], "the weight of objective 'pairs' 'heavy' must be a number >= 0"),
            ([{"name": "pairs"}, {"name": "sofmax"}], "unknown objective 'sofmax'"),
            ([{"name": "pairs"}, {"weight": 1.0}], "objective .* has no 'name': give one of .*pairs"),
        ],
        ids=["empty", "all 0", "negative", "no number", "unknown", "no name"],
    )
    def test_mistakes(self, spec: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            small_module(objective=spec)

    def test_which_one_reads_a_column_without_a_tower(self) -> None:
        spec = [{"name": "pairs"}, {"name": "pairs", "between": ["image", "sonar"]}]
        with pytest.raises(InputError, match=r"objective 'pairs_2' reads column 'sonar', but .* give towers: \{sonar: NAME\}"):
            small_module(objective=spec)
        with pytest.raises(InputError, match="objective 'Adds' reads column 'image', but no tower was built for it"):
            ClipModule("none", TEXT, objective=Adds())

    def test_two_that_add_one_part(self) -> None:
        objective = WeightedSum([("first", 1.0, Adds()), ("second", 1.0, Adds())])
        with pytest.raises(InputError, match="'first' and 'second' both add a part 'decoder' to the model: rename one"):
            small_module(objective=objective).configure_model()

    def test_parts_and_rows_of_each(self) -> None:
        objective = WeightedSum([("pairs", 1.0, ContrastivePairs()), ("a", 1.0, Adds("a")), ("b", 0.5, Adds("b"))])
        parts = loss_of(objective)
        assert set(parts) == {"loss", "pairs", "a", "b", "a_largest", "b_largest"} and not torch.equal(parts["a"], parts["b"])
        torch.testing.assert_close(parts["loss"], parts["pairs"] + parts["a"] + 0.5 * parts["b"])


class TestLive:
    def test_an_objective_without_a_name_is_asked_for(self, tmp_path: Path) -> None:
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(small_module(objective=Adds()), small_data())
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        with pytest.raises(InputError, match=r"live Adds as objective, .* load_from_checkpoint\(path, objective=...\)"):
            ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt", objective=Adds())
        assert isinstance(again.model.decoder, nn.Linear)

    def test_within_a_list(self, tmp_path: Path) -> None:
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(small_module(objective=["pairs", Adds()]), small_data())
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        with pytest.raises(InputError, match="live Adds as objective"):
            ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")

    def test_a_registered_one_comes_back_with_its_part(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(objectives._factories, "adds", Adds)
        module = ClipModule(IMAGE, objective={"name": "adds", "part": "extra"}, embed_dim=16)
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(module, small_data())
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        assert torch.equal(again.model.extra.weight, module.model.extra.weight)  # type: ignore[union-attr,arg-type]
