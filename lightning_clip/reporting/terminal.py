"""The terminal for texts of others: labels, file names and captions are shown as they are, never obeyed."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from lightning_clip.core.plain_text import showable

__all__ = ["PlainConsole", "without_controls"]

# An escape sequence moves the cursor, renames the window or worse; line ends and tabs are ordinary.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in [*range(32), *range(127, 160)] if chr(code) not in "\t\n\r"}


def without_controls(text: str) -> str:
    """A text with control characters replaced, line ends and tabs excepted.

    Args:
        text: of others.
    """
    return text.translate(_CONTROLS)


class PlainConsole(Console):
    """Rich's console with neither markup, emoji codes nor control characters in plain texts, cells of tables among them.

    Args:
        **options: rich's.

    Examples:
        >>> PlainConsole(width=40).print("[bold]a label[/bold] of :smile:")
        [bold]a label[/bold] of :smile:
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it is, control characters replaced, and letters that the terminal has not."""
        return super().render_str(showable(without_controls(text), self.encoding), **options)
