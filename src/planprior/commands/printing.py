"""How commands print: what they are given, letter by letter."""

from typing import Any

from rich.console import Console


def console(**options: Any) -> Console:
    """A console that takes nothing in a name or path for markup or an emoji's code.

    The task `my_envs:ant:` would else be shown with an insect.

    Args:
        options: Of `rich.console.Console`.
    """
    return Console(highlight=False, markup=False, emoji=False, **options)
