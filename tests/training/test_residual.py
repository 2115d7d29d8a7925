"""The sum through a tower's blocks: bfloat16 under an autocast to it, float32 everywhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import IMAGE, small_data, small_module

from lightning_clip import ClipModule

DEEP: dict[str, Any] = {
    "image_encoder": {**IMAGE, "depth": 3},
    "text_encoder": {"name": "clip_text", "width": 32, "layers": 3, "heads": 2},
}


def dtypes(module: ClipModule, autocast: torch.dtype | None) -> tuple[set[torch.dtype], torch.Tensor]:
    """Of what the second and third block of each tower are given, and the image features of a batch."""
    seen: set[torch.dtype] = set()
    hooks = [
        block.register_forward_pre_hook(lambda _, given: seen.add(given[0].dtype))
        for column in ("image", "text")
        for block in module.model.tower(column).blocks()[1:]
    ]
    batch = next(iter(small_data(8, batch=8).attach(module).val_dataloader()))
    with torch.no_grad(), torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        features = module.encode(batch).image_features
    for hook in hooks:
        hook.remove()
    assert features is not None
    return seen, features.float()


@pytest.mark.parametrize("kept", [False, True])
def test_precision(kept: bool) -> None:
    module = small_module(**DEEP, execution={"float32_residual": kept})
    module.configure_model()
    module.eval()
    plain, features = dtypes(module, None)
    assert plain == {torch.float32}
    assert dtypes(module, torch.float16)[0] == {torch.float32}
    found, near = dtypes(module, torch.bfloat16)
    assert found == {torch.float32 if kept else torch.bfloat16}
    torch.testing.assert_close(near, features, rtol=0, atol=3e-2)
