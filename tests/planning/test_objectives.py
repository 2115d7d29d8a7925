"""What an objective adds to the towers is counted: vocabulary layers and decoders."""

from __future__ import annotations

from typing import Any

import pytest
from small import IMAGE, TEXT

from lightning_clip import ClipModule
from lightning_clip.planning import Machines, find_device, make_plan
from lightning_clip.planning.tables import plan_mapping

WORDS = {"name": "words", "vocabulary": [str(number) for number in range(1000)]}


def plan_of(objective: Any, **options: Any) -> Any:
    text = TEXT if isinstance(objective, list) or objective == "pairs" else None
    module = ClipModule(IMAGE, text, objective=objective, embed_dim=16, tokenizer={"name": "clip", "context_length": 24})
    machines = Machines(find_device("a100"), 1, "32-true", mfu=0.3)
    return make_plan(module, machines, samples=1000, local_batch_size=8, **options)


def test_a_vocabulary_layer() -> None:
    """2 D V forward; twice that backward."""
    plan = plan_of(WORDS)
    image, words = plan.towers
    assert (words.name, words.parameters) == ("words", 17 * 1000)
    assert words.flops.forward == 2 * 16 * 1000 and words.flops.backward == 2 * words.flops.forward
    assert plan.loss.forward == 0 and plan.flops_per_sample.forward == image.flops.forward + words.flops.forward
    assert set(plan_mapping(plan)["flops_per_sample"]) == {"image", "words", "loss"}


def test_beside_pairs() -> None:
    both, pairs = plan_of([{"name": "pairs"}, {**WORDS, "weight": 0.5}]), plan_of("pairs")
    assert [tower.name for tower in both.towers] == ["image", "text", "words"]
    assert both.flops_per_sample.forward - pairs.flops_per_sample.forward == 2 * 16 * 1000
    assert both.loss == pairs.loss and both.memory.total > pairs.memory.total
    unused = plan_of([{"name": "pairs"}, {**WORDS, "weight": 0}])
    assert [tower.name for tower in unused.towers] == ["image", "text"]


@pytest.mark.parametrize("name", ["captioning", "masked_words"])
def test_a_decoder(name: str) -> None:
    """Its parameters, and products that grow with the length of captions: at least those of the output layer."""
    objective = {"name": name, "decoder": {"width": 32, "layers": 1, "heads": 2}}
    short, long = plan_of(objective, caption_length=8), plan_of(objective, caption_length=16)
    decoder = ClipModule(IMAGE, objective=objective, embed_dim=16, tokenizer={"name": "clip", "context_length": 24}).model
    expected = sum(weight.numel() for weight in getattr(decoder, name).parameters())
    assert short.towers[-1].parameters == expected and short.towers[-1].kind == "part"
    difference = long.towers[-1].flops.forward - short.towers[-1].flops.forward
    assert 8 * 2 * 32 * 49408 < difference < 1.1 * 8 * 2 * 32 * 49408
