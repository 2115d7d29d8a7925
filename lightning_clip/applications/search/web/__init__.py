"""The search page: an index in a browser, and the same by a REST API; needs the extra `serve`."""

from lightning_clip.applications.search.web.app import search_app
from lightning_clip.applications.search.web.collection import Collection

__all__ = ["Collection", "search_app"]
