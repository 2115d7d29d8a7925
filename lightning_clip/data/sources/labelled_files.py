"""Image files with a class each: what class folders and classes in file names have in common."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_clip.core.types import Pair
from lightning_clip.data.file_tree import FileTree
from lightning_clip.data.sources.base import PairSource
from lightning_clip.data.sources.row_store import Rows

__all__ = ["LabelledFiles"]


class LabelledFiles(PairSource):
    """Images of a folder or zip file, each with its class and no text.

    Args:
        tree: where the files are.
        labels: (name, class number) of each image, in the order of the source.
        class_names: in the order of the numbers.
        layout: what was recognised.
    """

    def __init__(self, tree: FileTree, labels: Sequence[tuple[str, int]], class_names: Sequence[str], layout: str) -> None:
        self._tree, self.class_names, self.layout = tree, class_names, layout
        self._rows = Rows([{"image": name, "label": label} for name, label in labels])

    def __len__(self) -> int:
        return len(self._rows)

    def label(self, index: int) -> int:
        label: int = self._rows[index]["label"]
        return label

    def place(self, index: int) -> str:
        return str(self._tree.path / self._rows[index]["image"])

    def __getitem__(self, index: int) -> Pair:
        name, label = self._rows[index].values()
        metadata = {"class_name": self.class_names[label]}
        return Pair(self._tree.read(name), (), str(self._tree.path / name), label, metadata=metadata)
