"""What every tower answers: its column, collation, features beside tokens in one pass, and defaults of what it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from encoders.test_wrapped import IMAGES, TEXTS
from small import IMAGE, TEXT
from torch import Tensor, nn

from lightning_clip import InputError
from lightning_clip.encoders import (
    ClipTextTransformer,
    ImageEncoder,
    TimmImageEncoder,
    Tower,
    image_encoders,
    text_encoders,
    towers,
)


class Coordinates(Tower):
    """A tower of a further column, with nothing but what it must have."""

    column = "gps"

    def __init__(self, width: int = 8) -> None:
        super().__init__(output_dim=width)
        self.layer = nn.Linear(2, width)

    def forward(self, gps: Tensor) -> Tensor:
        features: Tensor = self.layer(gps)
        return features


class Series(Coordinates):
    """A tower with tokens."""

    column = "series"

    def forward(self, series: Tensor) -> Tensor:
        return self.forward_tokens(series).mean(dim=1)

    def forward_tokens(self, series: Tensor) -> Tensor:
        tokens: Tensor = self.layer(series)
        return tokens


class TestCollation:
    def test_numbers_and_arrays(self) -> None:
        gps = Tower.collate([(48.9, 2.4), np.array([52.5, 13.4]), torch.tensor([41.9, 12.5], dtype=torch.float16)])
        assert gps.shape == (3, 2) and gps.dtype == torch.float32
        years = Tower.collate([1999, np.int32(2024), True])
        assert years.tolist() == [1999, 2024, 1] and years.dtype == torch.int64
        assert Tower.collate([0.5, 1.5]).shape == (2,) and len(Tower.collate([])) == 0

    def test_pixels_stay_uint8_for_image_towers_alone(self) -> None:
        pixels = [torch.full((3, 2, 2), 7, dtype=torch.uint8)] * 2
        assert ImageEncoder.collate(pixels).dtype == torch.uint8 and Tower.collate(pixels).dtype == torch.int64
        assert ImageEncoder.collate([torch.rand(1, 2, 2, dtype=torch.float64)]).dtype == torch.float32

    def test_ragged_shapes_are_named(self) -> None:
        with pytest.raises(InputError, match=r"different shapes \(16000,\), \(12000,\): .* pad them in the tower's collate"):
            Tower.collate([np.zeros(16000), np.zeros(12000), np.zeros(16000)])

    def test_what_is_no_number(self) -> None:
        with pytest.raises(InputError, match=r"values of type str, tuple cannot be stacked .*: give numbers or arrays"):
            Tower.collate(["Paris", (48.9, 2.4)])


class TestDefaults:
    def test_column(self) -> None:
        assert (Coordinates().column, image_encoders.build(IMAGE).column) == ("gps", "image")
        assert text_encoders.build({**TEXT, "vocab_size": 60}).column == "text"

        class Depth(Tower):
            def forward(self, depth: Tensor) -> Tensor:
                return depth

        assert Depth(4).column == "" and Depth(4, "depth").column == "depth"

    def test_what_a_tower_lacks(self) -> None:
        tower = Coordinates()
        assert tower.blocks() == [] and tower.to_mapping() is None
        for method in (tower.forward_tokens, tower.forward_both):
            with pytest.raises(InputError, match="Coordinates gives one vector per sample and has no token output"):
                method(torch.zeros(2, 2))
        with pytest.raises(
            InputError, match="Coordinates cannot checkpoint its activations: omit it from execution.checkpoint"
        ):
            tower.checkpoint_blocks()
        with pytest.raises(InputError, match=r"Coordinates has no token_table\(\), which learned prompts and new tokens"):
            tower.token_table()
        with pytest.raises(InputError, match="cannot be grown to 99 tokens and a context of 8: omit new_tokens"):
            tower.grow(99, 8)

    def test_a_text_tower_of_fixed_size_grows_by_nothing(self) -> None:
        tower = text_encoders.build(TEXTS["open_clip"])
        tower.grow(50, 16)
        with pytest.raises(InputError, match="cannot be grown to 51 tokens and a context of 16"):
            tower.grow(51, 16)

    def test_registry(self) -> None:
        towers.register("test_gps")(Coordinates)
        tower = towers.build({"name": "test_gps", "width": 4})
        assert isinstance(tower, Coordinates) and tower.output_dim == 4
        assert isinstance(towers.build(IMAGE), TimmImageEncoder)  # depth and spectrograms are pictures
        assert isinstance(towers.build({**TEXT, "vocab_size": 60}), ClipTextTransformer)
        with pytest.raises(InputError, match="unknown tower 'test_gsp': did you mean 'test_gps'"):
            towers.build("test_gsp")


class Passes:
    """Counts how often the layers of a tower run."""

    def __init__(self, tower: Tower) -> None:
        self.count = 0
        tower.blocks()[-1].register_forward_hook(self._more)

    def _more(self, *_: Any) -> None:
        self.count += 1


def check_both(tower: Tower, *value: Tensor) -> None:
    """One pass gives what two do."""
    tower.eval()
    features, tokens = tower(*value), tower.forward_tokens(*value)
    passes = Passes(tower)
    both = tower.forward_both(*value)
    assert passes.count == 1
    torch.testing.assert_close(both[0], features)
    torch.testing.assert_close(both[1], tokens)


class TestBoth:
    @pytest.mark.parametrize(
        "spec",
        [
            IMAGE,
            *(
                {"name": name, "image_size": 64}
                for name in ("resnet10t", "resnet50_clip", "mobilenetv3_small_050", "lcnet_035")
            ),
            {"name": "convnext_atto", "image_size": 64, "depths": [1, 1, 1, 1]},
            {"name": "vit_tiny_patch16_224", "image_size": 32, "depth": 1, "global_pool": "avg"},
            {"name": "deit_tiny_distilled_patch16_224", "image_size": 32, "depth": 1},
            *(IMAGES[kind] for kind in ("open_clip", "open_clip_timm", "hf", "hf_family")),
        ],
        ids=lambda spec: f"{spec['name']}-{len(spec)}",
    )
    def test_images(self, spec: dict[str, Any]) -> None:
        tower = image_encoders.build(spec)
        check_both(tower, torch.randn(2, 3, tower.image_size, tower.image_size))

    @pytest.mark.parametrize(
        "spec", [{**TEXT, "vocab_size": 50}, *TEXTS.values()], ids=lambda spec: f"{spec['name']}-{len(spec)}"
    )
    def test_texts(self, spec: dict[str, Any]) -> None:
        mask = torch.arange(8) < torch.tensor([[8], [5], [3]])
        check_both(text_encoders.build(spec), torch.randint(2, 50, (3, 8)), mask)

    def test_two_passes_by_default(self) -> None:
        tower, series = Series(), torch.randn(2, 5, 2)
        features, tokens = tower.forward_both(series)
        assert tokens.shape == (2, 5, 8)
        torch.testing.assert_close(tokens.mean(dim=1), features)
