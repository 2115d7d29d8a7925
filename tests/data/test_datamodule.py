"""ClipDataModule: stages, what is skipped and counted, and when a run stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import small_data, small_module, small_trainer, write_folder

from lightning_clip import ClipDataModule, InputError


def spoil(folder: Path, numbers: list[int]) -> None:
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
