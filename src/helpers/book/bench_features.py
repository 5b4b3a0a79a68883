"""Speed of feature extraction: slides to stored features, beside the bare model on tensors that lie in memory.

The bound of any pipeline is the model; where decoding wants the same cores, the bound is both together, and the row
says so. The weights are random: they decide nothing about speed.
"""

import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

    from helpers.core.specs import FeatureSpec
    from helpers.features.networks import TimmNetwork

Row = dict[str, Any]

NETWORKS: Final = ("random_resnet50", "phantom-s")
N_COPIES: Final = 4
"""Times the slide stands in the cohort that is measured."""
N_TURNS: Final = 3
TILE_PX: Final = 256
MPP: Final = 0.5
BATCH: Final = 64

LAZYSLIDE_SCRIPT: Final = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
path, weights, tile_px, mpp, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
import lazyslide, timm, torch, wsidata
from safetensors.torch import load_file
from torchvision.transforms import v2
network = timm.create_model("resnet50", pretrained=False, num_classes=0)
network.load_state_dict(load_file(weights))
network = network.eval().to(memory_format=torch.channels_last)
prepare = v2.Compose([
    v2.ToImage(), v2.Resize((224, 224)), v2.ToDtype(torch.float32, scale=True),
    v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
])
slide = wsidata.open_wsi(path)
lazyslide.pp.find_tissues(slide)
lazyslide.pp.tile_tissues(slide, tile_px, mpp=mpp)
n = len(slide.shapes["tiles"])
best = {}
for workers in (0, 1):
    for _ in range(2):
        began = time.perf_counter()
        lazyslide.tl.feature_extraction(
            slide, network, transform=prepare, model_name="resnet50", device="cpu", batch_size=batch,
            num_workers=workers, pbar=False,
        )
        best[workers] = min(best.get(workers, 1e9), time.perf_counter() - began)
workers = min(best, key=best.get)
print(json.dumps({"n": n, "seconds": best[workers], "workers": workers, "version": lazyslide.__version__}))
"""


def measure_extraction() -> list[Row]:
    """Time the extraction of a small cohort with a ResNet-50 and with the embedded encoder.

    Returns
    -------
    list of dict
    """
    from helpers.book.bench_slides import draw_phantom_slide

    with tempfile.TemporaryDirectory() as folder:
        path = draw_phantom_slide(Path(folder))
        slides = tile_copies(path, Path(folder))
        rows = [row for name in NETWORKS for row in measure_encoder(name, slides, Path(folder))]
        rows += measure_decoding(slides, Path(folder))
        return rows + stand_beside_lazyslide(path, rows[0]["value"], Path(folder))


def measure_decoding(slides: "pd.DataFrame", folder: Path) -> list[Row]:
    """Time the extraction with tiles decoded on the card beside tiles decoded on the host, the network on the card.

    Parameters
    ----------
    slides : DataFrame
        As `tile_copies`.
    folder : Path
        With `tiles/`.

    Returns
    -------
    list of dict
        Empty where there is no CUDA device: then it is not measured.
    """
    import os

    import torch

    if not torch.cuda.is_available():
        return []
    from helpers.book.bench import make_row
    from helpers.core.specs import FeatureSpec

    spec, workers = FeatureSpec(encoders=(NETWORKS[0],), batch_size=BATCH), os.cpu_count() or 1
    ways = {way: spec.model_copy(update={"decode": way}) for way in ("host", "cuda")}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(N_TURNS):
        for way, chosen in ways.items():
            run = functools.partial(extract, slides, chosen, folder, workers, device="cuda")
            best[way] = min(best[way], time_once(run))
    check_decoders(slides, folder)
    n_tiles = count_tiles(slides, folder)
    beside = f"decode: host, {workers} threads, both on {torch.cuda.get_device_name()}"
    return [
        make_row(
            "features/decode_cuda", n_tiles / best["cuda"], "tiles/s", compared_with=beside,
            ratio=best["host"] / best["cuda"],
        )
    ]  # fmt: skip


def check_decoders(slides: "pd.DataFrame", folder: Path) -> None:
    """Refuse to call a time that of the card where a slide fell back to the host.

    Parameters
    ----------
    slides : DataFrame
    folder : Path
        With `features/`, as the card left them.

    Raises
    ------
    RunError
        Names the slide and why.
    """
    from helpers.core.errors import RunError
    from helpers.slides.tilefile import read_attribute

    for slide_id in slides["slide_id"]:
        note = read_attribute(folder / "features" / NETWORKS[0] / f"{slide_id}.h5", "decoder_note")
        if note:
            msg = f"RunError: features/decode_cuda: slide '{slide_id}' was {note}. Its time is not that of the card."
            raise RunError(msg)


def count_tiles(slides: "pd.DataFrame", folder: Path) -> int:
    """Count the tiles of the cohort.

    Parameters
    ----------
    slides : DataFrame
    folder : Path
        With `tiles/`.

    Returns
    -------
    int
    """
    from helpers.slides.tilefile import read_tiles

    return sum(len(read_tiles(folder / "tiles" / f"{slide_id}.h5").coords_l0) for slide_id in slides["slide_id"])


def stand_beside_lazyslide(path: Path, ours: float, folder: Path) -> list[Row]:
    """Let LazySlide extract the same slide with the same network, where `HISTOBOOK_PEERS` names a Python that has it.

    It runs in float32: with mixed precision it cannot store what bfloat16 computed.

    Parameters
    ----------
    path : Path
        Of the slide.
    ours : float
        Our tiles per second with the same network.
    folder : Path
        For the weights.

    Returns
    -------
    list of dict
        Empty where there is no LazySlide.
    """
    from helpers.book.bench import make_row
    from helpers.book.bench_peers import has_tool, list_pythons, run_peer

    pythons = [python for python in list_pythons() if has_tool(python, "lazyslide")]
    if not pythons:
        return []
    write_weights(folder / "resnet50.safetensors")
    peer = run_peer(pythons[0], LAZYSLIDE_SCRIPT, path, folder / "resnet50.safetensors", TILE_PX, MPP, BATCH)
    theirs = peer["n"] / peer["seconds"]
    beside = f"LazySlide {peer['version']}, float32, {peer['n']} tiles, {peer['workers']} workers"
    return [
        make_row(
            f"features/lazyslide/{NETWORKS[0]}", ours, "tiles/s", compared_with=beside, ratio=ours / theirs, bound=2.0
        )
    ]


def write_weights(path: Path) -> None:
    """Write the weights of the ResNet-50 that is measured.

    Parameters
    ----------
    path : Path
    """
    from safetensors.torch import save_file

    from helpers.features.networks import draw_weights
    from helpers.features.registry import REGISTRY

    save_file(draw_weights(REGISTRY[NETWORKS[0]], 0), path)


def tile_copies(path: Path, folder: Path) -> "pd.DataFrame":
    """Tile a slide under several names.

    Parameters
    ----------
    path : Path
    folder : Path
        Gets `tiles/<id>.h5`.

    Returns
    -------
    DataFrame
        slide_id, path.
    """
    import pandas as pd

    from helpers.core.specs import TilingSpec
    from helpers.slides.tiling import tile_slide

    ids = [f"copy-{number}" for number in range(N_COPIES)]
    for slide_id in ids:
        tile_slide(slide_id, path, TilingSpec(tile_px=TILE_PX, mpp=MPP), folder=folder)
    return pd.DataFrame({"slide_id": ids, "path": str(path)})


def measure_encoder(name: str, slides: "pd.DataFrame", folder: Path) -> list[Row]:
    """Time one network: whole extraction, bare model, decoding alone, in turns.

    Parameters
    ----------
    name : str
        Of the registry.
    slides : DataFrame
        As `tile_copies`.
    folder : Path
        With `tiles/`.

    Returns
    -------
    list of dict
    """
    from helpers.book.bench import make_row
    from helpers.core.specs import FeatureSpec

    spec = FeatureSpec(encoders=(name,), batch_size=BATCH)
    network, works, n_tiles = plan_work(name, slides, spec, folder)
    best = dict.fromkeys(works, float("inf"))
    for _ in range(N_TURNS):
        for what, work in works.items():
            best[what] = min(best[what], time_once(work))
    whole = n_tiles / best["whole"]
    bare = n_tiles / min(best["bare, one by one"], best["bare, side by side"])
    both = n_tiles / (best["folded"] + best["decode"])
    numbers = network.identity["precision"]
    return [
        make_row(
            f"features/end_to_end/{name}", whole, "tiles/s", compared_with=f"timm's network, {numbers}, in memory",
            ratio=whole / bare, bound=0.9,
        ),
        make_row(
            f"features/end_to_end_vs_bound/{name}", whole, "tiles/s",
            compared_with="our folded network and decoding on the same cores", ratio=whole / both,
        ),
    ]  # fmt: skip


def time_once(work: Callable[[], object]) -> float:
    """Return the seconds that one call takes.

    Parameters
    ----------
    work : callable

    Returns
    -------
    float
    """
    from helpers.book.bench import time_best

    return time_best(work, repeats=1)


def plan_work(
    name: str, slides: "pd.DataFrame", spec: "FeatureSpec", folder: Path
) -> "tuple[TimmNetwork, dict[str, Callable[[], object]], int]":
    """Prepare what is timed; each of the four handles the same number of tiles on all cores.

    Parameters
    ----------
    name : str
    slides : DataFrame
    spec : FeatureSpec
    folder : Path

    Returns
    -------
    network : TimmNetwork
    works : dict of callable
    n_tiles : int
    """
    import os

    import torch

    from helpers.features.encoders import make_encoder
    from helpers.features.networks import TimmNetwork

    n_cores = os.cpu_count() or 1
    network = make_encoder(name, precision=spec.precision, device="cpu")
    assert isinstance(network, TimmNetwork)
    n_tiles = count_tiles(slides, folder)
    edge = network.entry.size_px
    batch = torch.randn(spec.batch_size, 3, edge, edge).contiguous(memory_format=torch.channels_last)
    sizes = [min(spec.batch_size, n_tiles - start) for start in range(0, n_tiles, spec.batch_size)]
    return network, {
        "whole": lambda: extract(slides, spec, folder, n_cores),
        "bare, one by one": lambda: run_bare(run_plain(network), batch, sizes, n_threads=1),
        "bare, side by side": lambda: run_bare(run_plain(network), batch, sizes, n_threads=n_cores),
        "folded": lambda: run_bare(network.infer, batch, sizes, n_threads=n_cores),
        "decode": lambda: decode(slides, folder, n_cores),
    }, n_tiles  # fmt: skip


def extract(slides: "pd.DataFrame", spec: "FeatureSpec", folder: Path, workers: int, *, device: str = "cpu") -> None:
    """Extract the cohort anew.

    Parameters
    ----------
    slides : DataFrame
    spec : FeatureSpec
    folder : Path
    workers : int
    device : str
    """
    from helpers.features.extract import extract_cohort

    shutil.rmtree(folder / "features", ignore_errors=True)
    extract_cohort(
        slides, spec, tiles_folder=folder / "tiles", folder=folder, ledger=folder / "ledger.parquet",
        workers=workers, device=device,
    )  # fmt: skip


def run_plain(network: "TimmNetwork") -> Callable[[Any], Any]:
    """Return timm's network as it is, under autocast in our precision.

    Parameters
    ----------
    network : TimmNetwork

    Returns
    -------
    callable
    """
    import torch

    precision = network.identity["precision"]

    def run(batch: Any) -> Any:
        with torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32"):
            return network.network(batch)

    return run


def run_bare(model: Callable[[Any], Any], batch: Any, sizes: Sequence[int], *, n_threads: int) -> None:
    """Run a network on prepared tensors in memory: batches one by one on all cores, or side by side on a core each.

    Parameters
    ----------
    model : callable
    batch : Tensor, (n, 3, size_px, size_px), float32, normalised
    sizes : sequence of int
        Tiles of each batch.
    n_threads : int
    """
    import torch

    from helpers.features.pipeline import share_cores

    with share_cores(n_threads) as share, ThreadPoolExecutor(n_threads, initializer=share) as pool:

        def run(size: int) -> None:
            with torch.inference_mode():
                model(batch[:size])

        list(pool.map(run, sizes))


def decode(slides: "pd.DataFrame", folder: Path, workers: int) -> None:
    """Read every tile of the cohort and do nothing with it.

    Parameters
    ----------
    slides : DataFrame
    folder : Path
    workers : int
    """
    from helpers.features.pipeline import Feeder, Throughput
    from helpers.slides.reader import open_slide
    from helpers.slides.tilefile import read_tiles
    from helpers.slides.tiling import iterate_tiles, use_one_thread_each

    feeder = Feeder(Throughput())

    def read(slide_id: str) -> None:
        table = read_tiles(folder / "tiles" / f"{slide_id}.h5")
        with open_slide(slides["path"].iloc[0], slide_id=slide_id) as slide:
            for _ in iterate_tiles(slide, table, batch_size=BATCH, lend=feeder.lend):
                pass

    with use_one_thread_each(workers), ThreadPoolExecutor(workers) as pool:
        list(pool.map(read, slides["slide_id"]))
