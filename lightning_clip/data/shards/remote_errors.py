"""Faults of remote files, of any client: which pass and which last, why in a few words, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus

from lightning_clip.core.errors import InputError, reason_of
from lightning_clip.data.shards.addresses import shown

__all__ = [
    "DiskError",
    "RemoteError",
    "check_lasting",
    "is_lasting",
    "is_missing",
    "reason_of_remote",
    "remedy",
    "seconds_to_wait",
    "status_of",
]

_PASSING = (408, 425, 429)  # of the statuses below 500
_MOST_SECONDS = 60.0  # that a server may ask us to wait
# Without a status: what a client raises for a wrong address, a wrong setting or a certificate that is not valid.
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, TypeError, LookupError, NotImplementedError)


class RemoteError(OSError):
    """A remote file that could not be fetched; its samples are counted as lost.

    Args:
        text: its address and the reason, in one line.
        lasting: whether another try would end in the same way (401, 403, 404, a page in the place of a tar).
        status: of HTTP, where there was an answer.
    """

    def __init__(self, text: str, lasting: bool = False, status: int | None = None) -> None:
        super().__init__(text)
        self.lasting, self.status = lasting, status


class DiskError(OSError):
    """The local disk refused a write: no other try would help."""


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error of aiohttp, botocore, gcsfs, adlfs or huggingface_hub; None where there was no answer."""
    for part in _chain(error):
        if isinstance(part, RemoteError):
            return part.status
        for value in _statuses(part):
            if isinstance(value, int | str) and str(value).isdigit() and 300 <= int(value) < 600:
                return int(value)
    return None


def is_lasting(error: BaseException) -> bool:
    """Whether another try would fail, too: a missing file or right, not a server or network that is down for a while."""
    if (status := status_of(error)) is not None:
        return 400 <= status < 500 and status not in _PASSING
    if any("Credentials" in type(part).__name__ for part in _chain(error)):  # botocore and google.auth found none
        return True
    # fsspec says "file not found" also where nobody answered, which then stands behind it.
    return all(isinstance(part, _LASTING) for part in _chain(error))


def is_missing(error: RemoteError) -> bool:
    """Whether there is no such file, as far as anybody can tell."""
    return error.lasting and error.status in (None, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


def reason_of_remote(error: BaseException, url: str) -> str:
    """What happened, in a few words and without what the URL may hide.

    Raises:
        InputError: it is a fault of this machine, such as too many open files.
    """
    parts = [*_chain(error)]
    for part in parts:
        reason_of(part)
    if (status := status_of(error)) is not None:
        phrases = {entry.value: f" ({entry.phrase})" for entry in HTTPStatus}
        return f"status {status}{phrases.get(status, '')}"
    told = next((part for part in parts if str(part) and not isinstance(part, FileNotFoundError | LookupError)), None)
    if told is None and isinstance(error, FileNotFoundError):
        return f"status {HTTPStatus.NOT_FOUND.value} (Not Found)"  # the one that clients have an exception for
    told = told or error
    text = " ".join((str(told) or type(told).__name__).split())
    return text.replace(url, shown(url))[:200]


def remedy(error: RemoteError) -> str:
    """What a person can do about it."""
    if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED):
        return "give a token or other credentials by storage_options"
    if error.lasting:
        return "check the address, and storage_options if it needs a login"
    return "check the server and the network, then run again"


def check_lasting(error: BaseException) -> None:
    """Ends what writes something to keep, where a remote shard could not be read this time and may be another time.

    Raises:
        InputError: it is such an error.
    """
    if isinstance(error, RemoteError) and not error.lasting:
        raise InputError(f"{error}: {remedy(error)}") from error


def seconds_to_wait(error: BaseException) -> float:
    """What an overloaded server asks for (`Retry-After`), within bounds; 0 where it asks nothing."""
    for part in _chain(error):
        headers = getattr(part, "headers", None)
        if isinstance(headers, Mapping) and str(asked := headers.get("Retry-After")).isdigit():
            return min(_MOST_SECONDS, float(str(asked)))
    return 0.0


def _statuses(error: BaseException) -> Iterator[object]:
    """Where the clients put it."""
    yield getattr(error, "status", None)
    yield getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's
        yield response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    yield getattr(response, "status_code", None)
    if not type(error).__module__.startswith("aiohttp"):  # whose code of a broken transfer is one of its own
        yield getattr(error, "code", None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it, the innermost last."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
