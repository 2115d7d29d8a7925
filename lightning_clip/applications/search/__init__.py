"""Search: pictures by words, by pictures, or by both."""

from lightning_clip.applications.search.build import Built, build_index
from lightning_clip.applications.search.entries import Entry
from lightning_clip.applications.search.index import Hit, SearchIndex
from lightning_clip.applications.search.query import Query

__all__ = ["Built", "Entry", "Hit", "Query", "SearchIndex", "build_index"]
