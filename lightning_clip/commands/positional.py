"""Recipes without `--config`: `lightning-clip fit recipe.yaml`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["with_positional_recipes"]

# Options without a value of their own: what follows them stands for itself.
_FLAGS = frozenset({"--find-batch-size", "--json", "--trust", "--help-all", "--help", "-h", "--print_config"})


def with_positional_recipes(arguments: Sequence[str]) -> list[str]:
    """Arguments with `--config=` before each that is neither an option nor an option's value.

    Args:
        arguments: a command and what follows it.

    Examples:
        >>> with_positional_recipes(["fit", "mine.yaml", "--trainer.max_steps", "3"])
        ['fit', '--config=mine.yaml', '--trainer.max_steps', '3']
    """
    found, takes_value = list(arguments[:1]), False
    for argument in arguments[1:]:
        is_option = argument.startswith("-")
        found.append(argument if is_option or takes_value or not argument else f"--config={argument}")
        takes_value = is_option and "=" not in argument and argument not in _FLAGS
    return found
