"""`lightning-clip silence` writes a checkpoint that opens as others do; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small import save_checkpoint, small_module
from weights.families import shaken

from lightning_clip.applications.typography import Attack, find_reading_heads
from lightning_clip.cli import main
from lightning_clip.data import SyntheticSigns
from lightning_clip.loading import open_predictor

VIT = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
SIGNS = {"name": "signs", "show": "object", "size": 48, "image_size": 32, "val": {"split": "val"}, "protocols": ["typography"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that names more pictures right with a head silent: of models with random weights, one in two does."""
    scenes = SyntheticSigns("val", 48, show="object", image_size=32)
    images, labels = zip(*((scenes[place].image, place % 8) for place in range(48)), strict=True)
    for seed in range(20):
        torch.manual_seed(seed)
        module = small_module(image_encoder=VIT).eval()
        module.configure_model()
        shaken(module.model.image_encoder)
        found = find_reading_heads(module.predictor, list(images), labels, Attack(scenes.class_names), tolerance=1.0)
        if found.heads:
            return save_checkpoint(tmp_path_factory.mktemp("silence") / "last.ckpt", module)
    raise AssertionError("no model of twenty has a head that helps")


def suite(folder: Path, **changes: Any) -> str:
    (folder / "suite.yaml").write_text(
        yaml.safe_dump({"sets": {"signs": {**SIGNS, **changes}}, "output": str(folder / "found")})
    )
    return str(folder / "suite.yaml")


@pytest.mark.slow
def test_writes_a_model_that_opens_as_others_do(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "defended.ckpt"
    given = ["silence", str(checkpoint), "--suite", suite(tmp_path), "--output", str(output)]
    assert main([*given, "--tolerance", "1"]) == 0
    said = capsys.readouterr().out
    assert "48 pictures: " in said and f"wrote {output}: " in said and "of 4 heads silent" in said
    opened = open_predictor(output)
    assert 1 <= len(opened.model.image_encoder.heads) <= 4
    picture = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert not torch.allclose(opened.encode_image(picture), open_predictor(checkpoint).encode_image(picture), atol=1e-4)
    assert torch.equal(opened.encode_text(["a star"]), open_predictor(checkpoint).encode_text(["a star"]))
    assert main(["export", str(output), "--format", "safetensors", "--output", str(tmp_path / "folder")]) == 0
    assert torch.equal(open_predictor(tmp_path / "folder").encode_image(picture), opened.encode_image(picture))
    assert main(given) == 2 and "exists and is never replaced" in capsys.readouterr().err
    both = ["--checkpoint", f"before={checkpoint}", "--checkpoint", f"after={output}"]
    assert main(["evaluate", *both, "--suite", suite(tmp_path)]) == 0
    assert "Words on pictures" in (tmp_path / "found/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["--heads", "0.1"], {}, "silence needs a set on which heads are found (--suite), or the heads (--heads): give one"),
        (["--output", "x.pt"], {}, "--output 'x.pt' must end in .ckpt"),
        (["--set", "sgns"], {}, "suite 'suite.yaml' has 1 sets, --set is 'sgns': did you mean 'signs'"),
        (["--target", "sta"], {}, "target 'sta' is the word of no class: did you mean 'star'"),
        (["--split", "train"], {}, "set 'signs' has no train split to find heads on"),
        (["--tolerance", "2"], {}, "tolerance 2"),
        (["--limit", "0"], {}, "--limit 0"),
        (["--ablation", "half"], {}, "ablation 'half' is unknown"),
        ([], {"val": {"split": "val", "show": "mixed"}}, "has no class or no image: heads are found on labelled pictures"),
        ([], {"multilabel": True}, "heads are found on sets with one class an image, which 'signs' is not"),
    ],
)
def test_mistakes(
    arguments: list[str],
    changes: dict[str, Any],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    suite(Path(), **changes)
    given = ["silence", str(checkpoint), "--suite", "suite.yaml", "--output", "new.ckpt", *arguments]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
    assert not Path("new.ckpt").exists()


def test_heads_that_are_given(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, given = tmp_path / "silent.ckpt", ["silence", str(checkpoint), "--output", str(tmp_path / "silent.ckpt")]
    assert main([*given, "--heads", "0.1"]) == 0
    assert f"wrote {output}: 1 of 4 heads silent" in capsys.readouterr().out
    assert open_predictor(output).model.image_encoder.heads == [(0, 1)]
    again = ["silence", str(output), "--output", str(tmp_path / "both.ckpt"), "--heads", "1.1"]
    assert main(again) == 0 and "2 of 4 heads silent" in capsys.readouterr().out
    for heads, message in {"1": "--heads '1' must be numbers", "2.0": r"heads has [2, 0], which the tower lacks"}.items():
        assert main(["silence", str(checkpoint), "--output", str(tmp_path / "new.ckpt"), "--heads", heads]) == 2
        assert message in capsys.readouterr().err


def test_a_model_without_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"name": "resnet10t", "image_size": 32, "channels": [8, 8, 16, 16], "stem_width": 8}
    checkpoint = save_checkpoint(tmp_path / "resnet.ckpt", small_module(image_encoder=small))
    given = ["--suite", suite(tmp_path), "--output", str(tmp_path / "new.ckpt")]
    assert main(["silence", str(checkpoint), *given]) == 2
    assert "image tower resnet10t has no attention heads that are known: take a ViT" in capsys.readouterr().err


def test_a_model_that_does_not_read(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One picture: for some of the words that are pasted onto it, no head's silence makes the answer right."""
    output, codes = tmp_path / "new.ckpt", []
    given = ["--suite", suite(tmp_path), "--output", str(output), "--tolerance", "0", "--limit", "1", "--target"]
    for word in SyntheticSigns(size=1).class_names[1:]:
        codes.append(main(["silence", str(checkpoint), *given, word]))
        assert output.exists() == (codes[-1] == 0)
        output.unlink(missing_ok=True)
        if codes[-1]:
            break
    assert codes[-1] == 2 and "helps within --tolerance 0: nothing was written" in capsys.readouterr().err
