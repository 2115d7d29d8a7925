"""Entries of an index: what is known of each picture beside its vector, in SQLite, with full-text search of captions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_clip.core.errors import InputError

__all__ = ["Entries", "Entry"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS sources(id INTEGER PRIMARY KEY, description TEXT UNIQUE, pass INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS units(source INTEGER, fingerprint TEXT, number INTEGER, PRIMARY KEY(source, fingerprint, number));
CREATE TABLE IF NOT EXISTS entries(
  id INTEGER PRIMARY KEY, source INTEGER, row INTEGER, key TEXT, place TEXT, captions TEXT, width INTEGER, height INTEGER,
  digest BLOB, thumbnail BLOB, seen INTEGER, gone INTEGER DEFAULT 0);
CREATE INDEX IF NOT EXISTS entries_digest ON entries(digest);
CREATE INDEX IF NOT EXISTS entries_gone ON entries(id) WHERE gone;
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
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite ends it itself where the disk is full
                self._database.execute("ROLLBACK")
            raise

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

    def begin_pass(self, source: int, fingerprint: str) -> set[int]:
        """Begins to read a source from its beginning, or goes on where a run was cut short.

        Args:
            source: its number.
            fingerprint: of the source and its units; another one begins anew.

        Returns:
            Numbers of the units that are done.
        """
        given = "SELECT number FROM units WHERE source = ? AND fingerprint = ?"
        done = {number for (number,) in self._database.execute(given, (source, fingerprint))}
        if not done:
            with self.transaction():
                self._database.execute("DELETE FROM units WHERE source = ?", (source,))
                self._database.execute("UPDATE sources SET pass = pass + 1 WHERE id = ?", (source,))
        return done

    def finish_unit(self, source: int, fingerprint: str, number: int) -> None:
        """Notes that a unit is in the index."""
        self._database.execute("INSERT OR REPLACE INTO units VALUES (?, ?, ?)", (source, fingerprint, number))

    def finish_pass(self, source: int, *, prune: bool) -> int:
        """Marks rows of a source as gone that this pass has not met: those whose key now has another picture, or all.

        Args:
            source: its number, read to its end.
            prune: all, also those whose key was not met.

        Returns:
            How many.
        """
        now = "(SELECT pass FROM sources WHERE id = :source)"
        met = f"(SELECT key FROM entries WHERE source = :source AND seen = {now})"
        unmet = f"UPDATE entries SET gone = 1 WHERE source = :source AND NOT gone AND seen < {now}"
        with self.transaction():
            self._database.execute("DELETE FROM units WHERE source = ?", (source,))
            lost = self._database.execute(unmet if prune else f"{unmet} AND key IN {met}", {"source": source})
        return lost.rowcount

    def progress(self) -> tuple[int, int]:
        """Pictures looked at by the build that is at work or was cut short, and how many it has; (0, 0) without one."""
        building = self.fact("building")
        if building is None:
            return 0, 0
        given = "SELECT COUNT(*) FROM units WHERE source = ? AND fingerprint = ?"
        [(units,)] = self._database.execute(given, (building["source"], building["fingerprint"]))
        return min(units * building["unit"], building["pictures"]), building["pictures"]

    def version(self) -> int:
        """A number that changes when another process has written."""
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

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
        """Adds a row.

        Args:
            entry: the new row, with the id that follows the last.
            thumbnail: encoded, may be empty.
        """
        values = (*entry._replace(captions=_stored(entry.captions)), thumbnail, entry.source)  # type: ignore[arg-type]
        marks = ", ".join("?" * (len(values) - 1))
        self._database.execute(
            f"INSERT INTO entries({_COLUMNS}, thumbnail, seen) VALUES ({marks}, (SELECT pass FROM sources WHERE id = ?))",
            values,
        )
        self._index_words(entry.id, entry.captions)

    def meet(self, number: int, row: int, place: str, captions: tuple[str, ...]) -> None:
        """Notes that a pass has met a row, where its picture stands now, and its captions of now.

        Args:
            number: id of the row.
            row: its place in the source.
            place: likewise, for people.
            captions: its texts.
        """
        texts = _stored(captions)
        [(before,)] = self._database.execute("SELECT captions FROM entries WHERE id = ?", (number,))
        self._database.execute(
            "UPDATE entries SET row = ?, place = ?, captions = ?, seen = (SELECT pass FROM sources WHERE id = source) "
            "WHERE id = ?",
            (row, place, texts, number),
        )
        if texts != before:
            self._database.execute("DELETE FROM words WHERE rowid = ?", (number,))
            self._index_words(number, captions)

    def _index_words(self, number: int, captions: tuple[str, ...]) -> None:
        if captions:
            self._database.execute("INSERT INTO words(rowid, text) VALUES (?, ?)", (number, " \n".join(captions)))

    def find(self, source: int, key: str, digest: bytes) -> int | None:
        """Id of the row of a source with that key and that very picture: keys may repeat, as they do in shards."""
        given = "SELECT id FROM entries WHERE source = ? AND key = ? AND digest = ? AND NOT gone"
        found = self._database.execute(given, (source, key, digest)).fetchone()
        return None if found is None else int(found[0])

    def known_as(self, digest: bytes) -> int | None:
        """The first row with that very picture, also one that is gone."""
        found = self._database.execute("SELECT id FROM entries WHERE digest = ? ORDER BY id LIMIT 1", (digest,)).fetchone()
        return None if found is None else int(found[0])

    def digests(self) -> np.ndarray:
        """Of all rows, each once, uint8 (N, 16)."""
        rows = [digest for (digest,) in self._database.execute("SELECT DISTINCT digest FROM entries")]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)

    def latest(self, before: int, most: int) -> list[int]:
        """Ids of rows that can be found, the newest first, each picture once.

        Args:
            before: only ids below it.
            most: how many, at least 1.
        """
        given = (
            "SELECT id FROM entries AS one WHERE id < ? AND NOT gone AND NOT EXISTS "
            "(SELECT 1 FROM entries WHERE digest = one.digest AND id < one.id AND NOT gone) ORDER BY id DESC LIMIT ?"
        )
        return [number for (number,) in self._database.execute(given, (before, most))]

    def copies(self) -> list[list[int]]:
        """Ids of the rows that hold the very same picture, rising, a list for each picture that stands there more than once."""
        several = "SELECT digest FROM entries GROUP BY digest HAVING COUNT(*) > 1 ORDER BY MIN(id)"  # of the index alone
        each = "SELECT id FROM entries WHERE digest = ? AND NOT gone ORDER BY id"
        rows = [self._database.execute(each, digest).fetchall() for digest in self._database.execute(several).fetchall()]
        return [[number for (number,) in same] for same in rows if len(same) > 1]

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


def _stored(captions: tuple[str, ...]) -> str:
    return json.dumps(captions, ensure_ascii=False)


def _words(text: str) -> list[str]:
    """The words of a query; quotes are punctuation to it, so that nothing in it is FTS5's syntax."""
    return [word for word in text.replace('"', " ").split() if any(letter.isalnum() for letter in word)]
