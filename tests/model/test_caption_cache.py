"""Captions written with kept keys and values are those of computing all of a caption in each step; each decoder writes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives.test_coca import CONFIG, OWN
from small import IMAGE, save_checkpoint, small_module, write_folder
from torch import Tensor

from lightning_clip import ClipModule, InputError
from lightning_clip.cli import main
from lightning_clip.data import train_tokenizer
from lightning_clip.data.decoding import decode
from lightning_clip.export.export import export
from lightning_clip.model.caption_logs import caption_decoder, next_logs
from lightning_clip.model.captioner import Captioner

OPEN_CLIP = {"name": "open_clip", "embed_dim": 16, "config": {**CONFIG["text_cfg"], "vocab_size": 300, "layers": 2}}
TIED = {**OPEN_CLIP, "config": {key: value for key, value in OPEN_CLIP["config"].items() if key != "embed_cls"}}  # type: ignore
VIRTEX = {"name": "captioning", "backward": True, "decoder": {"width": 32, "layers": 2, "heads": 4}}
CASES: dict[str, dict[str, Any]] = {
    "coca": {"objective": {**OWN, "decoder": {"layers": 2, "heads": 2, "queries": 3}}},
    "coca_other_width": {"objective": {"name": "coca", "decoder": {"width": 64, "layers": 1, "heads": 4}}},
    "coca_of_open_clip": {"objective": OWN, "text_encoder": OPEN_CLIP},
    "open_clip_without_class_token": {"objective": OWN, "text_encoder": TIED},
    "captioning": {"objective": VIRTEX, "text_encoder": None},
    "captioning_beside_pairs": {"objective": [{"name": "pairs"}, {**VIRTEX, "weight": 0.5}]},
}


@functools.cache
def tokenizer() -> Any:
    return train_tokenizer(["a red cube and a blue ball", "picture 1 of a dog"], 300, 24).to_mapping()


@functools.cache
def module_of(case: str) -> ClipModule:
    """Random weights, large enough that captions depend on the image and on what was written."""
    torch.manual_seed(0)
    module = small_module(image_encoder={**IMAGE, "patch_size": 8}, tokenizer=tokenizer(), **CASES[case])
    module.configure_model()
    with torch.no_grad():
        for name, weight in module.model.named_parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight), alpha=0.3 if "embedding" in name else 0.15)
    return module.eval()


def pixels(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", CASES)
class TestCache:
    def logs(self, case: str, cache: bool) -> list[Tensor]:
        """Of three captions of each of two images, which change places in each step; some ids are 0, CoCa's padding."""
        model, size = module_of(case).model, module_of(case).tokenizer.vocab_size  # type: ignore[union-attr]
        generator = torch.Generator().manual_seed(1)
        found = []
        with torch.no_grad():
            ask = next_logs(model, caption_decoder(model), model.encode_with_tokens("image", pixels(2))[1], cache)  # type: ignore
            ids, rows, came_from = torch.full((6, 1), size - 2), torch.arange(2).repeat_interleave(3), None
            for _ in range(8):
                found.append(ask(rows, ids, came_from))
                came_from = torch.cat([torch.randint(0, 3, (3,), generator=generator) + 3 * image for image in range(2)])
                new = torch.randint(0, size, (6, 1), generator=generator)
                new[torch.rand(6, 1, generator=generator) < 0.4] = 0
                ids = torch.cat([ids[came_from], new], dim=1)
        return found

    def test_log_probabilities(self, case: str) -> None:
        for kept, whole in zip(self.logs(case, True), self.logs(case, False), strict=True):
            assert whole.std() > 0.1
            assert (kept - whole).abs().max() <= 1e-5

    @pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
    def test_captions(self, case: str, method: str) -> None:
        found = []
        for cache in (True, False):
            captioner = Captioner(module_of(case).predictor, method, max_tokens=12, cache=cache)
            with torch.no_grad():
                found.append(captioner._ids(pixels(), 0))
        assert found[0] == found[1]
        assert len({tuple(row) for row in found[0]}) > 1


def test_each_step_computes_one_token() -> None:
    """The decoder's last layer sees one token of each caption with the cache, all of them without."""
    seen: dict[bool, list[int]] = {True: [], False: []}
    model: Any = module_of("coca").model
    for cache in (True, False):
        norms = (model.text_encoder.final_norm, model.captioner.model.ln_final)
        hooks = [
            norm.register_forward_hook(lambda _, given, __, cache=cache: seen[cache].append(given[0].shape[1]))
            for norm in norms
        ]
        Captioner(module_of("coca").predictor, "greedy", max_tokens=5, cache=cache)(pixels())
        for hook in hooks:
            hook.remove()
    assert set(seen[True]) == {1} and max(seen[False]) > 4


def test_a_tower_without_steps_is_computed_whole() -> None:
    """A hook on a block may change what it gives, so that the tower is called as it is; the decoder keeps its keys."""
    module = module_of("coca")
    block: Any = module.model.text_encoder.transformer[0]
    hook = block.attn.register_forward_hook(lambda _, __, out: 2 * out)
    try:
        assert module.model.text_encoder.steps() is None
        found = [Captioner(module.predictor, "beam", max_tokens=8, cache=cache)(pixels()) for cache in (True, False)]
    finally:
        hook.remove()
    assert found[0] == found[1] != Captioner(module.predictor, "beam", max_tokens=8)(pixels())


@pytest.mark.parametrize("case", ["captioning", "captioning_beside_pairs"])
@pytest.mark.parametrize("folder", [False, True])
def test_the_command_reads_models_of_captioning(
    case: str, folder: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "set", count=2)
    path = save_checkpoint(tmp_path / "model.ckpt", module_of(case))
    if folder:
        path = export(ClipModule.load_from_checkpoint(path), "safetensors", tmp_path / "out").folder
    arguments = [
        "caption",
        str(tmp_path / "set" / "0.jpg"),
        "--checkpoint",
        str(path),
        "--max-tokens",
        "6",
        "--method",
        "greedy",
    ]
    assert main(arguments) == 0
    image = decode((tmp_path / "set" / "0.jpg").read_bytes())
    assert capsys.readouterr().out == f"0.jpg: {Captioner(module_of(case).predictor, 'greedy', max_tokens=6)([image])[0]}\n"


def test_masked_words_write_no_captions() -> None:
    module = small_module(objective={"name": "masked_words"}, text_encoder=None, tokenizer=tokenizer())
    module.configure_model()
    with pytest.raises(
        InputError, match="has no decoder that writes captions: train with objective 'coca' or 'captioning', or"
    ):
        Captioner(module.predictor)
