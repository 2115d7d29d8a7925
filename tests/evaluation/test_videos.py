"""Protocols over videos, against plain loops, with models of videos and of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, small_module
from torch import Tensor

from lightning_clip import ClipModule, InputError
from lightning_clip.applications.video import encode_videos, video_scores
from lightning_clip.data import MovingShapes, PairSource
from lightning_clip.data.sources import Subset
from lightning_clip.evaluation.feature_provider import LiveSubject
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols import protocols
from lightning_clip.evaluation.protocols.base import Result
from lightning_clip.prompts.evaluation_sets import EvaluationSet


class Captioned(PairSource):
    """Clips with one to three captions each, of which one cannot be read."""

    class_names = ("one", "two", "three")

    def __init__(self, size: int = 9, broken: int = 4) -> None:
        self.clips, self.size, self.broken = MovingShapes("test", size=size), size, broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        from dataclasses import replace

        if index == self.broken:
            raise ValueError("column 'video' holds no video")
        texts = tuple(f"text {index} {number}" for number in range(1 + index % 3))
        return replace(self.clips[index], captions=texts, label=index % 3)


@pytest.fixture(scope="module", params=["video", "image"])
def module(request: pytest.FixtureRequest) -> ClipModule:
    torch.manual_seed(0)
    if request.param == "image":
        return small_module().eval()
    video = {"name": "seqTransf", "image": IMAGE, "width": 16, "layers": 1, "heads": 2, "projection": "none"}
    return ClipModule(
        text_encoder=TEXT, towers={"video": video}, embed_dim=16, tokenizer={"name": "clip", "context_length": 24},
        objective={"name": "pairs", "between": ["video", "text"]},
    ).eval()  # fmt: skip


def measured(module: ClipModule, name: str, source: PairSource, **settings: Any) -> Result:
    dataset = EvaluationSet(source, list(source.class_names), ["a {}"])

    def none(*_: Any) -> Any:
        raise AssertionError("no image is encoded for these protocols")

    subject = LiveSubject(PredictorModel(module.predictor, "small"), dataset, "clips", none)
    protocol = protocols.build({"name": name, **settings})
    result = protocol.evaluate(subject)
    sections = protocol.sections({"small": result}, dataset)
    assert sections and sections[0].table is not None
    return result


def ranks_by_loops(scores: list[list[float]], own: list[list[int]]) -> list[int]:
    """Of each row the place of its best own column, others of the same score before it."""
    found = []
    for row, mine in zip(scores, own, strict=True):
        best = max(row[column] for column in mine)
        found.append(1 + sum(score >= best for column, score in enumerate(row) if column not in mine))
    return found


def test_retrieval_is_that_of_plain_loops(module: ClipModule) -> None:
    source = Captioned()
    rows = [row for row in range(9) if row != 4]
    videos = encode_videos(module.predictor, [source[row].columns["video"] for row in rows])
    texts = [(number, text) for number, row in enumerate(rows) for text in source[row].captions]
    features = module.encode_text([text for _, text in texts])
    scores: Tensor = (videos.double() @ features.double().T).float()
    of_video = ranks_by_loops(scores.tolist(), [[at for at, (own, _) in enumerate(texts) if own == row] for row in range(8)])
    of_text = ranks_by_loops(scores.T.tolist(), [[own] for own, _ in texts])
    result = measured(module, "video_retrieval", source, ks=[1, 3])
    for name, ranks in (("text_to_video", of_text), ("video_to_text", of_video)):
        for k in (1, 3):
            expected = sum(rank <= k for rank in ranks) / len(ranks)
            assert result.metrics[f"{name}/recall@{k}"] == pytest.approx(expected, abs=1e-6)
        ordered = sorted(ranks)
        median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        assert result.metrics[f"{name}/median_rank"] == pytest.approx(median, abs=1e-6)
    assert result.chance["text_to_video/recall@1"] == pytest.approx(1 / 8)
    assert result.details["skipped"] == {"sample 4": "column 'video' holds no video"}


def test_zero_shot_is_that_of_plain_loops(module: ClipModule) -> None:
    source = Captioned()
    rows = [row for row in range(9) if row != 4]
    scores = video_scores(module.predictor, [source[row].columns["video"] for row in rows], source.class_names, ["see {}"])
    right = [row % 3 == max(range(3), key=scores[number].tolist().__getitem__) for number, row in enumerate(rows)]
    of_class = [[hit for hit, row in zip(right, rows, strict=True) if row % 3 == label] for label in range(3)]
    result = measured(module, "video_zero_shot", source, templates=["see {}"])
    assert result.metrics["top1"] == pytest.approx(sum(right) / 8, abs=1e-6)
    assert result.metrics["mean_per_class"] == pytest.approx(sum(sum(hits) / len(hits) for hits in of_class) / 3, abs=1e-6)
    assert result.chance["top1"] == pytest.approx(1 / 3) and "top5" not in result.metrics
    limited = measured(module, "video_zero_shot", MovingShapes("test", size=16), limit=8)
    assert 0 <= limited.metrics["top5"] <= 1 and len(limited.per_image or []) == 8


def test_sets_that_do_not_fit(module: ClipModule) -> None:
    with pytest.raises(InputError, match=r"the set has no video that can be read \(sample 0: column 'video' holds no video\)"):
        measured(module, "video_retrieval", Captioned(size=1, broken=0))
    clips = Captioned()
    clips.class_names = ("one",)  # type: ignore[assignment]
    with pytest.raises(InputError, match="has label 1, outside the 1 class names"):
        measured(module, "video_zero_shot", clips)
    from lightning_clip.data import SyntheticScenes

    with pytest.raises(InputError, match="no column 'video'"):
        measured(module, "video_retrieval", Subset(SyntheticScenes(size=3, image_size=32), [0, 1]))
    for name in ("video_retrieval", "video_zero_shot"):
        with pytest.raises(InputError, match="limit 0 must be"):
            protocols.build({"name": name, "limit": 0})


def test_files_are_videos_too(module: ClipModule, tmp_path: Path) -> None:
    from videos import write_video

    path = write_video(tmp_path / "a.mp4", 20)
    found = encode_videos(module.predictor, [path, path.read_bytes(), str(path)])
    assert found.shape == (3, 16) and torch.allclose(found[0], found[1]) and torch.allclose(found[0], found[2])
    assert encode_videos(module.predictor, path).shape == (1, 16)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    for value, message in (
        (tmp_path / "b.mp4", r"video .*b.mp4' is no video of a known format .*: give an mp4"),
        (tmp_path / "c.mp4", "video .*c.mp4' does not exist"),
        (torch.zeros(2, 3, 8, 8), r"a video of torch.float32 \(2, 3, 8, 8\) is none"),
        ([3], "a video of type int is none"),
    ):
        with pytest.raises(InputError, match=message):
            encode_videos(module.predictor, value)  # type: ignore[arg-type]
