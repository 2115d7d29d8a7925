"""Towers are compiled block by block: equal blocks share a compilation, results and names stay."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lightning_clip.encoders import ImageEncoder, image_encoders, text_encoders
from lightning_clip.training.compiling import compile_tower


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts what is compiled, by a compiler that is done at once."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled(self, backend="eager", **options))
    torch.compiler.reset()
    counters.clear()
    yield counters["stats"]
    torch.compiler.reset()


def test_equal_blocks_of_an_image_tower_are_one_compilation_and_the_last_that_computes_one_token_another(graphs: Any) -> None:
    torch.manual_seed(0)
    tower = image_encoders.build({**IMAGE, "depth": 4})
    image = torch.randn(2, 3, 32, 32)
    expected, names = tower(image).detach(), list(tower.state_dict())
    compile_tower(tower)
    found = tower(image)
    found.sum().backward()
    assert graphs["unique_graphs"] == 2
    torch.testing.assert_close(found.detach(), expected)
    assert list(tower.state_dict()) == names


def test_captions_of_any_length_need_no_more_of_them(graphs: Any) -> None:
    tower = text_encoders.build({**TEXT, "layers": 3, "vocab_size": 100})
    plain = text_encoders.build({**TEXT, "layers": 3, "vocab_size": 100})
    plain.load_state_dict(tower.state_dict())
    compile_tower(tower)
    counts = []
    for rows, length in itertools.product((6, 4), (8, 16, 24)):
        tokens = torch.randint(100, (rows, length))
        mask = torch.ones_like(tokens, dtype=torch.bool)
        torch.testing.assert_close(tower(tokens, mask), plain(tokens, mask))
        counts.append(graphs["unique_graphs"])
    assert counts[-1] == counts[0]


def test_a_tower_without_blocks_is_compiled_as_a_whole(graphs: Any) -> None:
    class Mean(ImageEncoder):
        def forward(self, image: Tensor) -> Tensor:
            return image.mean(dim=(2, 3))

    tower = Mean(output_dim=3, image_size=4)
    compile_tower(tower)
    assert tower(torch.ones(2, 3, 4, 4)).tolist() == [[1.0] * 3] * 2
    assert graphs["unique_graphs"] == 1
