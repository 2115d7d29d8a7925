"""Videos in a search index: the best frame of each is found, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_module
from videos import write_video

from lightning_clip import InputError
from lightning_clip.applications.search import Query, SearchIndex, build_index
from lightning_clip.cli import main
from lightning_clip.data import pair_sources
from lightning_clip.data.sources.video_pictures import VideoPictures
from lightning_clip.model.predictor import Predictor

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}


def film(*colours: str, each: int = 6) -> list[np.ndarray]:
    return [np.full((32, 32, 3), COLOURS[name], np.uint8) for name in colours for _ in range(each)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_video(tmp_path / "media/trip/first.mp4", film("red", "green", "blue"))
    write_video(tmp_path / "media/second.mp4", film("white", "blue", "white"))
    (tmp_path / "media/second.txt").write_text("a blue moment")
    Image.new("RGB", (40, 30), COLOURS["white"]).save(tmp_path / "media/photo.png")
    return tmp_path / "media"


def test_frames_are_pictures(folder: Path) -> None:
    source = pair_sources.build({"name": "video_frames", "path": str(folder), "frames": 3})
    assert len(source) == 6 and source.captions(0) == ("a blue moment",) and source.captions(3) == ()
    assert [source[row].key for row in (0, 1, 5)] == ["second.mp4#t=0.00", "second.mp4#t=0.80", "trip/first.mp4#t=1.70"]
    middle = source[4]
    assert isinstance(middle.image, torch.Tensor) and middle.image[1].float().mean() > 150  # green
    assert middle.metadata["place"].endswith("trip/first.mp4 at 0:00") and source.place(4).endswith("first.mp4, frame 2 of 3")
    short = write_video(folder / "short/one.mp4", film("red", each=1))
    few = VideoPictures(str(short.parent), frames=3)
    assert len({few[row].key for row in range(3)}) == 1 and len(few) == 3
    (nothing := folder / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no video files"):
        VideoPictures(str(Image.new("RGB", (8, 8)).save(nothing / "only.png") or nothing))


def test_the_best_frame_of_each_video(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    predictor: Predictor = small_module().eval().predictor
    build_index(tmp_path / "films.index", {"name": "video_frames", "path": str(folder), "frames": 6}, predictor, name="films")
    index = SearchIndex(tmp_path / "films.index")
    for colour, time in (("red", (0.0, 0.6)), ("green", (0.6, 1.2)), ("blue", (1.2, 1.8))):
        image = Image.new("RGB", (32, 32), COLOURS[colour])
        hits = index.search(Query(images=[image]).vector(predictor), 10)
        assert sorted(hit.entry.key.partition("#")[0] for hit in hits) == ["second.mp4", "trip/first.mp4"]
        [mine] = [hit for hit in hits if hit.entry.key.startswith("trip/first")]
        assert time[0] <= float(mine.entry.key.partition("#t=")[2]) < time[1], (colour, mine.entry.key)
    assert [hit.entry.key for hit in index.words("blue moment")] == ["second.mp4#t=0.00"]
    assert len(index.entries.thumbnail(0)) > 0
    index.close()


def test_the_command(folder: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures and videos of one folder; a video that does not decode is counted; a later build computes nothing again."""
    (folder / "broken.mp4").write_bytes(b"no video")
    build = ["index", "build", "--data", str(folder), "--checkpoint", checkpoint, "--output", str(tmp_path / "all.index")]
    assert main([*build, "--frames", "3"]) == 0
    out = capsys.readouterr().out
    assert "1 pictures added (1 computed)" in out and "6 frames of videos added" in out
    assert "3 skipped:" in out and "broken.mp4, frame 1 of 3" in out and "7 pictures in" in out
    assert main([*build, "--frames", "3"]) == 0
    assert "0 frames of videos added (0 computed), 6 unchanged" in capsys.readouterr().out
    assert main(["search", str(tmp_path / "all.index"), "green", "--sheet", str(tmp_path / "found.png")]) == 0
    out = capsys.readouterr().out
    assert out.count("first.mp4 at 0:0") == 1 and out.count("second.mp4 at 0:0") == 1 and out.count("photo.png") == 1
    assert (tmp_path / "found.png").exists()
    assert main([*build, "--frames", "0"]) == 2
    assert "--frames 0 must be" in capsys.readouterr().err
