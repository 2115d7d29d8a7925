"""The objective "detection": equal on ranks and in slices, a loss that falls, checkpoints, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import run_ranks
from PIL import Image
from reference.boxes import set_loss
from small import IMAGE, small_module, small_trainer
from torch import Tensor, nn
from variants.senses import error_of, share

from lightning_clip import ClipDataModule, ClipModule, InputError, PairBatch
from lightning_clip.applications.detection import Detector
from lightning_clip.commands.batch_size import find_batch_size
from lightning_clip.data import SyntheticObjects
from lightning_clip.data.boxes import Boxes, collate_boxes
from lightning_clip.encoders import ImageEncoder
from lightning_clip.encoders.detection_head import DetectionHead, box_bias
from lightning_clip.objectives import Detection, build_objective

NAMES = ["red ring", "blue ring", "green cube", "red cube", "a cat", "a dog"]
FORMS: dict[str, Any] = {
    "all": {"name": "detection", "class_names": NAMES},
    "drawn": {"name": "detection", "class_names": NAMES, "queries": 2, "templates": ["a {}", "the {}"]},
    "beside": [{"name": "detection", "class_names": NAMES, "weight": 0.5}, {"name": "pairs"}],
}


class Mean(ImageEncoder):
    """A tower that has no tokens."""

    def __init__(self) -> None:
        super().__init__(output_dim=8, image_size=32)
        self.layer = nn.Linear(3, 8)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.layer(image.mean(dim=(2, 3)))
        return found


def module_of(form: Any = "all", **arguments: Any) -> ClipModule:
    torch.manual_seed(0)
    objective = FORMS.get(form, form) if isinstance(form, str) else form
    module = small_module(image_encoder={**IMAGE, "patch_size": 8}, objective=objective, **arguments)
    module.configure_model()
    return module


def batch_of(module: ClipModule, size: int = 12) -> PairBatch:
    """Noise with none to three boxes."""
    generator = torch.Generator().manual_seed(3)
    values = []
    for row in range(size):
        low = 0.6 * torch.rand(row % 4, 2, generator=generator)
        corners = torch.cat([low, low + 0.05 + 0.3 * torch.rand(row % 4, 2, generator=generator)], dim=1)
        values.append(Boxes.of(corners, [(row + number) % 5 for number in range(row % 4)]))
    texts = [f"a picture with number {row}" for row in range(size)]
    assert module.tokenizer is not None
    tokens, mask = module.tokenizer(texts)
    return PairBatch(
        image=torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator),
        tokens=tokens,
        mask=mask,
        label=torch.full((size,), -1),
        index=torch.arange(size),
        captions=[(text,) for text in texts],
        keys=[str(row) for row in range(size)],
        skipped=[],
        texts=texts,
        columns={"boxes": collate_boxes(values)},
    )


def step_gradients(form: str, micro_batch_size: int | None = None, rank: int | None = None) -> dict[str, Tensor]:
    module = module_of(form)
    batch = batch_of(module)
    batch = batch if rank is None else share(batch, rank, 8)
    module.micro_batch_size = micro_batch_size
    module.compute_loss(module.encode_batch(batch), batch)["loss"].backward()
    found = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    if dist.is_initialized():  # as DDP does
        for value in found.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
    return found


def _on_rank(rank: int, world_size: int, form: str) -> dict[str, Tensor]:
    return step_gradients(form, 4, rank)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_do_not_depend_on_how_it_is_run(form: str) -> None:
    """Slices, and two ranks of 8 and 4 pictures with other numbers of boxes, give those of one process."""
    expected = step_gradients(form)
    assert error_of(step_gradients(form, 4), expected) <= 1e-6
    for found in run_ranks(_on_rank, 2, form):
        assert error_of(found, expected) <= 2e-6


def test_every_parameter_that_learns_has_a_gradient() -> None:
    """Under DDP a parameter without one is an error."""
    module = module_of()
    found = step_gradients("all")
    assert {name for name, value in module.named_parameters() if value.requires_grad} == set(found)
    assert not module.model.image_projection.weight.requires_grad


def test_the_loss_equals_loops() -> None:
    module = module_of().train()
    batch = batch_of(module, 6)
    with torch.no_grad():
        output = module.encode_batch(batch)
        found = module.compute_loss(output, batch)
        parts, texts = output.rows["detector"], module.zero_shot_classifier(NAMES).T
        own = parts["embeddings"] / parts["embeddings"].norm(dim=-1, keepdim=True)
        logits = (own @ texts.T + parts["shift"]) * parts["scale"]
    sums, objects = [0.0, 0.0, 0.0], 0
    for row in range(6):
        given = batch.columns["boxes"]
        labels = [label for label in given["labels"][row].tolist() if label >= 0]
        told = set_loss(
            logits[row].tolist(),
            parts["boxes"][row].tolist(),
            labels,
            given["boxes"][row].tolist()[: len(labels)],
            Detection().weights,
        )
        sums, objects = [one + two for one, two in zip(sums, told, strict=True)], objects + len(labels)
    for name, total, weight in zip(("classes", "corners", "overlap"), sums, (2, 5, 2), strict=True):
        assert float(found[name]) == pytest.approx(total / objects, rel=2e-5), weight
    assert float(found["loss"]) == pytest.approx(sum(w * s for w, s in zip((2, 5, 2), sums, strict=True)) / objects, rel=2e-5)


def test_the_loss_falls_and_boxes_are_found() -> None:
    """The names of the boxes of a few pictures are learned by heart."""
    module = module_of(optimizer={"lr": 3e-3, "warmup_steps": 0})
    batch = batch_of(module, 6)
    optimizer = torch.optim.Adam([weight for weight in module.parameters() if weight.requires_grad], 3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = module.compute_loss(module.encode_batch(batch), batch)["loss"]
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < 0.25 * losses[0]
    assert isinstance(batch.image, Tensor)
    found = Detector(module.eval().predictor, NAMES, threshold=0)(batch.image[5])
    assert NAMES[int(found.labels[0])] == NAMES[0]  # of row 5, whose only box has label 5 % 5


def test_pictures_without_boxes_are_legal() -> None:
    module = module_of()
    batch = batch_of(module)._replace(columns={"boxes": collate_boxes([Boxes.of([], [])] * 12)})
    parts = module.compute_loss(module.encode_batch(batch), batch)
    parts["loss"].backward()
    assert parts["corners"].item() == 0 and 0 < parts["classes"].item() < 100


def run(folder: Path, *, resume: bool = False, save: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(5 if resume else 0)
    constant = {"lr": 1e-3, "warmup_steps": 0, "schedule": "constant"}
    image = {**IMAGE, "patch_size": 8}
    module = small_module(image_encoder=image, objective={"name": "detection", "queries": 20}, optimizer=constant)
    trainer = small_trainer(folder, max_steps=2 if save else 4)
    scenes, val = (SyntheticObjects(split, size=16, image_size=32, boxes=True) for split in ("train", "val"))
    trainer.fit(module, ClipDataModule(scenes, val, local_batch_size=8), ckpt_path=folder / "half.ckpt" if resume else None)
    if save:
        trainer.save_checkpoint(folder / "half.ckpt")
    else:
        assert {"val/loss", "val/overlap"} <= set(trainer.callback_metrics)
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.slow
def test_a_resumed_run_ends_as_the_whole_one_and_its_checkpoint_detects(tmp_path: Path) -> None:
    whole = run(tmp_path)
    run(tmp_path, save=True)
    again = run(tmp_path, resume=True)
    assert set(again) == set(whole) and all(torch.equal(again[name], value) for name, value in whole.items())
    loaded = ClipModule.load_from_checkpoint(tmp_path / "half.ckpt")
    assert len(Detector(loaded.predictor, ["a ring"], threshold=0, overlap=1)(torch.zeros(3, 20, 30, dtype=torch.uint8))) == 16
    # A run that starts from these weights goes on with the head, also under settings of its own.
    next_run: Any = ClipModule(pretrained=str(tmp_path / "half.ckpt"), objective={"name": "detection", "queries": 3})
    expected: Any = loaded.model
    assert torch.equal(next_run.model.detector.box[0].weight, expected.detector.box[0].weight)


def test_the_head_starts_from_the_towers() -> None:
    module = module_of()
    head: Any = module.model.detector
    torch.testing.assert_close(head.embedding.weight, module.model.image_projection.weight)
    found = head(torch.randn(2, 17, 32))
    torch.testing.assert_close(found.boxes, box_bias(4, torch.zeros(1)).sigmoid().expand(2, -1, -1))
    torch.testing.assert_close((found.shift * found.scale).sigmoid(), torch.full((2, 16, 1), 0.01), rtol=1e-3, atol=0)
    assert DetectionHead(12, 8)(torch.randn(1, 9, 12)).boxes.shape == (1, 9, 4)  # a tower without a class token


def test_the_largest_batch_is_looked_for_with_boxes(tmp_path: Path) -> None:
    data = ClipDataModule(SyntheticObjects(size=16, image_size=32, boxes=True))
    assert find_batch_size(small_trainer(tmp_path), small_module(objective="detection"), data) == 16


def test_the_largest_batch_is_looked_for_without_captions(tmp_path: Path) -> None:
    """COCO's pictures have boxes alone, some of them none."""
    (tmp_path / "train").mkdir()
    for number in range(9):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / "train" / f"{number}.png")
    content = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 40, "height": 30} for number in range(9)],
        "annotations": [{"image_id": number, "category_id": 5, "bbox": [2, 3, 10, 20]} for number in range(8)],
        "categories": [{"id": 5, "name": "ring"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = ClipDataModule({"name": "coco", "path": str(tmp_path), "split": "train"})
    module = small_module(objective="detection", micro_batch_size=3)
    assert find_batch_size(small_trainer(tmp_path), module, data) == 9


def test_the_mapping_builds_it_again() -> None:
    objective = build_objective({"name": "detection", "class_names": ["a", "b"], "queries": 3, "weights": {"corners": 1.0}})
    again = build_objective(objective.to_mapping())
    assert isinstance(again, Detection) and again.weights.corners == 1.0 and again.to_mapping() == objective.to_mapping()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, r"detection: queries 0 must be"),
        ({"weights": {"alpha": 2.0}}, r"detection: weights.alpha 2.0 must be"),
        ({"weights": {"boxes": 2.0}}, r"detection: weights has no setting 'boxes'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_objective({"name": "detection", **settings})


def test_a_tower_without_tokens() -> None:
    with pytest.raises(InputError, match=r"'detection' reads image tokens: Mean gives one vector per sample .* such as a ViT"):
        small_module(image_encoder=Mean(), objective="detection").configure_model()
    with pytest.raises(InputError, match=r"15 tokens are no square of places"):
        DetectionHead(12, 8)(torch.randn(1, 15, 12))


def test_names_and_labels_that_do_not_fit(tmp_path: Path) -> None:
    module = module_of({"name": "detection", "class_names": NAMES[:2]})
    with pytest.raises(InputError, match=r"a box has label 4, and there are 2 class names: give one for each label"):
        module.encode_batch(batch_of(module))
    with pytest.raises(InputError, match=r"the batch has no boxes, which detection learns from: give a source that has them"):
        module.encode_batch(batch_of(module)._replace(columns={}))
    scenes = SyntheticObjects(size=8, image_size=32, boxes=True)
    data, trainer = ClipDataModule(scenes, local_batch_size=4), small_trainer(tmp_path)
    two, unknown = small_module(objective={"name": "detection", "class_names": NAMES[:2]}), small_module(objective="detection")
    with pytest.raises(InputError, match=r"the boxes of the train data have 64 classes, but 2 are learned"):
        trainer.fit(two, data)
    scenes.class_names = []
    trainer = small_trainer(tmp_path)
    with pytest.raises(InputError, match=r"detection has no class names, and the training data knows none: give class_names"):
        trainer.fit(unknown, data)
