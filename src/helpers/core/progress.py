"""Progress on anything that takes more than a few seconds."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(items: Iterable[Item], *, total: int | None = None, describe: str = "") -> Iterator[Item]:
    """Yield the items behind a progress bar; in a log (no terminal) one line every 30 s at most.

    Parameters
    ----------
    items : Iterable
    total : int, optional
        How many there are, where `items` cannot say.
    describe : str
        What is being done, as a verb and an object.

    Yields
    ------
    Item
    """
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    yield from tqdm(items, total=total, desc=describe, mininterval=seconds, file=sys.stderr, leave=False)
