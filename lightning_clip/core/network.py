"""Whether the Hugging Face hub answers: without network its library tries for half a minute what cannot succeed."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from lightning_clip.core.errors import InputError

__all__ = ["hub_or_cache", "is_hub_name"]

_SECONDS = 3.0
_REMEMBERED = 60.0  # seconds
_ERRORS = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "URLError", "ConnectError")
_answers: dict[str, tuple[float, bool]] = {}


def is_hub_name(name: str) -> bool:
    """Whether a name is none of a folder, and so asks the hub.

    Examples:
        >>> is_hub_name("bert-base-uncased"), is_hub_name(".")
        (True, False)
    """
    return not Path(name).expanduser().exists()


@contextmanager
def hub_or_cache(what: str) -> Iterator[None]:
    """While it lasts, the hub is asked only if it answers within seconds; else what was downloaded before is all there is.

    Args:
        what: may have to be downloaded, for messages.

    Raises:
        InputError: it is not on this machine, and there is no network.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _is_reachable(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception as error:
        if not _is_of_network(error):
            raise
        raise InputError(
            f"{what} is not on this machine, and {constants.ENDPOINT} does not answer: download it where there is network and "
            "set HF_HUB_OFFLINE=1, or name a local folder or file in its place"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = False


def _is_of_network(error: BaseException | None) -> bool:
    """Whether something was asked of the network, by whatever library."""
    while error is not None:
        text = str(error).lower()
        if type(error).__name__ in _ERRORS or "offline mode" in text or "couldn't connect" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_reachable(endpoint: str) -> bool:
    """Whether an address answers in time, whatever it says; asked once a minute."""
    at, answer = _answers.get(endpoint, (-_REMEMBERED, False))
    if time.monotonic() - at > _REMEMBERED:
        answer = _answered(endpoint)
        _answers[endpoint] = (time.monotonic(), answer)
    return answer


def _answered(endpoint: str) -> bool:
    """In a thread, since looking up a name has no time limit of its own."""
    done: list[bool] = []

    def ask() -> None:
        try:
            urlopen(Request(endpoint, method="HEAD"), timeout=_SECONDS).close()
            done.append(True)
        except HTTPError as error:  # a proxy's, if not the hub's own
            done.append(error.code < 500 and error.code != 407)
        except URLError as error:  # certificates are the library's matter, which knows others
            done.append(isinstance(error.reason, ssl.SSLError))
        except (OSError, HTTPException, ValueError):
            done.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS + 1)
    return done == [True]
