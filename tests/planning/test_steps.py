"""What `plan` counts of decoders, further texts and phases, beside torch's own count of a real training step."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from counting import library_counter
from rich.console import Console
from small import IMAGE, TEXT

from lightning_clip import ClipModule, InputError, PairBatch
from lightning_clip.planning import Machines, Plan, find_device, make_plan
from lightning_clip.planning.tables import plan_mapping, plan_tables

SIZE = 6
WORDS = ("red", "blue", "green", "black", "white", "small")
DECODER = {"width": 32, "layers": 2, "heads": 2}
OBJECTIVES: dict[str, Any] = {
    "pairs": "pairs",
    "coca": {"name": "coca", "decoder": {"layers": 2, "heads": 2, "queries": 3}},
    "coca_without_pooler": {"name": "coca", "decoder": {**DECODER, "width": 16}},
    "captioning": {"name": "captioning", "backward": True, "decoder": DECODER},
    "captioning_beside_pairs": [{"name": "pairs"}, {"name": "captioning", "decoder": DECODER, "weight": 0.5}],
    "several_texts": {"name": "several_texts", "count": 2},
    "negclip": {"name": "negclip"},
}
HALF, SMALL = {"until": 0.5, "keep_tokens": 0.5}, {"until": 0.75, "image_size": 16}


def module_of(objective: Any, **arguments: Any) -> ClipModule:
    torch.manual_seed(0)
    text = None if isinstance(objective, dict) and objective["name"] == "captioning" else TEXT
    image = {**IMAGE, "patch_size": 8}
    tokenizer = {"name": "clip", "context_length": 24}
    return ClipModule(image, text, objective=objective, embed_dim=16, tokenizer=tokenizer, **arguments)


def plan_of(module: ClipModule, **options: Any) -> Plan:
    machines = Machines(find_device("a100"), 1, "32-true", mfu=0.3)
    return make_plan(module, machines, **{"samples": 1000, "local_batch_size": SIZE, "caption_length": 8, **options})


def counted(module: ClipModule, image_size: int = 32) -> int:
    """FLOPs of one step, captions all of eight tokens, without the sharing of rows by captions that begin alike."""
    module.configure_model()
    module.train()
    module.model.text_chunks = 1
    captions = [tuple(f"a {word} {thing} lies right here" for thing in ("cube", "ball", "ring")) for word in WORDS]
    texts = [own[0] for own in captions]
    tokens, mask = module.tokenizer(texts)  # type: ignore[misc]
    assert tokens.shape[1] == 8 and mask.all()
    image = torch.randint(0, 256, (SIZE, 3, image_size, image_size), dtype=torch.uint8)
    batch = PairBatch(image, tokens, mask, torch.full((SIZE,), -1), torch.arange(SIZE), captions, list(WORDS), [], texts=texts)
    library = library_counter()
    library.flop_registry[torch.ops.aten.addmm_] = library.flop_registry[torch.ops.aten.addmm]  # of the loss, in place
    with library:
        module.compute_loss(module.encode_batch(batch), batch)["loss"].backward()
    return int(library.get_total_flops())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_of_a_step(name: str) -> None:
    """To 0.1 %: of captioning alone the head of the features, which nothing reads, is counted, too."""
    plan = plan_of(module_of(OBJECTIVES[name]))
    expected = counted(module_of(OBJECTIVES[name]))
    assert plan.flops_per_sample.useful * SIZE == pytest.approx(expected, rel=1e-3 if name == "captioning" else 1e-12)
    assert plan.uncounted == ()


def test_further_texts_pass_the_text_tower_again() -> None:
    one, three = plan_of(module_of("pairs")), plan_of(module_of(OBJECTIVES["several_texts"]))
    (image, text), (same, more) = one.towers, three.towers
    assert same == image and more.parameters == text.parameters
    assert more.flops == text.flops * 3 and more.activations == 3 * text.activations
    assert three.loss == one.loss * 3 and three.memory.loss > one.memory.loss


class TestPhases:
    def test_each_phase_is_a_step_of_its_own(self) -> None:
        """Means over the run by the phases' shares; each is what such a step computes."""
        plan = plan_of(module_of("pairs", training={"phases": [HALF, SMALL]}))
        whole = plan_of(module_of("pairs"))
        first, second, last = plan.phases
        assert (first.share, second.share, last.share) == (0.5, 0.25, 0.25)
        assert last.flops.useful == whole.phases[0].flops.useful
        mean = 0.5 * first.flops.useful + 0.25 * second.flops.useful + 0.25 * last.flops.useful
        assert sum(tower.flops.useful for tower in plan.towers) == pytest.approx(mean, rel=1e-12)
        assert plan.memory == whole.memory and plan.seconds < whole.seconds
        small = module_of("pairs")
        small.configure_model()
        small.model.tower("image").take_sizes()
        assert (second.flops + plan.loss).useful * SIZE == counted(small, 16)
        half = module_of("pairs")
        half.configure_model()
        half.model.tower("image").drop_tokens(0.5)
        assert (first.flops + plan.loss).useful * SIZE == counted(half)

    def test_a_decoder_looks_at_fewer_tokens(self) -> None:
        plan = plan_of(module_of(OBJECTIVES["coca"], training={"phases": [HALF]}))
        first, last = plan.phases
        assert first.towers[2].name == "captioner" and first.towers[2].flops.useful < last.towers[2].flops.useful

    def test_the_tables_and_plain_figures_say_them(self) -> None:
        plan = plan_of(module_of("pairs", training={"phases": [HALF, SMALL]}))
        found = plan_mapping(plan)["phases"]
        assert [entry.get("image_size") for entry in found] == [None, 16, None] and found[0]["keep_tokens"] == 0.5
        console = Console(width=120, record=True, file=io.StringIO())
        for table in plan_tables(plan, "a run"):
            console.print(table)
        text = console.export_text()
        assert "32 pixels, 50 % of patches" in text and "16 pixels" in text and "25 %" in text

    def test_mistakes(self) -> None:
        with pytest.raises(InputError, match="phases.image_size 64 is above the image tower's 32"):
            plan_of(module_of("pairs", training={"phases": [{"until": 0.5, "image_size": 64}]}))


def test_what_is_not_counted_is_said() -> None:
    views = {"image": {"transform": {"views": 3}}}
    objective = [{"name": "pairs"}, {"name": "silc", "prototypes": 32}]
    plan = plan_of(module_of(objective, towers=views))
    assert plan.uncounted == ("silc",) and plan_mapping(plan)["not_counted"] == ["silc"]
    assert "Not counted: what objective silc computes besides." in str(plan_tables(plan, "a run")[-1])
