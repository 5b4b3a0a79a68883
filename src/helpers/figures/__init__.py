"""Drawing only: a tidy table in, an Axes out. Nothing is computed here.

`helpers.figures.explore` shows a slide to zoom into; it is loaded when first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.figures.explorer import explore

__all__ = ["explore"]


def __getattr__(name: str) -> Any:
    if name == "explore":
        from helpers.figures.explorer import explore

        return explore
    msg = f"module 'helpers.figures' has no attribute '{name}'"
    raise AttributeError(msg)
