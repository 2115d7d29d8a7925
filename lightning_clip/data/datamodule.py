"""`ClipDataModule`: the loaders of training, validation and test, with the tokenizer, transforms and columns of the model."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_clip.core.errors import InputError
from lightning_clip.core.secrets import hidden
from lightning_clip.core.types import Pair, PairBatch
from lightning_clip.data import moving_shapes, synthetic  # noqa: F401  (registers "moving_shapes" and "synthetic")
from lightning_clip.data.batches import PairCollator, PreparedPairs
from lightning_clip.data.captions import ChooseCaption, caption_choices, first_caption
from lightning_clip.data.column_check import check_columns, without_missing_views
from lightning_clip.data.columns import Collate, is_view
from lightning_clip.data.encoded import with_pixels
from lightning_clip.data.loader import PairLoader, start_worker
from lightning_clip.data.no_validation import no_validation
from lightning_clip.data.order import Sequential
from lightning_clip.data.sampler import InOrderSampler, PairSampler, world
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.data.sources.dataset import as_source
from lightning_clip.data.sources.split_specs import with_parts
from lightning_clip.data.streaming import StreamSource
from lightning_clip.data.tokenizers import Tokenizer

if TYPE_CHECKING:
    from typing import Protocol

    class PreparesPairs(Protocol):
        """What the data asks of a model: `ClipModule` and its subclasses have it."""

        tokenizer: Tokenizer

        @staticmethod
        def choose_caption(pair: Pair, rng: random.Random) -> str: ...

        def image_transform(self, train: bool) -> nn.Module: ...

        # And, where its towers read other columns than image and text: what they are, each with its tower's `collate`.
        # def columns(self) -> Mapping[str, Collate | None]: ...


__all__ = ["ClipDataModule"]

log = logging.getLogger(__name__)
SourceSpec = str | dict[str, Any] | PairSource | None


class ClipDataModule(pl.LightningDataModule):
    """Image-text pairs for training, validation and test.

    A source is "synthetic", a path (tar shards with braces, a captions table, a folder that holds one), a mapping with
    "name" and settings, a `PairSource`, or any Dataset whose items are images with texts (see `pair_of_item`). The order of
    samples depends on the seed and the epoch alone. Samples that cannot be used are skipped, counted by reason and reported
    when the run ends.

    Args:
        train: source of the training pairs. "synthetic" alone also gives validation and test scenes, a `split` its parts.
        val: source of the validation pairs; without one a fit runs without validation.
        test: source for `Trainer.test` and `Trainer.predict`.
        local_batch_size: pairs per rank and step, at least 1.
        num_workers: loader processes per rank, 0 loads in the main process.
        seed: of order, captions and crops.
        max_bad_share: the run stops once more than this share of an epoch's samples could not be used.
        captions: which text of a training pair is shown: "random", "template", "tags", "joined", "sentence", "clean", a
            mapping with settings or a function; None asks the model's `choose_caption`.

    Raises:
        InputError: no data for the stage, a source that does not open, a batch larger than the data, too many bad samples.

    Examples:
        >>> len(ClipDataModule(train="synthetic", local_batch_size=8).source("train")) > 0
        True
    """

    def __init__(
        self,
        train: SourceSpec = None,
        val: SourceSpec = None,
        *,
        test: SourceSpec = None,
        local_batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
        max_bad_share: float = 0.01,
        captions: str | dict[str, Any] | ChooseCaption | None = None,
    ) -> None:
        super().__init__()
        if local_batch_size < 1 or num_workers < 0:
            raise InputError(f"local_batch_size {local_batch_size} must be >= 1 and num_workers {num_workers} >= 0")
        if not 0 <= max_bad_share <= 1:
            raise InputError(f"max_bad_share {max_bad_share} is a share in [0, 1]")
        if train == "synthetic":
            val = val or {"name": "synthetic", "split": "val", "size": 1000}
            test = test or {"name": "synthetic", "split": "test", "size": 1000}
        self._specs = with_parts(train, val, test)
        self._sources: dict[str, PairSource] = {}
        self._attached: PreparesPairs | None = None
        self.local_batch_size, self.num_workers = local_batch_size, num_workers
        self.seed, self.max_bad_share = seed, max_bad_share
        self.captions = None if captions is None else caption_choices.build(captions)
        self.skipped: dict[str, Counter[str]] = {name: Counter() for name in self._specs}
        self._record()

    @property
    def batch_size(self) -> int:
        """`local_batch_size` by the name under which Lightning's Tuner looks for it and sets it."""
        return self.local_batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self.local_batch_size = value
        self._record()

    def attach(self, module: PreparesPairs) -> ClipDataModule:
        """Names the model whose tokenizer and transforms to use, where there is no Trainer that knows it."""
        self._attached = module
        return self

    def setup(self, stage: str) -> None:
        """Opens the sources a stage needs, so that wrong paths fail before the model is built."""
        self._record()
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}[stage]:
            if self._specs[name] is not None or name != "val" or stage == "validate":
                self.source(name)
        if stage == "fit" and self._specs["val"] is None:
            self.val_dataloader = no_validation  # type: ignore[assignment, method-assign]

    def source(self, split: str) -> PairSource:
        """The opened source of "train", "val" or "test"."""
        if split not in self._sources:
            spec = self._specs[split]
            if spec is None:
                raise InputError(f"no {split} data: give ClipDataModule({split}=...) a path, a mapping or 'synthetic'")
            if isinstance(spec, list | tuple) and any(isinstance(part, str | Mapping) for part in spec):
                raise InputError(
                    f"{split} data {hidden(spec)!r} is a list: for several sources give {{'name': 'mix', 'sources': [...]}}"
                )
            source = as_source(pair_sources.build(spec))
            self._check_lost(split, source)
            self._sources[split] = source
        return self._sources[split]

    def train_dataloader(self) -> DataLoader[Any]:
        source = self.source("train")
        overfits = getattr(self.trainer, "overfit_batches", 0) > 0  # the same few batches in every epoch
        sampler = (InOrderSampler if overfits else PairSampler)(
            Sequential(len(source)) if overfits else source.order(self.seed),
            batch_size=self.local_batch_size,
            batches_done=self._batches_done if self.trainer is not None else None,
            limit=self.trainer.limit_train_batches if self.trainer is not None else 1.0,
            fetch=source.fetch,
        )
        if isinstance(source, StreamSource):
            source = source.dealt(self.seed, self.local_batch_size, *world())
        return self._loader(source, sampler, train=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.evaluation_loader(self.source("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        return self.evaluation_loader(self.source("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.evaluation_loader(self.source("test"))

    def evaluation_loader(self, source: PairSource, columns: Collection[str] | None = None) -> DataLoader[Any]:
        """Every sample once, in order, over the ranks without repeats, with evaluation transforms and first captions.

        Args:
            source: any pair source.
            columns: what to read of it; None reads all columns that the model's towers read.

        Raises:
            InputError: a stream, or a column that the source does not have.
        """
        if not getattr(source, "random_access", True):
            raise InputError("a stream is for training only: give shards on a disk or a URL for evaluation")
        return self._loader(source, InOrderSampler(Sequential(len(source))), train=False, only=columns)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts what the workers skipped, and lets the device decode what they handed on."""
        if isinstance(batch, PairBatch) and batch.skipped:
            self._count(batch)
        return with_pixels(batch, self.trainer.strategy.root_device) if isinstance(batch, PairBatch) and self.trainer else batch

    def teardown(self, stage: str) -> None:
        for split, reasons in self.skipped.items():
            if reasons:
                listing = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
                log.warning("%s data: %d samples were skipped: %s", split, sum(reasons.values()), listing)
                reasons.clear()

    def _record(self) -> None:
        """What loggers show of the data; again when a stage begins, since the batch size may have been looked for."""
        self.save_hyperparameters({"local_batch_size": self.local_batch_size}, ignore=[])

    def _batches_done(self) -> int:
        """Batches that this run has trained on, those before a restart included.

        Lightning counts a batch as processed after its step and before a checkpoint can be written; its count of epochs
        may be one too many in a run that goes on from a checkpoint.
        """
        assert self.trainer is not None
        done: int = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return done

    def _count(self, batch: PairBatch) -> None:
        state = self.trainer.state.stage.value if self.trainer and self.trainer.state.stage else "train"
        split = {"train": "train", "validate": "val", "sanity_check": "val"}.get(state, "test")
        reasons = self.skipped[split]
        reasons.update(skip.reason for skip in batch.skipped)
        bad, allowed = sum(reasons.values()), self.max_bad_share * self._seen_by(split)
        if not batch.size and split == "train":
            raise InputError(
                f"none of the {len(batch.skipped)} samples of a batch could be used, nor any near them (the last: "
                f"{batch.skipped[-1].key}, {batch.skipped[-1].reason}): fix or remove them"
            )
        if bad > allowed:
            listing = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
            raise InputError(
                f"{bad} {split} samples could not be used ({listing}; the last: {batch.skipped[-1].key}), more than "
                f"max_bad_share {self.max_bad_share:g} allows ({int(allowed)}): fix the data or raise max_bad_share"
            )

    def _check_lost(self, split: str, source: PairSource) -> None:
        """Ends the run before it begins where more is known to be unreadable than `max_bad_share` will allow."""
        lost, allowed = source.lost(), self.max_bad_share * len(source)
        if sum(lost.values()) > allowed:
            listing = "; ".join([*lost][:3]) + (f"; and {len(lost) - 3} more" if len(lost) > 3 else "")
            raise InputError(
                f"about {sum(lost.values())} {split} samples cannot be read ({listing}), more than max_bad_share "
                f"{self.max_bad_share:g} allows ({int(allowed)}): mend the data, its storage_options, or raise max_bad_share"
            )

    def _seen_by(self, split: str) -> int:
        """Samples that this rank has met or will meet by the end of the current epoch."""
        epochs = self.trainer.current_epoch + 1 if self.trainer and split == "train" else 1
        world_size = self.trainer.world_size if self.trainer else 1
        return epochs * -(-len(self.source(split)) // world_size)

    def _loader(
        self, source: PairSource, sampler: PairSampler, *, train: bool, only: Collection[str] | None = None
    ) -> DataLoader[Any]:
        module = self._module()
        columns = _columns(module)
        if only is not None:
            columns = {name: columns.get(name) for name in only}
        if not train and any(map(is_view, columns)):  # the transform needs an image tower
            columns = without_missing_views(columns, module.image_transform(train=False))
        dataset = self._prepared(module, source, columns, train)
        # Where features are kept, an epoch begins after the one before has written them.
        sampler.endless = sampler.batches_done is not None and dataset.features is None
        if set(columns) != {"image", "text"}:
            check_columns(dataset)
        further = {name: collate for name, collate in columns.items() if name not in ("image", "text")}
        text = "text" in columns
        return PairLoader(
            dataset,
            sampler=sampler,
            batch_size=self.local_batch_size,
            num_workers=self.num_workers,
            collate_fn=PairCollator(module.tokenizer if text else None, further, "image" in columns, text),
            drop_last=train,
            persistent_workers=train and self.num_workers > 0,
            # Uploads from memory that is not pinned wait for the device; Lightning's from pinned memory do not.
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
        )

    def _prepared(
        self, module: PreparesPairs, source: PairSource, columns: Mapping[str, Collate | None], train: bool
    ) -> PreparedPairs:
        """The source's samples with the transform and choice of captions of one stage."""
        choose = (self.captions or module.choose_caption) if train and "text" in columns else first_caption
        transform = module.image_transform(train) if "image" in columns else nn.Identity()
        # Anything that has tokenizer and transform will do as a model; few keep features.
        features = getattr(module, "feature_store", None) if train else None
        return PreparedPairs(source, transform, choose, self.seed, features and features(), columns, fills=train)

    def _module(self) -> PreparesPairs:
        module = self._attached or (self.trainer.lightning_module if self.trainer else None)
        if module is None:
            raise InputError("the data does not know its model: use it through a Trainer, or call data.attach(module) first")
        return module  # type: ignore[return-value]


def _columns(module: PreparesPairs) -> Mapping[str, Collate | None]:
    """What the model's towers read; images and texts where it does not say."""
    asked: Callable[[], Mapping[str, Collate | None]] = getattr(module, "columns", lambda: {"image": None, "text": None})
    return asked()
