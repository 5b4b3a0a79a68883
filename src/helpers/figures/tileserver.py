"""Answers a viewer's requests for tiles of a slide's pyramid: JPEG bytes, cached, read in threads.

A request is a mapping {kind: 'tile', request: id, level, column, row} or {kind: 'cancel', request: id}. An answer is
{kind: 'tile', request} with one buffer, or {kind: 'error', request, text} with none. Only the slide's levels are read:
label and macro images have no address here.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from helpers.core.errors import HistobookError, TileError
from helpers.slides.pyramid import Pyramid, encode_jpeg, read_pyramid_tile
from helpers.slides.reader import Slide

CACHE_BYTES = 64 * 2**20
N_THREADS = 2
Answer = tuple[dict[str, Any], list[bytes]]


class TileServer:
    """Reads tiles of one open slide. Closes the slide when it is closed or forgotten.

    Parameters
    ----------
    slide : Slide
        Open, and this server's own.
    pyramid : Pyramid
        Of this slide.
    cache_bytes : int
        JPEGs kept.
    """

    def __init__(self, slide: Slide, pyramid: Pyramid, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.slide = slide
        self.pyramid = pyramid
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._waiting: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(N_THREADS, thread_name_prefix="explorer")
        self.close = weakref.finalize(self, _shut, self._threads, slide)

    def read_tile(self, level: int, column: int, row: int) -> bytes:
        """Return a tile as JPEG.

        Parameters
        ----------
        level, column, row : int
            Level 0 is the finest.

        Returns
        -------
        bytes

        Raises
        ------
        TileError
            When the pyramid has no such tile.
        SlideError
            When it cannot be decoded.
        """
        key = (level, column, row)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        data = encode_jpeg(read_pyramid_tile(self.slide, self.pyramid, level=level, column=column, row=row))
        with self._lock:
            self._cache[key] = data
            while len(self._cache) > 1 and sum(map(len, self._cache.values())) > self._cache_bytes:
                self._cache.popitem(last=False)
        return data

    def answer(self, message: Mapping[str, Any]) -> Answer:
        """Answer a request for a tile; what cannot be read is answered with the reason.

        Parameters
        ----------
        message : mapping
            kind, request, level, column, row.

        Returns
        -------
        content : dict
        buffers : list of bytes
        """
        name = str(message.get("request", ""))
        try:
            if not self.close.alive:
                raise TileError(
                    f"TileError: the explorer of slide '{self.slide.slide_id}' is closed. Run its cell again."
                )
            return {"kind": "tile", "request": name}, [self.read_tile(*_take_address(message))]
        except (HistobookError, OSError) as error:
            return {"kind": "error", "request": name, "text": str(error)}, []

    def submit(self, message: Any, send: Callable[[dict[str, Any], list[bytes]], None]) -> None:
        """Answer a message in a thread; a cancelled request that has not begun is dropped.

        Parameters
        ----------
        message : mapping
            As it came from the browser.
        send : callable
            Gets the answer's content and buffers.
        """
        content: Mapping[str, Any] = message if isinstance(message, Mapping) else {}
        name = str(content.get("request", ""))
        if content.get("kind") == "cancel":
            waiting = self._waiting.pop(name, None)
            if waiting is not None:
                waiting.cancel()
        elif self.close.alive:
            self._waiting[name] = self._threads.submit(self._answer_to, content, name, send)
        else:
            send(*self.answer(content))

    def _answer_to(
        self, content: Mapping[str, Any], name: str, send: Callable[[dict[str, Any], list[bytes]], None]
    ) -> None:
        send(*self.answer(content))
        self._waiting.pop(name, None)


def _take_address(message: Mapping[str, Any]) -> tuple[int, int, int]:
    parts = tuple(message.get(part) for part in ("level", "column", "row"))
    if message.get("kind") != "tile" or not all(isinstance(part, int) and not isinstance(part, bool) for part in parts):
        msg = (
            f"TileError: a request of kind {message.get('kind')!r} for level, column, row {parts}, expected kind "
            "'tile' and three whole numbers. The page and the kernel may be of two versions: reload the page."
        )
        raise TileError(msg)
    level, column, row = parts
    return level, column, row  # type: ignore[return-value]


def _shut(threads: ThreadPoolExecutor, slide: Slide) -> None:
    threads.shutdown(wait=True, cancel_futures=True)
    slide.source.close()
