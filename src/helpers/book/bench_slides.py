"""Speed of reading slides: ours, the bare JPEG decoder, OpenSlide.

The bound of any reader is the decoder: libjpeg-turbo on the same bytes, already in memory. Slides: a phantom slide of
0.25 um per px, drawn for the benchmark, and, where the real data is at hand, Aperio's CMU-1 small region and a HER2ST
section. Everything runs in one process and one thread unless the row says otherwise.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from helpers.core import paths

if TYPE_CHECKING:
    from helpers.slides.jpegtiff import JpegTiffSource
    from helpers.slides.reader import Slide

Row = dict[str, Any]
Corner = tuple[int, int]

SHARED_VARIABLE: Final = "HISTOBOOK_SHARED"
N_TILES: Final = 1_000
"""Tiles of a timing; a small slide is read several times over."""
N_TURNS: Final = 5
UNALIGNED_PX: Final = 512
RESULT_PX: Final = 256
OFFSET_PX: Final = 77
"""Corner of the unaligned grid: a multiple of no native tile."""
GIGA_PX: Final = 100_000
GIGA_TILE_PX: Final = 240
N_STREAMED: Final = 10_000
STREAM_SCRIPT: Final = """
import json, resource, sys, time
from helpers.core.specs import TilingSpec
from helpers.slides.reader import open_slide
from helpers.slides.tiling import iterate_tiles, plan_tiles
from helpers.slides.tissue import find_tissue
path, n_streamed = sys.argv[1], int(sys.argv[2])
with open_slide(path, slide_id="giga") as slide:
    began = time.perf_counter()
    tissue = find_tissue(slide, method="robust", um_per_px=8.0, min_area_um2=20_000.0)
    plan = plan_tiles(slide, TilingSpec(tile_px=256, mpp=0.5), tissue)
    planned = time.perf_counter() - began
    read = 0
    for tiles in iterate_tiles(slide, plan):
        read += len(tiles)
        if read >= n_streamed:
            break
    streamed = time.perf_counter() - began - planned
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
print(json.dumps({"planned": planned, "n": len(plan.coords_l0), "read": read, "streamed": streamed, "peak_gib": peak}))
"""
READ_SCRIPT: Final = """
import sys, time
from pathlib import Path
from helpers.book.bench_slides import list_corners, read_passes
from helpers.slides.reader import open_slide
from helpers.slides.tiling import use_one_thread_each
with open_slide(Path(sys.argv[1]), slide_id="own") as slide, use_one_thread_each(2):
    corners = list_corners(slide)
    read_passes(slide, corners, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    read_passes(slide, corners, int(sys.argv[2]))
    print(time.perf_counter() - began, flush=True)
"""


def measure_reading() -> list[Row]:
    """Time native tiles, unaligned tiles and two threads on every slide at hand.

    Returns
    -------
    list of dict
    """
    with tempfile.TemporaryDirectory() as folder:
        return [row for name, path in list_slides(Path(folder)) for row in measure_slide(name, path)]


def list_slides(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the slides that are measured, drawing and writing those that do not lie there.

    Parameters
    ----------
    folder : Path
        Where they are written.

    Yields
    ------
    name : str
    path : Path
    """
    yield "phantom", draw_phantom_slide(folder)
    shared = Path(os.environ.get(SHARED_VARIABLE) or paths.repo_root().parent / "shared" / "data")
    real = shared / "slides" / "CMU-1-Small-Region.svs"
    if real.is_file():
        yield "cmu1", real
    section = next(iter(sorted((shared / "her2st" / "images").rglob("*C2*.jpg"))), None)
    if section is not None:
        yield "her2st", write_section(section, folder / "her2st.tif")


def draw_phantom_slide(folder: Path) -> Path:
    """Draw one phantom slide of 0.25 um per px.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Path
    """
    from helpers.core.specs import PhantomSpec
    from helpers.phantom.generate import generate_cohort
    from helpers.slides.reader import open_slide

    spec = PhantomSpec(n_cases=6, n_external=0, bad_slides=False, n_estimand=10_000)
    cohort = generate_cohort(spec, folder / "phantom", workers=os.cpu_count() or 1)
    for path in sorted((cohort / "slides").glob("*.svs")):
        with open_slide(path, slide_id=path.stem) as slide:
            if slide.mpp < 0.3:
                return path
    msg = "no phantom site scans at 0.25 um per px"
    raise AssertionError(msg)


def write_section(image: Path, target: Path) -> Path:
    """Write a flat microscopy image as a pyramidal slide.

    Parameters
    ----------
    image : Path
    target : Path

    Returns
    -------
    Path
    """
    import cv2
    import numpy as np

    from helpers.slides.writer import write_pyramid

    pixels = np.ascontiguousarray(np.asarray(cv2.imread(str(image)), np.uint8)[..., ::-1])
    write_pyramid(target, pixels, mpp=0.68, vendor="generic")
    return target


def measure_slide(name: str, path: Path) -> list[Row]:
    """Measure one slide.

    Parameters
    ----------
    name : str
    path : Path

    Returns
    -------
    list of dict
    """
    from helpers.book.bench import make_row
    from helpers.slides.jpegtiff import JpegTiffSource
    from helpers.slides.reader import open_slide

    with open_slide(path, slide_id=name) as slide, open_slide(path, slide_id=name, reader="openslide") as plain:
        source = slide.source
        assert isinstance(source, JpegTiffSource), source.note
        native, bare, theirs = time_native(source, plain)
        ours_512, theirs_512 = time_unaligned(path, slide)
        one, two = time_threads(path)
        alone, beside = time_processes(path)
    return [
        make_row(
            f"slides/native_tiles/{name}", native, "tiles/s", compared_with="libjpeg-turbo, same bytes in memory",
            ratio=native / bare, bound=0.8,
        ),
        make_row(f"slides/native_tiles_vs_openslide/{name}", native, "tiles/s", compared_with="OpenSlide",
                 ratio=native / theirs),
        make_row(f"slides/unaligned_512_to_256/{name}", ours_512, "tiles/s", compared_with="OpenSlide, area resize",
                 ratio=ours_512 / theirs_512, bound=3.0),
        make_row(f"slides/two_threads/{name}", two, "tiles/s", compared_with="one thread", ratio=two / one, bound=1.7),
        make_row(f"slides/two_processes/{name}", beside, "tiles/s", compared_with="one process", ratio=beside / alone),
    ]  # fmt: skip


def time_native(source: "JpegTiffSource", plain: "Slide") -> tuple[float, float, float]:
    """Read every native tile of level 0, as it lies, until `N_TILES` are read.

    Parameters
    ----------
    source : JpegTiffSource
    plain : Slide
        The same slide through OpenSlide.

    Returns
    -------
    ours, bare, theirs : float
        Tiles per second: ours, the decoder alone, OpenSlide.
    """
    import numpy as np
    import simplejpeg

    from helpers.slides.jpegtiff import complete_stream

    level = source.list_levels()[0]
    edge = (level.tile_width, level.tile_height)
    inside = [
        (x, y)
        for y in range(0, level.height - edge[1] + 1, edge[1])
        for x in range(0, level.width - edge[0] + 1, edge[0])
    ]
    numbers = [y // edge[1] * level.n_across + x // edge[0] for x, y in inside]
    streams = [complete_stream(source.read_stream(0, number), level) for number in numbers]

    room, bare_room = (np.empty((edge[1], edge[0], 3), np.uint8) for _ in range(2))

    def read_ours(corner: Corner) -> None:
        source.read_level(0, *corner, *edge, out=room)

    def decode_bare(stream: bytes) -> None:
        simplejpeg.decode_jpeg(stream, "RGB", strict=True, buffer=bare_room)

    def read_theirs(corner: Corner) -> None:
        plain.source.read_level(0, *corner, *edge, out=room)

    items: dict[Callable[[Any], None], Sequence[Any]] = {
        read_ours: inside, decode_bare: streams, read_theirs: inside,
    }  # fmt: skip
    ours, bare, theirs = count_in_turns(items, before=source.forget)
    return ours, bare, theirs


def count_in_turns(
    items: dict[Callable[[Any], None], Sequence[Any]], *, before: Callable[[], None] | None = None
) -> list[float]:
    """Let several functions work through their items in turns until each did `N_TILES`; the best of five turns each.

    Taking turns keeps what else the machine does from falling upon one of them.

    Parameters
    ----------
    items : dict of callable to sequence
    before : callable, optional
        Called before each pass, such as to empty a cache.

    Returns
    -------
    list of float
        Items per second, in the order given.
    """
    from helpers.book.bench import time_best

    def run(work: Callable[[Any], None]) -> None:
        for _ in range(max(1, -(-N_TILES // len(items[work])))):
            if before is not None:
                before()
            for item in items[work]:
                work(item)

    best = dict.fromkeys(items, float("inf"))
    for _ in range(N_TURNS):
        for work in items:
            best[work] = min(best[work], time_best(partial(run, work), repeats=1))
    return [max(1, -(-N_TILES // len(each))) * len(each) / best[work] for work, each in items.items()]


def list_corners(slide: "Slide") -> list[Corner]:
    """Return the corners of an unaligned grid of 512 px tiles, level-0 px.

    Parameters
    ----------
    slide : Slide

    Returns
    -------
    list of (int, int)
    """
    return [
        (x, y)
        for y in range(OFFSET_PX, slide.height - UNALIGNED_PX, UNALIGNED_PX)
        for x in range(OFFSET_PX, slide.width - UNALIGNED_PX, UNALIGNED_PX)
    ]


def time_unaligned(path: Path, slide: "Slide") -> tuple[float, float]:
    """Read tiles of 512 px that lie across native tiles, resized to 256, as ours and as a plain script.

    Parameters
    ----------
    path : Path
    slide : Slide

    Returns
    -------
    ours, theirs : float
        Tiles per second.
    """
    import cv2
    import numpy as np
    import openslide

    from helpers.slides.resample import Box

    corners = list_corners(slide)

    def read_ours(corner: Corner) -> None:
        box = Box(left=corner[0], top=corner[1], width=UNALIGNED_PX, height=UNALIGNED_PX)
        slide.read_box(box, width=RESULT_PX, height=RESULT_PX)

    with openslide.OpenSlide(str(path)) as plain:

        def read_plain(corner: Corner) -> None:
            region = np.asarray(plain.read_region(corner, 0, (UNALIGNED_PX, UNALIGNED_PX)).convert("RGB"))
            cv2.resize(region, (RESULT_PX, RESULT_PX), interpolation=cv2.INTER_AREA)

        forget = getattr(slide.source, "forget", None)
        ours, theirs = count_in_turns({read_ours: corners, read_plain: corners}, before=forget)
        return ours, theirs


def time_threads(path: Path) -> tuple[float, float]:
    """Read unaligned tiles in one and in two threads, each thread with the slide open once.

    Parameters
    ----------
    path : Path

    Returns
    -------
    one, two : float
        Tiles per second.
    """
    from helpers.book.bench import time_best
    from helpers.slides.reader import open_slide
    from helpers.slides.tiling import use_one_thread_each

    with open_slide(path, slide_id="one") as first, open_slide(path, slide_id="two") as second:
        corners = list_corners(first)
        passes = max(1, -(-N_TILES // (2 * len(corners))))

        def read_all(workers: int) -> None:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(lambda slide: read_passes(slide, corners, passes), (first, second)))

        one = two = float("inf")
        with use_one_thread_each(2):
            for _ in range(N_TURNS):
                one = min(one, time_best(lambda: read_all(1), repeats=1))
                two = min(two, time_best(lambda: read_all(2), repeats=1))
    n_tiles = 2 * passes * len(corners)
    return n_tiles / one, n_tiles / two


def time_processes(path: Path) -> tuple[float, float]:
    """Read the tiles of `time_threads` in one and in two processes: what two threads could reach without a shared lock.

    Parameters
    ----------
    path : Path

    Returns
    -------
    one, two : float
        Tiles per second.
    """
    from helpers.slides.reader import open_slide

    with open_slide(path, slide_id="one") as slide:
        n_corners = len(list_corners(slide))
    passes = max(1, -(-N_TILES // (2 * n_corners)))
    best = dict.fromkeys((1, 2), float("inf"))
    for _ in range(N_TURNS):
        for n in best:
            best[n] = min(best[n], _read_in_processes(path, passes, n))
    return passes * n_corners / best[1], 2 * passes * n_corners / best[2]


def _read_in_processes(path: Path, passes: int, n: int) -> float:
    """Return the seconds of the slowest of processes that start reading together."""
    command = [sys.executable, "-c", READ_SCRIPT, str(path), str(passes)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in running)


def read_passes(slide: "Slide", corners: Sequence[Corner], passes: int) -> None:
    """Read the unaligned tiles of a slide several times over, each time with an empty cache.

    Parameters
    ----------
    slide : Slide
    corners : sequence of (int, int)
    passes : int
    """
    from helpers.slides.resample import Box

    for _ in range(passes):
        getattr(slide.source, "forget", int)()
        for x, y in corners:
            box = Box(left=x, top=y, width=UNALIGNED_PX, height=UNALIGNED_PX)
            slide.read_box(box, width=RESULT_PX, height=RESULT_PX)


def measure_gigapixel() -> list[Row]:
    """Plan and stream a slide of 100,000 x 100,000 px in a process of its own, and read its peak memory.

    Returns
    -------
    list of dict
    """
    from helpers.book.bench import make_row

    with tempfile.TemporaryDirectory() as folder:
        path = write_gigapixel(Path(folder) / "giga.tif")
        done = subprocess.run(
            [sys.executable, "-c", STREAM_SCRIPT, str(path), str(N_STREAMED)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout)
    return [
        make_row("gigapixel/plan", found["planned"], "s", compared_with=f"{found['n']:,} tiles", bound=10.0),
        make_row("gigapixel/peak_memory", found["peak_gib"], "GiB", compared_with=f"{found['read']:,} tiles streamed",
                 bound=1.0),
        make_row("gigapixel/stream", found["read"] / found["streamed"], "tiles/s"),
    ]  # fmt: skip


def write_gigapixel(path: Path, *, size: int = GIGA_PX) -> Path:
    """Write a BigTIFF of one repeated tile of tissue, with levels at 4 and 16 and a mpp of 0.25.

    All tiles of all levels point to the bytes of one stream, so the file holds little more than its directories, which
    are as large as those of a real slide of this size. Written by hand, since no library repeats a tile.

    Parameters
    ----------
    path : Path
    size : int
        Edge of level 0, px.

    Returns
    -------
    Path
    """
    from helpers.book.bench import draw_texture
    from helpers.slides.writer import encode_tiles

    stream = next(encode_tiles(draw_texture(GIGA_TILE_PX), tile_px=GIGA_TILE_PX, quality=85))
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) + stream)
        link = 8  # where the offset of the next directory is written
        for number, downsample in enumerate((1, 4, 16)):
            link = _write_directory(file, link, edge=size // downsample, downsample=downsample, reduced=number > 0,
                                    stream=(16, len(stream)))  # fmt: skip
    return path


def _write_directory(
    file: BinaryIO, link: int, *, edge: int, downsample: int, reduced: bool, stream: tuple[int, int]
) -> int:
    """Append the directory of one level, all of whose tiles are one stream; return where its successor is linked."""
    import numpy as np

    n_tiles = (-(-edge // GIGA_TILE_PX)) ** 2
    offsets = file.seek(0, os.SEEK_END)
    file.write(np.full(n_tiles, stream[0], "<u8").tobytes())
    sizes = file.tell()
    file.write(np.full(n_tiles, stream[1], "<u8").tobytes())
    px_per_cm = struct.unpack("<Q", struct.pack("<II", int(10_000 / (0.25 * downsample)), 1))[0]
    entries = [  # tag, type (3 short, 4 long, 5 rational, 16 long8), count, value or offset
        (254, 4, 1, int(reduced)), (256, 4, 1, edge), (257, 4, 1, edge), (258, 3, 3, 0x0008_0008_0008), (259, 3, 1, 7),
        (262, 3, 1, 6), (277, 3, 1, 3), (282, 5, 1, px_per_cm), (283, 5, 1, px_per_cm), (284, 3, 1, 1), (296, 3, 1, 3),
        (322, 3, 1, GIGA_TILE_PX), (323, 3, 1, GIGA_TILE_PX), (324, 16, n_tiles, offsets), (325, 16, n_tiles, sizes),
        (530, 3, 2, 0x0002_0002),
    ]  # fmt: skip
    here = file.tell()
    file.write(struct.pack("<Q", len(entries)))
    file.write(b"".join(struct.pack("<HHQQ", *entry) for entry in entries))
    following = file.tell()
    file.write(struct.pack("<Q", 0))
    file.seek(link)
    file.write(struct.pack("<Q", here))
    return following
