"""Recipes: plain mappings there and back, defaults, towers by column, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, small_module, small_trainer
from torch import Tensor, nn
from variants.senses import SETTINGS, Senses

import lightning_clip.variants  # noqa: F401  (registers the towers)
from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.encoders import Tower
from lightning_clip.model.recipe import Recipe, TowerSpec, recipe_of

GPS = {"name": "coordinates", "width": 16, "scales": [1.0, 4.0]}
OBJECTIVE = [{"name": "pairs"}, {"name": "pairs", "between": ["image", "gps"], "weight": 0.5}]


def three_towers(**arguments: Any) -> ClipModule:
    towers = {"image": {"projection": "mlp", "transform": {"flip": 0.5}}, "gps": {**GPS, "projection": "none"}}
    given = {"towers": towers, "objective": OBJECTIVE, **SETTINGS, **arguments}
    return ClipModule(IMAGE, TEXT, **given)


def saved(module: ClipModule, folder: Path, steps: int = 1) -> Path:
    trainer = small_trainer(folder, max_steps=steps)
    trainer.fit(module, ClipDataModule(Senses(), local_batch_size=8))
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


class TestThereAndBack:
    def test_of_three_towers(self) -> None:
        recipe = three_towers(embed_dim=16).recipe
        mapping = recipe.to_mapping()
        assert Recipe.from_mapping(json.loads(json.dumps(mapping))).to_mapping() == mapping
        assert mapping["image_encoder"] == IMAGE and mapping["text_encoder"] == TEXT and mapping["embed_dim"] == 16
        assert mapping["towers"]["image"] == {"projection": "mlp", "transform": {"flip": 0.5}}
        assert mapping["towers"]["gps"] == {**GPS, "projection": "none"}

    def test_of_views(self) -> None:
        recipe = ClipModule(IMAGE, objective={"name": "simclr"}, embed_dim=16).recipe
        mapping = recipe.to_mapping()
        assert mapping["towers"]["view2"] == {"share": "image"} and mapping["text_encoder"] is None
        again = Recipe.from_mapping(mapping)
        assert again.share == {"view2": "image"} and again.to_mapping() == mapping

    def test_arguments_build_the_module_again(self) -> None:
        module = three_towers(embed_dim=16)
        again = ClipModule(**module.to_mapping())
        again.load_state_dict(module.state_dict())
        assert again.to_mapping() == module.to_mapping()

    def test_live_towers_are_noted_by_class(self) -> None:
        class Mine(Tower):
            def forward(self, value: Tensor) -> Tensor:
                return value

        mapping = recipe_of(None, None, {"gps": Mine(2)}, 16, "pairs", None).to_mapping()
        assert mapping["towers"]["gps"] == {"live object": "Mine", "projection": None}


class TestTowerSpec:
    def test_what_is_said_completes_what_is_not(self) -> None:
        base = TowerSpec("vit", "linear", {"flip": 0.5, "resize": "pad"})
        assert TowerSpec(transform={"flip": 0.0}).over(base) == TowerSpec("vit", "linear", {"flip": 0.0, "resize": "pad"})
        assert TowerSpec("resnet50", "mlp").over(base) == TowerSpec("resnet50", "mlp", {"flip": 0.5, "resize": "pad"})

    def test_forms(self) -> None:
        assert TowerSpec.of("resnet50", "image") == TowerSpec("resnet50")
        assert TowerSpec.of({"name": "clip_text", "width": 8, "projection": "mlp"}, "text") == TowerSpec(
            {"name": "clip_text", "width": 8}, "mlp"
        )
        assert TowerSpec.of({"tower": "resnet50", "share": None}, "image") == TowerSpec("resnet50")
        assert TowerSpec.of(None, "image") == TowerSpec()

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ({"width": 8}, r"towers.gps has settings \['width'\] but no 'name' of the tower: add it, or give only projection"),
            ({"tower": "resnet50", "width": 8}, "towers.gps has no setting 'width'"),
            (7, "towers.gps 7 must be a mapping of settings"),
        ],
    )
    def test_mistakes(self, spec: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            TowerSpec.of(spec, "gps")


class TestTwoWords:
    def test_a_tower_by_its_column(self) -> None:
        module = ClipModule(None, TEXT, towers={"image": {**IMAGE, "projection": "mlp"}}, embed_dim=16)
        assert module.recipe.towers["image"].tower == IMAGE and module.image_size == 32

    def test_two_towers_for_one_column(self) -> None:
        with pytest.raises(InputError, match="image_encoder and towers.image both name a tower for column 'image': give one"):
            ClipModule(IMAGE, TEXT, towers={"image": IMAGE})

    def test_no_mapping(self) -> None:
        with pytest.raises(InputError, match="towers 'gps' must be a mapping of settings"):
            ClipModule(IMAGE, TEXT, towers="gps")  # type: ignore[arg-type]


class TestFurtherTowers:
    def test_checkpoint_is_enough(self, tmp_path: Path) -> None:
        module = three_towers(embed_dim=16)
        again = ClipModule.load_from_checkpoint(saved(module, tmp_path), weights_only=True)
        assert again.to_mapping() == module.to_mapping() and again.model.columns == ("image", "text", "gps")
        places = torch.tensor([[48.9, 2.4], [52.5, 13.4]])
        assert torch.equal(again.model.encode("gps", places), module.model.encode("gps", places))
        assert again.transform_settings.flip == 0.5

    def test_another_run_starts_from_all_of_them(self, tmp_path: Path) -> None:
        module = three_towers(embed_dim=16)
        again = ClipModule(pretrained=str(saved(module, tmp_path)))
        for name, value in module.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], value), name

    def test_what_was_trained_alone_finds_them_in_its_base(self, tmp_path: Path) -> None:
        (tmp_path / "base").mkdir()
        base = saved(three_towers(embed_dim=16), tmp_path / "base")
        adapt = {"text": {"lock": True}, "image": {"lock": True}, "store": "trained"}
        training = {"optimizer": {"lr": 1e-2, "warmup_steps": 0}, "adapt": adapt}
        module = ClipModule(pretrained=str(base), training=training)
        again = ClipModule.load_from_checkpoint(saved(module, tmp_path))
        places = torch.tensor([[48.9, 2.4]])
        assert torch.equal(again.model.encode("gps", places), module.model.encode("gps", places))
        assert torch.equal(again.encode_text("a dog"), module.eval().encode_text("a dog"))

    def test_a_live_one_is_asked_for(self, tmp_path: Path) -> None:
        class Mine(Tower):
            column = "gps"

            def __init__(self) -> None:
                super().__init__(output_dim=16)
                self.layer = nn.Linear(2, 16)

            def forward(self, gps: Tensor) -> Tensor:
                features: Tensor = self.layer(gps)
                return features

        towers = {"image": {"projection": "mlp", "transform": {"flip": 0.5}}, "gps": {"tower": Mine(), "projection": "none"}}
        module = three_towers(embed_dim=16, towers=towers)
        path = saved(module, tmp_path)
        with pytest.raises(
            InputError, match=r"live Mine as the tower of column 'gps', .* towers=\{'gps': ...\}\), or register"
        ):
            ClipModule.load_from_checkpoint(path)
        again = ClipModule.load_from_checkpoint(path, towers={"gps": Mine()})
        assert again.recipe.towers["gps"].projection == "none" and again.transform_settings.flip == 0.5
        assert torch.equal(again.model.tower("gps").layer.weight, module.model.tower("gps").layer.weight)

    def test_other_settings_of_a_stored_tower(self, tmp_path: Path) -> None:
        path = saved(three_towers(embed_dim=16), tmp_path)
        again = ClipModule.load_from_checkpoint(path, towers={"image": {"transform": {"resize": "pad"}}})
        assert again.transform_settings.resize == "pad" and again.transform_settings.flip == 0.5
        with pytest.raises(InputError, match="does not fit ClipModule"):
            ClipModule.load_from_checkpoint(path, towers={"image": {**IMAGE, "depth": 2}})


class InSignature(ClipModule):
    """Has defaults of its own for the encoders."""

    def __init__(self, image_encoder: Any = "resnet10t", text_encoder: Any = "clip_text_small", **arguments: Any) -> None:
        super().__init__(image_encoder, text_encoder, **arguments)


class InBody(ClipModule):
    """Likewise."""

    def __init__(self, image_encoder: Any = None, text_encoder: Any = None, **arguments: Any) -> None:
        super().__init__(image_encoder or "resnet10t", text_encoder or "clip_text_small", **arguments)


@pytest.mark.parametrize("kind", [InSignature, InBody])
def test_defaults_of_a_subclass_give_way_to_what_a_checkpoint_holds(kind: type[ClipModule], tmp_path: Path) -> None:
    module = kind(IMAGE, TEXT, embed_dim=16, tokenizer={"name": "clip", "context_length": 24})
    again = kind.load_from_checkpoint(saved(module, tmp_path), weights_only=True)
    assert again.to_mapping() == module.to_mapping()


def test_the_default_is_the_paper_s_pair() -> None:
    recipe = ClipModule().recipe
    assert {column: spec.tower for column, spec in recipe.towers.items()} == {
        "image": "vit_base_patch32_clip_224",
        "text": "clip_text_base",
    }
    assert recipe.embed_dim == 512 and not small_module().is_built
