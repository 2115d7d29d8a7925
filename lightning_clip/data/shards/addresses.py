"""Addresses of shards: which are remote, which are local after all, and how they are shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from lightning_clip.core.errors import InputError
from lightning_clip.core.trust import check_trusted

__all__ = ["check_nested", "is_http", "is_url", "shown", "without_scheme"]

_URL = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://")
# File systems that are described by other files, some of which are templates or pickles.
_NESTED = ("reference", "filecache", "blockcache", "simplecache", "cached", "dask", "generic", "async_wrapper")
_LOCAL = re.compile(r"^(file|local)://", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether a shard is read over a network (or any fsspec file system) rather than from a local path.

    Examples:
        >>> is_url("s3://bucket/train-000000.tar"), is_url("HTTP://host/0.tar")
        (True, True)
        >>> is_url("shards/train-000000.tar"), is_url("file:///shards/train-000000.tar")
        (False, False)
    """
    return bool(_URL.match(path)) and not _LOCAL.match(path)


def without_scheme(path: str) -> str:
    """A path in the place of its `file://` address; a URL with its scheme in small letters; anything else as it is.

    Examples:
        >>> without_scheme("file:///data/0.tar"), without_scheme("file://localhost/data/0.tar"), without_scheme("HTTP://Host/0.tar")
        ('/data/0.tar', '/data/0.tar', 'http://Host/0.tar')

    Raises:
        InputError: a `file://` address of another machine.
    """
    if _LOCAL.match(path):
        rest = path.partition("://")[2].removeprefix("localhost/").removeprefix("127.0.0.1/")
        if path.partition("://")[2] != rest:
            return f"/{rest}"
        if rest and rest[0] not in "/.~":
            raise InputError(f"{path!r} names the machine {rest.split('/')[0]!r}: a path of this one is file:///FOLDER/FILE")
        return rest
    return _URL.sub(lambda match: f"{match[1].lower()}://", path)


def shown(url: str) -> str:
    """A URL for logs and errors, without user, password and query: these may be secrets.

    Examples:
        >>> shown("https://me:word@host/0.tar?sig=abc"), shown("s3://bucket/0.tar")
        ('https://host/0.tar?...', 's3://bucket/0.tar')
    """
    if not is_url(url):
        return url
    base, mark, _ = url.partition("?")
    scheme, separator, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}{'?...' if mark else ''}"


def check_nested(url: str) -> None:
    """Refuses a URL of a file system inside another one (`reference://`, `filecache://`) where a file of others names it.

    Raises:
        InputError: the command under way runs nothing that files name.
    """
    if "::" in url or url.partition("://")[0] in _NESTED:
        check_trusted(f"{shown(url)!r} reads one file system by another, whose description may be a program,")


def is_http(url: str) -> bool:
    """Whether aiohttp reads it."""
    return urlsplit(url).scheme in ("http", "https")
