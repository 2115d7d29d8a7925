"""Where the vectors of an index are kept: files of ours, LanceDB, or a Qdrant server, all behind `VectorStore`."""

from lightning_clip.applications.search.stores import files, lance, qdrant
from lightning_clip.applications.search.stores.store import DEFAULT_STORE, Home, VectorStore, open_store, settled, vector_stores

__all__ = ["DEFAULT_STORE", "Home", "VectorStore", "files", "lance", "open_store", "qdrant", "settled", "vector_stores"]
