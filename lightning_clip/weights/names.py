"""Names of weights as people write them, and the one under which they are found here."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_clip.core.errors import InputError, existing_path

__all__ = ["existing_source"]

_ADDRESS = re.compile(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/")
_HUB = re.compile(r"^[\w.-]+/[\w.-]+$")


def existing_source(source: str | Path, what: str) -> Path:
    """The file or folder, or an error that names the prefix with which a name of weights works.

    Args:
        source: what was given as a path.
        what: it should be, for messages.

    Raises:
        InputError: there is none; a name of open_clip's or of the hub is told with its prefix.
    """
    text = str(source)
    if Path(text).expanduser().exists():
        return Path(text).expanduser()
    if meant := _meant(text):
        raise InputError(f"{what} {text!r} does not exist as a path: {meant}")
    return existing_path(source, what)


def _meant(text: str) -> str | None:
    """What a name that is no path may have meant."""
    if text.startswith("hf-hub:"):
        name = text.removeprefix("hf-hub:")
        return f"for a repository of open_clip's write 'open_clip:{text}', for one of transformers 'hf:{name}'"
    if _ADDRESS.match(text):
        return f"for a repository of the hub write 'hf:{_ADDRESS.sub('', text).strip('/')}'"
    head, _, tag = text.partition("/")
    if (found := _open_clip_name(text)) is not None:  # OpenAI's names have a slash inside, such as ViT-B/32
        return f"for weights of open_clip write '{found}'"
    if (found := _open_clip_name(head, tag)) is not None:
        return f"for weights of open_clip write '{found}'"
    if _HUB.match(text) and not Path(head).expanduser().is_dir() and not Path(text).suffix:
        return f"for a repository of the hub write 'hf:{text}'"
    return None


def _open_clip_name(name: str, tag: str = "") -> str | None:
    """open_clip:NAME/TAG, if it has such a model."""
    if not re.match(r"^[A-Za-z][\w@./-]*$", name):
        return None
    import open_clip  # here: slow, and only asked for names that are no paths

    known = {re.sub(r"[/@]", "-", model).lower(): model for model in open_clip.list_models()}
    model = known.get(re.sub(r"[/@]", "-", name).lower())
    if model is None:
        return None
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        return None
    return f"open_clip:{model}/{tag or (tags[0] if tags else 'FILE')}"
