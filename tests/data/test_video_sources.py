"""Sources of videos: tables, shards, folders, MSR-VTT, sets of actions, moving shapes; and a loader over them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, small_trainer
from videos import brightness, video_bytes, write_video

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.data import MovingShapes, pair_sources
from lightning_clip.data.moving_shapes import orders
from lightning_clip.data.pack_shards import pack_shards
from lightning_clip.data.sources.video_files import VideoFolder

FRAMES = {"frames": 3, "size": 32}


def video_of(source: Any, index: int = 0) -> list[int]:
    return brightness(source[index].columns["video"])


def folder_with_texts(folder: Path, count: int = 4) -> Path:
    for number in range(count):
        write_video(folder / f"{number}.mp4", 10 + number)
        (folder / f"{number}.txt").write_text(f"clip {number}\nfilm {number}\n")
    return folder


def test_a_folder_with_texts_beside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_with_texts(tmp_path / "clips")
    write_video(folder / "silent.mp4")
    write_video(folder / "deep" / "json.mp4", 4)
    (folder / "deep" / "json.json").write_text(json.dumps({"caption": "deep down"}))
    with caplog.at_level(logging.WARNING):
        source = pair_sources.build({"name": "videos", "path": str(folder), **FRAMES})
    assert len(source) == 5 and source[0].captions == ("clip 0", "film 0") and source[4].captions == ("deep down",)
    assert source[0].image is None and source[0].key == "0" and source.place(0).endswith("clips/0.mp4")
    assert video_of(source) == [0, 4, 9] and video_of(source, 4) == [0, 1, 3]
    assert "omitted 1 of 6 videos without a text" in caplog.text
    assert isinstance(pair_sources.build(str(folder)), VideoFolder)  # a path is enough


def test_class_folders(tmp_path: Path) -> None:
    for name in ("ApplyLipstick", "YoYo"):
        write_video(tmp_path / name / "v_1.avi", 5, form="avi")
    source = pair_sources.build({"name": "videos", "path": str(tmp_path), **FRAMES})
    assert source.class_names == ["apply lipstick", "yo yo"] and [source.label(0), source.label(1)] == [0, 1]
    assert source[1].metadata["class_name"] == "yo yo" and video_of(source) == [0, 2, 4]


def test_a_table(tmp_path: Path) -> None:
    """With the frames that the table's user asks for; a table alone gives the defaults."""
    write_video(tmp_path / "a.mp4", 20)
    (tmp_path / "table.jsonl").write_text(json.dumps({"file": "a.mp4", "caption": ["one", "two"]}))
    table = {"name": str(tmp_path / "table.jsonl"), "image_column": None, "columns": {"video": "file"}}
    assert pair_sources.build(table)[0].columns["video"].shape == (12, 3, 224, 224)
    source = pair_sources.build({"name": "sampled_videos", "source": table, "sampling": "tail", **FRAMES})
    assert source[0].captions == ("one", "two") and video_of(source) == [17, 18, 19]


def test_shards(tmp_path: Path) -> None:
    """Files are packed as they are, and are column `video` again, also where nothing stands before their ending."""
    folder = folder_with_texts(tmp_path / "clips", 3)
    pack_shards(pair_sources.build({"name": "videos", "path": str(folder)}), str(tmp_path / "train-%06d.tar"))
    shards = {"name": "sampled_videos", "source": str(tmp_path / "train-000000.tar"), **FRAMES}
    source = pair_sources.build(shards)
    assert len(source) == 3 and source[1].captions == ("clip 1", "film 1") and video_of(source, 1) == [0, 5, 10]
    import tarfile

    with tarfile.open(tmp_path / "own.tar", "w") as archive:
        for name, path in (("7.mp4", folder / "0.mp4"), ("7.txt", folder / "0.txt")):
            archive.add(path, name)
    assert video_of(pair_sources.build({**shards, "source": str(tmp_path / "own.tar")})) == [0, 4, 9]


def write_msrvtt(folder: Path, missing: bool = False) -> Path:
    """The files of the split, with three clips of the test and two of training."""
    for number in range(5 - missing):
        write_video(folder / "videos" / "all" / f"video{number}.mp4", 8)
    (folder / "MSRVTT_JSFUSION_test.csv").write_text(
        "key,vid_key,video_id,sentence\n" + "".join(f'ret{i},msr{i},video{i},"a man, number {i}, sings"\n' for i in (4, 0, 2))
    )
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\nvideo1\nvideo3\n")
    sentences = [{"caption": f"text {n} of {i}", "video_id": f"video{i}", "sen_id": n} for i in range(5) for n in range(20)]
    videos = [{"video_id": f"video{i}", "category": i, "split": "train"} for i in range(5)]
    (folder / "MSRVTT_data.json").write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    return folder


def test_msrvtt(tmp_path: Path) -> None:
    path = str(write_msrvtt(tmp_path))
    test = pair_sources.build({"name": "msrvtt", "path": path, "fps": None, **FRAMES})
    assert [test.captions(row) for row in range(3)] == [(f"a man, number {i}, sings",) for i in (4, 0, 2)]
    assert [test[row].key.rpartition("/")[2] for row in range(3)] == ["video4", "video0", "video2"]
    assert video_of(test) == [0, 3, 7]
    train = pair_sources.build({"name": "msrvtt", "path": path, "split": "train", **FRAMES})
    assert len(train) == 2 and len(train.captions(1)) == 20 and train.captions(1)[7] == "text 7 of 3"
    assert video_of(train) == [0]  # 8 frames at 10 a second, one a second


def test_msrvtt_that_is_not_whole(tmp_path: Path) -> None:
    path = str(write_msrvtt(tmp_path, missing=True))
    with pytest.raises(InputError, match=r"msrvtt: 1 of 3 videos of split 'test' are not below .* \(the first: video4.mp4\)"):
        pair_sources.build({"name": "msrvtt", "path": path})
    with pytest.raises(InputError, match="msrvtt: split 'val' must be one of test, train, train_7k"):
        pair_sources.build({"name": "msrvtt", "path": path, "split": "val"})
    with pytest.raises(InputError, match="msrvtt: file .*MSRVTT_train.7k.csv' does not exist"):
        pair_sources.build({"name": "msrvtt", "path": path, "split": "train_7k"})
    (tmp_path / "MSRVTT_data.json").write_text('{"sentences": 3}')
    with pytest.raises(InputError, match=r"is no MSRVTT_data.json"):
        pair_sources.build({"name": "msrvtt", "path": path, "split": "train"})


def test_kinetics_and_ucf101(tmp_path: Path) -> None:
    """A table of Kinetics names more than there is; a list of UCF101 with or without numbers behind."""
    write_video(tmp_path / "kinetics" / "val" / "abc-1_000010_000020.mp4", 5)
    write_video(tmp_path / "kinetics" / "val" / "xyz.mp4", 5)
    rows = ["playing ukulele,abc-1,10,20,val", "air drumming,xyz,3,13,val", "air drumming,gone,0,10,val", "x,xyz,0,10,test"]
    (tmp_path / "kinetics" / "val.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *rows]))
    source = pair_sources.build(
        {"name": "video_classes", "path": str(tmp_path / "kinetics"), "table": "val.csv", "where": {"split": "val"}, **FRAMES}
    )
    assert source.class_names == ["air drumming", "playing ukulele"] and [source.label(0), source.label(1)] == [1, 0]
    write_video(tmp_path / "ucf" / "TaiChi" / "v_TaiChi_g01_c01.avi", 5, form="avi")
    write_video(tmp_path / "ucf" / "Archery" / "v_Archery_g01_c01.avi", 5, form="avi")
    (tmp_path / "testlist01.txt").write_text("TaiChi/v_TaiChi_g01_c01.avi 3\nArchery/v_Archery_g01_c01.avi\n")
    ucf = {"name": "video_classes", "path": str(tmp_path / "ucf"), **FRAMES}
    for settings in (ucf, {**ucf, "table": str(tmp_path / "testlist01.txt")}):
        source = pair_sources.build(settings)
        assert source.class_names == ["archery", "tai chi"] and len(source) == 2
    with pytest.raises(InputError, match="has no video of a class"):
        pair_sources.build({**ucf, "path": str(tmp_path / "kinetics" / "val")})
    (tmp_path / "other.csv").write_text("what,label\n1,2\n")
    with pytest.raises(InputError, match="none of which names the video: call it one of video"):
        pair_sources.build({**ucf, "table": str(tmp_path / "other.csv")})


@pytest.mark.parametrize("moves", [2, 4])
def test_orders_go_through_the_very_same_frames(moves: int) -> None:
    """So that no set of frames tells clips of one object apart: with one look, the frames of all orders are equal."""
    clips = MovingShapes("test", size=8, objects=1, moves=moves)
    words = Counter(" ".join(sorted(clips.captions(row)[0].replace(",", "").split())) for row in range(len(orders(moves))))
    assert len(words) == (1 if moves == 4 else 2)  # the same words in another order
    ways = []
    for number in range(len(orders(moves))):
        clips._orders, clips._ways = [orders(moves)[number]], [MovingShapes(moves=moves)._ways[number]]
        ways.append(clips[0].columns["video"])  # the same look and shift each time
    sets = [sorted(frame.flatten().tolist() for frame in way) for way in ways]
    horizontal = [frames for frames, order in zip(sets, orders(moves), strict=True) if order[0] in ("left", "right")]
    expected = sets if moves == 4 else horizontal
    assert all(frames == expected[0] for frames in expected)
    assert len({tuple(way.flatten().tolist()) for way in ways}) == len(ways)


def test_moving_shapes_are_functions_of_their_number() -> None:
    first, again, other = MovingShapes(seed=1), MovingShapes(seed=1), MovingShapes(seed=2)
    assert torch.equal(first[5].columns["video"], again[5].columns["video"])
    assert not torch.equal(first[5].columns["video"], other[5].columns["video"])
    assert len({MovingShapes("test").captions(row) for row in range(128)}) == 128  # each object in each order
    for settings, message in (
        ({"moves": 3}, "moves 3 must be 2"),
        ({"split": "x"}, "split 'x' must be"),
        ({"objects": 65}, "objects 65 must"),
    ):
        with pytest.raises(InputError, match=message):
            MovingShapes(**settings)  # type: ignore[arg-type]


def test_a_run_over_videos(tmp_path: Path) -> None:
    """Random segments differ between epochs and not between runs; a broken video is skipped, counted by its reason."""
    folder = folder_with_texts(tmp_path / "clips", 8)
    (folder / "3.mp4").write_bytes(b"no video")
    video = {"name": "meanP", "image": IMAGE, "projection": "linear"}
    module = ClipModule(
        text_encoder=TEXT, towers={"video": video}, embed_dim=16, tokenizer={"name": "clip", "context_length": 24},
        objective={"name": "pairs", "between": ["video", "text"]},
    )  # fmt: skip
    source = {"name": "videos", "path": str(folder), "sampling": "random", **FRAMES}
    data = ClipDataModule(source, {**source, "sampling": "uniform"}, local_batch_size=4, max_bad_share=0.5)
    data.attach(module)
    seen = []
    for epoch in (0, 0, 1):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        batch = next(iter(loader))
        frames, mask = batch.columns["video"]
        assert frames.shape[1:] == (3, 3, 32, 32) and mask.all() and batch.image is None
        seen.append([brightness(clip) for clip in frames])
    assert seen[0] == seen[1] != seen[2]
    trainer = small_trainer(tmp_path, max_epochs=2, max_steps=-1)
    trainer.fit(module, data)
    assert trainer.callback_metrics["val/loss"].isfinite()


def test_what_a_loader_says_of_videos(tmp_path: Path) -> None:
    (tmp_path / "1.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="has no video with a text beside it"):
        VideoFolder(str(tmp_path))
    (tmp_path / "1.txt").write_text("a clip")
    source = VideoFolder(str(tmp_path))
    with pytest.raises(ValueError, match="column 'video' is no video of a known format"):
        source[0].columns["video"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video files"):
        VideoFolder(str(tmp_path / "empty"))
    from lightning_clip.data.sources.sampled_videos import SampledVideos

    with pytest.raises(InputError, match=r"column 'video' has shape \(2,\): frames are uint8 \(T, 3, H, W\)"):
        SampledVideos({"name": "moving_shapes", "size": 1})._of_array([1, 2])
    assert video_bytes(3)  # what tests write is a video
