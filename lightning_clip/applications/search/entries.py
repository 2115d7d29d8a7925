"""Entries of an index: what is known of each picture beside its vector, in SQLite, with full-text search of captions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_clip.core.errors import InputError

__all__ = ["Entries", "Entry"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS sources(id INTEGER PRIMARY KEY, description TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS units(source INTEGER, fingerprint TEXT, number INTEGER, PRIMARY KEY(source, fingerprint, number));
CREATE TABLE IF NOT EXISTS entries(
  id INTEGER PRIMARY KEY, source INTEGER, row INTEGER, key TEXT, place TEXT, captions TEXT, width INTEGER, height INTEGER,
  digest BLOB, thumbnail BLOB, gone INTEGER DEFAULT 0);
CREATE INDEX IF NOT EXISTS entries_digest ON entries(digest);
CREATE INDEX IF NOT EXISTS entries_key ON entries(source, key);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text);
"""
_COLUMNS = "id, source, row, key, place, captions, width, height, digest"


class Entry(NamedTuple):
    """A picture of an index.

    Attributes:
        id: place of its vector.
        source: number of the source it comes from.
        row: place in that source.
        key: its name there.
        place: where it stands, for people who look for it.
        captions: its texts, may be empty.
        width, height: of the picture in pixels.
        digest: 16 bytes that stand for the stored picture.
    """

    id: int
    source: int
    row: int
    key: str
    place: str
    captions: tuple[str, ...]
    width: int
    height: int
    digest: bytes


class Entries:
    """Rows of one SQLite file; usable from several threads, each with a connection of its own.

    Args:
        path: of the file.
        write: make it where it is not there, and write to it.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        mode = "rwc" if write else "ro"
        address = f"{path.resolve().as_uri()}?mode={mode}"
        self._database = sqlite3.connect(address, timeout=30, isolation_level=None, check_same_thread=False, uri=True)
        if write:
            self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written in the block is there afterwards, or none of it."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    # -- facts and sources ------------------------------------------------------------------------------------------

    def fact(self, name: str) -> Any:
        """A value that `set_fact` stored, or None."""
        found = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def set_fact(self, name: str, value: Any) -> None:
        """Stores a plain value under a name."""
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def source(self, description: str) -> int:
        """The number of a source, new if it was never seen."""
        self._database.execute("INSERT OR IGNORE INTO sources(description) VALUES (?)", (description,))
        return int(self._database.execute("SELECT id FROM sources WHERE description = ?", (description,)).fetchone()[0])

    def sources(self) -> dict[int, str]:
        """Number -> description of each source."""
        return dict(self._database.execute("SELECT id, description FROM sources ORDER BY id"))

    def finished_units(self, source: int, fingerprint: str) -> set[int]:
        """Numbers of the units of a source that a run which was cut short had finished."""
        given = "SELECT number FROM units WHERE source = ? AND fingerprint = ?"
        return {number for (number,) in self._database.execute(given, (source, fingerprint))}

    def finish_unit(self, source: int, fingerprint: str, number: int) -> None:
        """Notes that a unit is in the index."""
        self._database.execute("INSERT OR REPLACE INTO units VALUES (?, ?, ?)", (source, fingerprint, number))

    def forget_units(self, source: int) -> None:
        """Forgets the units of a source: it has been read to its end."""
        self._database.execute("DELETE FROM units WHERE source = ?", (source,))

    # -- entries ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Rows, those that are gone too: as many as there are vectors."""
        found = self._database.execute("SELECT MAX(id) FROM entries").fetchone()[0]
        return 0 if found is None else int(found) + 1

    def gone(self) -> np.ndarray:
        """Ids of the rows that are not to be found any more, int64, rising."""
        rows = self._database.execute("SELECT id FROM entries WHERE gone ORDER BY id")
        return np.array([number for (number,) in rows], np.int64)

    def add(self, entry: Entry, thumbnail: bytes) -> None:
        """Adds a row; one of the same source and key is gone from now on.

        Args:
            entry: the new row, with the id that follows the last.
            thumbnail: encoded, may be empty.
        """
        self._database.execute(
            "UPDATE entries SET gone = 1 WHERE source = ? AND key = ? AND NOT gone", (entry.source, entry.key)
        )
        texts = json.dumps(entry.captions, ensure_ascii=False)
        values = (*entry[:5], texts, *entry[6:], thumbnail)
        self._database.execute(f"INSERT INTO entries({_COLUMNS}, thumbnail) VALUES ({', '.join('?' * len(values))})", values)
        if entry.captions:
            self._database.execute("INSERT INTO words(rowid, text) VALUES (?, ?)", (entry.id, " \n".join(entry.captions)))

    def move(self, number: int, row: int, place: str) -> None:
        """Notes that a picture stands elsewhere in its source.

        Args:
            number: id of the row.
            row: its new place in the source.
            place: likewise, for people.
        """
        self._database.execute("UPDATE entries SET row = ?, place = ? WHERE id = ?", (row, place, number))

    def find(self, source: int, key: str) -> tuple[int, bytes] | None:
        """Id and digest of a row of a source by its key."""
        given = "SELECT id, digest FROM entries WHERE source = ? AND key = ? AND NOT gone"
        found = self._database.execute(given, (source, key)).fetchone()
        return None if found is None else (int(found[0]), bytes(found[1]))

    def known_as(self, digest: bytes) -> int | None:
        """The first row with that very picture, also one that is gone."""
        found = self._database.execute("SELECT id FROM entries WHERE digest = ? ORDER BY id LIMIT 1", (digest,)).fetchone()
        return None if found is None else int(found[0])

    def digests(self) -> np.ndarray:
        """Of all rows, each once, uint8 (N, 16)."""
        rows = [digest for (digest,) in self._database.execute("SELECT DISTINCT digest FROM entries")]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)

    def get(self, numbers: Sequence[int]) -> list[Entry]:
        """Rows by their ids, in that order."""
        found = {}
        for number in numbers:
            row = self._database.execute(f"SELECT {_COLUMNS} FROM entries WHERE id = ?", (int(number),)).fetchone()
            if row is not None:
                found[int(number)] = Entry._make((*row[:5], tuple(json.loads(row[5])), *row[6:]))
        return [found[int(number)] for number in numbers if int(number) in found]

    def thumbnail(self, number: int) -> bytes:
        """The small picture of a row, empty where there is none."""
        found = self._database.execute("SELECT thumbnail FROM entries WHERE id = ?", (int(number),)).fetchone()
        return b"" if found is None or found[0] is None else bytes(found[0])

    def with_words(self, text: str) -> np.ndarray:
        """Ids of the rows whose captions have all these words, int64, rising.

        Args:
            text: words; one that ends in * stands for all that begin so.

        Raises:
            InputError: no word.
        """
        terms = [f'"{word.rstrip("*")}"' + ("*" if word.endswith("*") else "") for word in _words(text)]
        if not terms:
            raise InputError(f"words {text!r} hold no word: give some that captions have, such as 'red boat'")
        given = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid"
        return np.array([number for (number,) in self._database.execute(given, (" ".join(terms),))], np.int64)

    def prune(self, source: int, keys: Iterable[str]) -> int:
        """Marks the rows of a source as gone whose keys are not among those given.

        Returns:
            How many.
        """
        kept = set(keys)
        rows = self._database.execute("SELECT id, key FROM entries WHERE source = ? AND NOT gone", (source,)).fetchall()
        lost = [(number,) for number, key in rows if key not in kept]
        self._database.executemany("UPDATE entries SET gone = 1 WHERE id = ?", lost)
        return len(lost)


def _words(text: str) -> list[str]:
    """The words of a query; quotes are punctuation to it, so that nothing in it is FTS5's syntax."""
    return [word for word in text.replace('"', " ").split() if any(letter.isalnum() for letter in word)]
