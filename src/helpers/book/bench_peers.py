"""Speed beside other tools, where they are installed: the same slide, the same tiles, the same network, in one run.

`HISTOBOOK_PEERS` names Python interpreters, separated as PATH is; each is asked which of the tools it has. They run in
processes of their own, with their own versions of everything.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from helpers.core.errors import RunError

Row = dict[str, Any]

PEERS_VARIABLE: Final = "HISTOBOOK_PEERS"
TILE_PX: Final = 256
MPP: Final = 1.0
"""Coarser than every slide that is measured, since LazySlide does not enlarge."""
GRID_PX: Final = 512
"""Tiles of histolab, px of level 0: it has no resolution, only levels."""

LAZYSLIDE_SCRIPT: Final = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
path, tile_px, mpp = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
import lazyslide, wsidata
slide = wsidata.open_wsi(path)
lazyslide.pp.find_tissues(slide)
lazyslide.pp.tile_tissues(slide, tile_px, mpp=mpp)
passes = []
for _ in range(3):
    began = time.perf_counter()
    n = sum(image.image.shape[0] == tile_px for image in slide.iter.tile_images("tiles"))
    passes.append(time.perf_counter() - began)
print(json.dumps({"n": n, "seconds": min(passes), "version": lazyslide.__version__}))
"""
HISTOLAB_SCRIPT: Final = """
import json, sys, tempfile, time
from importlib.metadata import version
from histolab.slide import Slide
from histolab.tiler import GridTiler
path, edge = sys.argv[1], int(sys.argv[2])
passes = []
for _ in range(2):
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tiler = GridTiler(tile_size=(edge, edge), level=0, check_tissue=True, tissue_percent=10)
        n = sum(1 for _ in tiler._tiles_generator(Slide(path, folder)))
        passes.append(time.perf_counter() - began)
print(json.dumps({"n": n, "seconds": min(passes), "version": version("histolab")}))
"""


def measure_peers() -> list[Row]:
    """Time other tools and ourselves on the same slides, where `HISTOBOOK_PEERS` names interpreters that have them.

    Returns
    -------
    list of dict
        Empty where no other tool is installed.
    """
    from helpers.book.bench_slides import list_slides

    pythons = {
        tool: python for python in list_pythons() for tool in ("lazyslide", "histolab") if has_tool(python, tool)
    }
    if not pythons:
        print(f"no peers: {PEERS_VARIABLE} names no interpreter that has lazyslide or histolab")
        return []
    with tempfile.TemporaryDirectory() as folder:
        return [
            _BESIDE[tool](python, name, path)
            for name, path in list_slides(Path(folder))
            for tool, python in pythons.items()
        ]


def list_pythons() -> list[str]:
    """Return the interpreters that `HISTOBOOK_PEERS` names.

    Returns
    -------
    list of str
    """
    return [python for python in os.environ.get(PEERS_VARIABLE, "").split(os.pathsep) if python]


def has_tool(python: str, tool: str) -> bool:
    """Say whether an interpreter has a package.

    Parameters
    ----------
    python : str
    tool : str

    Returns
    -------
    bool
    """
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({tool!r}) is None)"
    return subprocess.run([python, "-c", look], capture_output=True, check=False).returncode == 0


def _stand_beside_lazyslide(python: str, name: str, path: Path) -> Row:
    from helpers.book.bench import make_row

    peer = run_peer(python, LAZYSLIDE_SCRIPT, path, TILE_PX, MPP)
    ours = time_all_tiles(path)
    beside = f"LazySlide {peer['version']}, {peer['n']} tiles"
    ratio = ours / (peer["n"] / peer["seconds"])
    return make_row(f"peers/lazyslide/{name}", ours, "tiles/s", compared_with=beside, ratio=ratio)


def _stand_beside_histolab(python: str, name: str, path: Path) -> Row:
    from helpers.book.bench import make_row

    peer = run_peer(python, HISTOLAB_SCRIPT, path, GRID_PX)
    ours = time_grid(path)
    beside = f"histolab {peer['version']}, {peer['n']} tiles with tissue, detection included"
    ratio = ours / (peer["n"] / peer["seconds"])
    return make_row(f"peers/histolab/{name}", ours, "tiles/s", compared_with=beside, ratio=ratio)


_BESIDE: Final = {"lazyslide": _stand_beside_lazyslide, "histolab": _stand_beside_histolab}


def run_peer(python: str, script: str, path: Path, *arguments: Any) -> dict[str, Any]:
    """Let another tool do its work and report.

    Parameters
    ----------
    python : str
        Interpreter that has the tool.
    script : str
        Prints one line of JSON at its end.
    path : Path
        Of the slide: the script's first argument.
    *arguments
        Those that follow.

    Returns
    -------
    dict
        What the script printed: n, seconds, version.

    Raises
    ------
    RunError
        When it fails; with its last line.
    """
    command = [python, "-c", script, str(path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        msg = (
            f"RunError: the peer ({PEERS_VARIABLE}={python}) failed on '{path.name}': {said}. Mend it, or unset the "
            "variable."
        )
        raise RunError(msg)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def time_all_tiles(path: Path) -> float:
    """Read all tissue tiles of a slide three times, as LazySlide does, and take the best pass.

    Parameters
    ----------
    path : Path

    Returns
    -------
    float
        Tiles per second.
    """
    from helpers.book.bench import time_best
    from helpers.core.specs import TilingSpec
    from helpers.slides.reader import open_slide
    from helpers.slides.tiling import iterate_tiles, plan_tiles
    from helpers.slides.tissue import find_tissue

    with open_slide(path, slide_id=path.stem) as slide:
        tissue = find_tissue(slide, method="robust", um_per_px=8.0, min_area_um2=20_000.0)
        plan = plan_tiles(slide, TilingSpec(tile_px=TILE_PX, mpp=MPP), tissue)
        forget = getattr(slide.source, "forget", int)

        def read_all() -> None:
            forget()
            for _ in iterate_tiles(slide, plan):
                pass

        return len(plan.coords_l0) / time_best(read_all)


def time_grid(path: Path) -> float:
    """Find the tissue and read its tiles of `GRID_PX` px of level 0, as histolab does, and take the best of three.

    Parameters
    ----------
    path : Path

    Returns
    -------
    float
        Tiles per second.
    """
    from helpers.book.bench import time_best

    counts: list[int] = []
    seconds = time_best(lambda: counts.append(sum(map(len, _read_grid(path)))))
    return counts[0] / seconds


def _read_grid(path: Path) -> Iterator[Any]:
    from helpers.core.specs import TilingSpec
    from helpers.slides.reader import open_slide
    from helpers.slides.tiling import iterate_tiles, plan_tiles
    from helpers.slides.tissue import find_tissue

    with open_slide(path, slide_id=path.stem) as slide:
        tissue = find_tissue(slide, method="robust", um_per_px=8.0, min_area_um2=20_000.0)
        plan = plan_tiles(slide, TilingSpec(tile_px=GRID_PX, mpp=slide.mpp), tissue)
        yield from iterate_tiles(slide, plan)
