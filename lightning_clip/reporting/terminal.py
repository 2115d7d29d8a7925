"""The terminal for texts of others: labels, file names and captions are shown as they are, never obeyed."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["PlainConsole"]

# An escape sequence moves the cursor, renames the window or worse; line ends and tabs are ordinary.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in [*range(32), *range(127, 160)] if chr(code) not in "\t\n\r"}


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
        """A text as it is, control characters replaced."""
        return super().render_str(text.translate(_CONTROLS), **options)
