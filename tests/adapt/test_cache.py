"""Features of a locked tower on disk: the losses of a run without them, pictures decoded once, parts that can be trusted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from distributed.ranks import run_ranks
from small import small_data, small_module, small_trainer, write_folder
from strategies.ranks import fit, refusal
from torch import Tensor

from lightning_clip import ClipDataModule, InputError
from lightning_clip.core.types import KeptFeatures
from lightning_clip.data import batches
from lightning_clip.data.feature_store import FeatureStore, digest_of
from lightning_clip.variants import ConvirtModule

PLAIN = {"augment": False}


class Losses(pl.Callback):
    """Of each step, and what its pictures were."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.dims: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss"]))
        image = batch.image
        self.dims.append((image.features if isinstance(image, KeptFeatures) else image).ndim)


def losses(folder: Path, cache: Path | None, epochs: int = 3, seed: int = 0, **settings: Any) -> Losses:
    """Of a run on files, two loader workers included if asked for."""
    table = folder / "photos" / "captions.jsonl"
    if not table.exists():
        write_folder(folder / "photos", count=32)
    torch.manual_seed(seed)
    workers, resume = settings.pop("num_workers", 0), settings.pop("resume", None)
    image = {"lock": True, **({} if cache is None else {"cache": str(cache)})}
    module = small_module(transform=PLAIN, adapt={"image": image}, optimizer={"lr": 1e-2, "schedule": "constant"}, **settings)
    found = Losses()
    trainer = small_trainer(folder, max_steps=-1, max_epochs=epochs, callbacks=[found])
    data = ClipDataModule({"name": str(table)}, local_batch_size=8, num_workers=workers)
    trainer.fit(module, data, ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return found


def parts(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.npy"))


class TestRuns:
    def test_same_losses(self, tmp_path: Path) -> None:
        plain, cached = losses(tmp_path, None), losses(tmp_path, tmp_path / "cache")
        assert cached.values == pytest.approx(plain.values, rel=1e-6) and len(plain.values) == 12
        assert cached.dims == [4] * 4 + [2] * 8

    def test_in_workers_and_micro_batches(self, tmp_path: Path) -> None:
        plain = losses(tmp_path, None)
        cached = losses(tmp_path, tmp_path / "cache", num_workers=2, micro_batch_size=4)
        assert cached.values == pytest.approx(plain.values, rel=1e-6)
        assert cached.dims == [4] * 4 + [2] * 8

    def test_pictures_are_decoded_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded = []
        decode = batches.decode_for
        monkeypatch.setattr(batches, "decode_for", lambda image, *rest: decoded.append(1) or decode(image, *rest))
        losses(tmp_path, tmp_path / "cache", epochs=3)
        assert len(decoded) == 32
        losses(tmp_path, tmp_path / "cache", epochs=1)  # another run
        assert len(decoded) == 32

    def test_resumed_in_the_middle(self, tmp_path: Path) -> None:
        whole = losses(tmp_path, tmp_path / "cache")
        losses(tmp_path, tmp_path / "other", epochs=1)
        rest = losses(tmp_path, tmp_path / "other", seed=3, resume=tmp_path / "last.ckpt")
        assert rest.values == whole.values[4:] and set(rest.dims) == {2}

    def test_other_weights_have_another_folder(self, tmp_path: Path) -> None:
        losses(tmp_path, tmp_path / "cache", epochs=1)
        other = losses(tmp_path, tmp_path / "cache", epochs=1, seed=1)
        assert set(other.dims) == {4} and len(list((tmp_path / "cache").iterdir())) == 2

    def test_changed_pictures_are_seen(self, tmp_path: Path) -> None:
        """Under the same names."""
        losses(tmp_path, tmp_path / "cache", epochs=1)
        (tmp_path / "photos" / "captions.jsonl").unlink()
        write_folder(tmp_path / "photos", count=32, size=(60, 20))
        again = losses(tmp_path, tmp_path / "cache", epochs=2)
        assert again.values == pytest.approx(losses(tmp_path, None, epochs=2).values, rel=1e-6)
        assert again.dims == [4] * 4 + [2] * 4

    def test_an_unreadable_picture_does_not_spoil_its_batches(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "photos", count=32)
        (tmp_path / "photos" / "3.jpg").write_bytes(b"no picture")
        torch.manual_seed(0)
        module = small_module(transform=PLAIN, adapt={"image": {"lock": True, "cache": str(tmp_path / "cache")}})
        found = Losses()
        trainer = small_trainer(tmp_path, max_steps=-1, max_epochs=2, callbacks=[found])
        trainer.fit(module, ClipDataModule(str(tmp_path / "photos"), local_batch_size=8, max_bad_share=0.5))
        assert found.dims == [4] * 4 + [2] * 4

    def test_on_two_ranks(self, tmp_path: Path) -> None:
        settings: dict[str, Any] = {"transform": PLAIN, "strategy": "ddp", "max_steps": 6}
        plain = fit(tmp_path, adapt={"image": {"lock": True}}, **settings)["weights"]
        cached = fit(tmp_path, adapt={"image": {"lock": True, "cache": str(tmp_path / "cache")}}, **settings)["weights"]
        for name, value in plain.items():
            torch.testing.assert_close(cached[name], value, rtol=1e-5, atol=1e-6)
        store = FeatureStore(next((tmp_path / "cache").iterdir()))
        store.refresh(verify=True)
        assert len(store) == 32 and len(parts(tmp_path / "cache")) >= 2


class TestStore:
    def filled(self, folder: Path, count: int = 20) -> tuple[FeatureStore, list[bytes], Tensor]:
        store = FeatureStore(folder)
        digests, features = [digest_of(bytes([number])) for number in range(count)], torch.randn(count, 3)
        for start in range(0, count, 7):
            store.add(digests[start : start + 7], features[start : start + 7])
            store.flush()
        store.refresh()
        return store, digests, features

    def test_gives_back_what_was_written(self, tmp_path: Path) -> None:
        store, digests, features = self.filled(tmp_path)
        found = store.find([digests[13], digest_of(b"none"), digests[0]])
        assert found[1] is None and found[0] is not None and found[2] is not None
        assert torch.equal(found[0], features[13]) and torch.equal(found[2], features[0])

    @pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
    def test_damaged_parts_are_said_and_removed(self, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
        _, digests, _ = self.filled(tmp_path, count=7)
        (part,) = tmp_path.glob("*.npy")
        content = part.read_bytes()
        part.write_bytes({"cut": content[:-9], "changed": content[:-9] + bytes(9), "empty": b""}[damage])
        again = FeatureStore(tmp_path)
        with caplog.at_level(logging.WARNING):
            again.refresh(verify=True)
        assert "are damaged" in caplog.text and "computed again" in caplog.text
        assert again.find(digests) == [None] * 7 and not list(tmp_path.glob("*.npy"))

    def test_what_was_being_written_is_no_part(self, tmp_path: Path) -> None:
        (tmp_path / ".abc.partial").write_bytes(b"half")
        store = FeatureStore(tmp_path)
        store.refresh(verify=True)
        assert len(store) == 0

    def test_a_disk_that_is_full_costs_the_cache_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        store = FeatureStore(tmp_path)
        store.add([digest_of(b"a")], torch.ones(1, 2))
        store.flush()
        assert "No space left" in caplog.text and not list(tmp_path.iterdir())

    def test_many_writers(self, tmp_path: Path) -> None:
        def write(rank: int, world_size: int) -> None:
            store = FeatureStore(tmp_path)
            for number in range(20):
                store.add([digest_of(f"{rank} {number}".encode())], torch.full((1, 2), float(100 * rank + number)))
                store.flush()

        run_ranks(write, 3)
        store = FeatureStore(tmp_path)
        store.refresh(verify=True)
        rows = store.find([digest_of(f"{rank} {number}".encode()) for rank in range(3) for number in range(20)])
        assert [int(row[0]) for row in rows if row is not None] == [100 * r + n for r in range(3) for n in range(20)]

    def test_values_that_are_not_finite_are_not_kept(self, tmp_path: Path) -> None:
        store = FeatureStore(tmp_path)
        store.add([digest_of(b"a")], torch.full((1, 2), float("nan")))
        store.flush()
        assert not list(tmp_path.iterdir())


class TestRefused:
    def test_with_augmentation(self, tmp_path: Path) -> None:
        module = small_module(adapt={"image": {"lock": True, "cache": str(tmp_path / "cache")}})
        message = r"adapt.image.cache .* needs the same pixels .* set towers: {image: {transform: {augment: false}}}"
        with pytest.raises(InputError, match=message):
            small_trainer(tmp_path).fit(module, small_data(size=32))

    def test_with_augmentation_of_a_subclass(self, tmp_path: Path) -> None:
        adapt = {"image": {"lock": True, "cache": str(tmp_path / "cache")}}
        text = {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}
        module = ConvirtModule(
            "resnet10t", text, embed_dim=16, towers={"image": {"transform": PLAIN}}, training={"adapt": adapt}
        )
        with pytest.raises(InputError, match="needs the same pixels in every epoch"):
            small_trainer(tmp_path).fit(module, small_data(size=32))

    def test_under_fsdp2(self, tmp_path: Path) -> None:
        module = small_module(transform=PLAIN, adapt={"image": {"lock": True, "cache": str(tmp_path / "cache")}})

        def attempt() -> None:
            small_trainer(tmp_path, strategy="clip_fsdp2", devices=1).fit(module, small_data(size=32))

        assert "adapt.image.cache does not work under ClipFSDP2Strategy" in refusal(attempt)

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        module = small_module(transform=PLAIN, adapt={"image": {"lock": True, "cache": str(tmp_path / "file" / "cache")}})
        with pytest.raises(InputError, match="cannot be written to"):
            small_trainer(tmp_path).fit(module, small_data(size=32))
