"""ClipDataModule: stages, what is skipped and counted, and when a run stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from small import small_data, small_module, small_trainer, write_folder
from waiting import PATIENCE

from lightning_clip import ClipDataModule, InputError, Retrieval
from lightning_clip.core.types import PairBatch
from lightning_clip.data import pair_sources
from lightning_clip.data.loader import PairLoader
from lightning_clip.data.sampler import PairSampler


def spoil(folder: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        (folder / f"{number}.jpg").write_bytes(b"spoilt")


class TestStages:
    def test_synthetic_by_name_has_all_splits(self) -> None:
        data = ClipDataModule(train="synthetic", local_batch_size=256, num_workers=2)
        assert [len(data.source(split)) for split in ("train", "val", "test")] == [100_000, 1000, 1000]

    def test_without_validation(self, tmp_path: Path) -> None:
        data = ClipDataModule({"name": "synthetic", "size": 32, "image_size": 32}, local_batch_size=8)
        small_trainer(tmp_path).fit(small_module(), data)

    def test_predict_gives_features_of_the_test_data(self, tmp_path: Path) -> None:
        outputs = small_trainer(tmp_path).predict(small_module(), small_data(20, batch=8))
        assert outputs is not None and sum(len(output.image_features) for output in outputs) == 20

    @pytest.mark.parametrize("cuda", [False, True])
    def test_batches_for_cuda_are_pinned(self, cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        module = small_module()
        module.configure_model()
        monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
        loader = small_data(16, batch=8).attach(module).train_dataloader()
        assert loader.pin_memory is cuda

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"\['a.tar', 'b.tar'\] is a list: for several sources give {'name': 'mix'"):
            ClipDataModule(train=["a.tar", "b.tar"]).source("train")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="data source 'synthetic'.held_out 'maybe' must be true or false"):
            ClipDataModule({"name": "synthetic", "held_out": "maybe"}).source("train")
        with pytest.raises(InputError, match="no test data: give ClipDataModule"):
            small_trainer(tmp_path).test(small_module(), ClipDataModule("synthetic", test=None).__class__(train=None))
        with pytest.raises(InputError, match="the data does not know its model"):
            ClipDataModule("synthetic").train_dataloader()
        with pytest.raises(InputError, match="local_batch_size 0 must be >= 1"):
            ClipDataModule("synthetic", local_batch_size=0)
        with pytest.raises(InputError, match="max_bad_share 2 is a share"):
            ClipDataModule("synthetic", max_bad_share=2)
        with pytest.raises(InputError, match="data .*'lost' does not exist"):
            small_trainer(tmp_path).fit(small_module(), ClipDataModule("lost"))


class TestBadSamples:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_skipped_counted_and_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int) -> None:
        table = write_folder(tmp_path, count=40)
        spoil(tmp_path, [3, 17])
        (tmp_path / "5.jpg").unlink()
        data = ClipDataModule(str(table), local_batch_size=8, num_workers=workers, max_bad_share=0.1)
        small_trainer(tmp_path, max_epochs=1, max_steps=-1).fit(small_module(), data)
        assert "train data: 3 samples were skipped: 2 x not an image, 1 x image file missing" in caplog.text

    @pytest.mark.parametrize("workers", [0, 2])
    def test_too_many_stop_the_run(self, tmp_path: Path, workers: int) -> None:
        table = write_folder(tmp_path, count=40)
        spoil(tmp_path, [3])
        data = ClipDataModule(str(table), local_batch_size=8, num_workers=workers)
        with pytest.raises(
            InputError, match=r"1 train samples could not be used \(1 x not an image.*more than max_bad_share 0.01"
        ):
            small_trainer(tmp_path, max_epochs=1, max_steps=-1).fit(small_module(), data)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_batch_of_which_nothing_can_be_used(self, tmp_path: Path, workers: int) -> None:
        """Training takes the next usable samples instead; an evaluation goes on without it."""
        table = write_folder(tmp_path, count=12)
        spoil(tmp_path, range(4, 8))
        rows = [json.loads(line) for line in table.read_text().splitlines()]
        data = ClipDataModule(
            str(table), str(table), test=str(table), local_batch_size=4, num_workers=workers, max_bad_share=0.5
        )
        seen: list[list[int]] = []

        class Sees(pl.Callback):
            def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: PairBatch, *_: Any) -> None:
                seen.append(batch.index.tolist())
                assert len(batch.skipped) + batch.size == 4 or (len(batch.skipped), batch.size) == (4, 2)

        trainer = small_trainer(tmp_path, max_epochs=1, max_steps=-1, overfit_batches=3, callbacks=[Sees(), Retrieval()])
        trainer.fit(small_module(), data)
        assert seen == [[0, 1, 2, 3], [8, 9], [8, 9, 10, 11]] and len(rows) == 12
        assert trainer.callback_metrics["val/retrieval/text_to_image/recall@1"] >= 0
        found = small_trainer(tmp_path).predict(small_module(), data)
        assert [batch.features["image"].shape for batch in found] == [(4, 16), (0, 16), (4, 16)]  # type: ignore[union-attr]

    def test_a_batch_of_one_without_statistics(self, tmp_path: Path) -> None:
        table = write_folder(tmp_path, count=4)
        tower = {"name": "resnet10t", "image_size": 32, "channels": [16, 16, 32, 32], "stem_width": 8}
        with pytest.raises(InputError, match="a batch of 1 has no statistics .*set local_batch_size to at least 2"):
            small_trainer(tmp_path).fit(small_module(image_encoder=tower), ClipDataModule(str(table), local_batch_size=1))

    def test_the_share_is_of_an_epoch(self, tmp_path: Path) -> None:
        """One in forty stays one in forty, however many epochs run."""
        table = write_folder(tmp_path, count=40)
        spoil(tmp_path, [3])
        data = ClipDataModule(str(table), local_batch_size=8, max_bad_share=0.03)
        small_trainer(tmp_path, max_epochs=4, max_steps=-1).fit(small_module(), data)

    def test_caption_that_is_no_text(self, tmp_path: Path) -> None:
        table = write_folder(tmp_path, count=8)
        rows = [json.loads(line) for line in table.read_text().splitlines()]
        rows[2]["caption"] = ["   "]
        table.write_text("\n".join(map(json.dumps, rows)))
        assert len(ClipDataModule(str(table)).source("train")) == 7


class TestNames:
    @pytest.mark.parametrize("name", ["table", "shards", "mix", "huggingface"])
    def test_a_folder_called_like_a_source(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / name).mkdir()
        write_folder(tmp_path / name, count=4)
        monkeypatch.chdir(tmp_path)
        for spec in (name, {"name": name}, {"name": name, "max_bad_rows": 0.5}):
            assert len(pair_sources.build(spec)) == 4

    def test_a_source_wins_and_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
        (tmp_path / "synthetic").mkdir()
        monkeypatch.chdir(tmp_path)
        assert len(pair_sources.build({"name": "synthetic", "size": 5})) == 5
        assert "'synthetic' is the source of that name; for the folder or file write './synthetic'" in caplog.text

    def test_without_a_folder_it_says_what_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="data source 'table' needs path: add it to its settings"):
            pair_sources.build("table")


SPAWNED = """
import multiprocessing, sys
from small import small_module, small_trainer
from lightning_clip import ClipDataModule

if __name__ == "__main__":
    import torch
    torch.multiprocessing.set_start_method("spawn")
    captions = (lambda pair, rng: pair.captions[0]) if sys.argv[2] == "lambda" else None
    data = ClipDataModule(sys.argv[1], local_batch_size=2, num_workers=1, captions=captions)
    small_trainer(sys.argv[1], max_steps=1).fit(small_module(), data)
    print("trained")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("captions", "said"),
    [("none", "trained"), ("lambda", "InputError: loader workers that are spawned must be sent all that they use")],
)
def test_spawned_workers(captions: str, said: str, tmp_path: Path) -> None:
    write_folder(tmp_path, count=4)
    (tmp_path / "run.py").write_text(SPAWNED)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path), captions],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert said in done.stdout + done.stderr, done.stderr[-3000:]


class TestEpochs:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_one_iteration_serves_all(self, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers go on from epoch to epoch, also over validation and what limits an epoch; each is a drawing of its own."""
        table, begun, seen = write_folder(tmp_path, count=20), [], []
        begin = PairLoader._begun
        monkeypatch.setattr(PairLoader, "_begun", lambda loader: begun.append(loader.drop_last) or begin(loader))

        class Sees(pl.Callback):
            def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: PairBatch, *_: Any) -> None:
                seen.append(batch.index.tolist())

        data = ClipDataModule(str(table), str(table), local_batch_size=4, num_workers=workers)
        trainer = small_trainer(tmp_path, max_epochs=3, max_steps=-1, limit_train_batches=4, callbacks=[Sees()])
        trainer.fit(small_module(), data)
        assert begun.count(True) == 1 and begun.count(False) == 3  # of training, and of three validations
        expected = [visit.index for visit in PairSampler(data.source("train").order(0), batch_size=4)]
        assert list(chain(*seen[:4])) == expected[:16]
        epochs = [list(chain(*seen[start : start + 4])) for start in (0, 4, 8)]
        assert all(len(set(epoch)) == 16 for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
        again = small_trainer(tmp_path, max_epochs=1, max_steps=-1)  # the loader is a new one
        again.fit(small_module(), data)
        assert begun.count(True) == 2
