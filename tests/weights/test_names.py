"""Names of weights as people write them: the error names the one that works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from small import save_checkpoint, small_module

from lightning_clip import ClipModule, InputError
from lightning_clip.cli import main
from lightning_clip.export.export import export
from lightning_clip.loading import open_module

MEANT = {
    "ViT-B-32": "open_clip:ViT-B-32/openai",
    "ViT-B/32": "open_clip:ViT-B-32/openai",
    "vit-l-14": "open_clip:ViT-L-14/openai",
    "RN50": "open_clip:RN50/openai",
    "ViT-B-32/laion2b_s34b_b79k": "open_clip:ViT-B-32/laion2b_s34b_b79k",
    "openai/clip-vit-base-patch32": "hf:openai/clip-vit-base-patch32",
    "google/siglip-base-patch16-224": "hf:google/siglip-base-patch16-224",
    "hf-hub:timm/ViT-B-16-SigLIP": "open_clip:hf-hub:timm/ViT-B-16-SigLIP",
    "https://huggingface.co/openai/clip-vit-base-patch32": "hf:openai/clip-vit-base-patch32",
}


@pytest.mark.parametrize("name", MEANT)
def test_the_prefix_that_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for opened in (open_module, ClipModule.from_pretrained, lambda source: ClipModule(pretrained=source)):
        with pytest.raises(InputError, match=f"{name}' does not exist as a path: .*write '{MEANT[name]}'"):
            opened(name)


def test_paths_stay_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/mine", "runs/last.ckpt", "nothing/last.ckpt", "mine.ckpt", "/none/such/folder"):
        with pytest.raises(InputError, match="does not exist(: there is no folder|. In )"):
            open_module(path)


class TestNotFinite:
    def test_every_command_says_so(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        module = small_module()
        module.configure_model()
        with torch.no_grad():
            module.model.image_encoder.model.blocks[0].mlp.fc1.weight[0, 0] = torch.nan
        path = str(save_checkpoint(tmp_path / "last.ckpt", module))
        Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
        for command in (
            ["classify", str(tmp_path / "a.png"), "--labels", "cat,dog", "--checkpoint", path],
            ["export", path, "--format", "safetensors", "--output", str(tmp_path / "out")],
        ):
            code, said = main(command), capsys.readouterr()
            assert code == 2 and "nan %" not in said.out
            assert "are NaN or infinite: image_encoder.model.blocks.*.mlp.fc1.weight" in " ".join(said.err.split())
        with pytest.raises(InputError, match="weights of 'the module' are NaN or infinite: .*diverged"):
            export(module, "safetensors", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_repeated_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["classify", "a.png", "--labels", "cat, dog,cat ", "--checkpoint", "none.ckpt"])
    assert code == 2 and "names 'cat' twice: give each label once" in " ".join(capsys.readouterr().err.split())
