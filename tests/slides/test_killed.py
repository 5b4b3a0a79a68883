"""A killed batch leaves no half file; the next run goes on, and ends with the bytes of an undisturbed one."""

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from helpers.core.provenance import fingerprint
from helpers.slides.tilefile import read_tiles
from helpers.slides.writer import write_pyramid
from tests.slides.conftest import draw_tissue

SCRIPT = """
import sys
from pathlib import Path
import pandas as pd
from helpers.core.specs import TilingSpec
from helpers.slides.tiling import tile_cohort
folder = Path(sys.argv[1])
spec = TilingSpec(tile_px=64, mpp=0.5, thumbnail_px=256, min_tissue_um2=5_000)
print("begun", flush=True)
tile_cohort(pd.read_csv(sys.argv[2]), spec, folder=folder, ledger=folder / "ledger.parquet", workers=2)
"""
FOLDERS = ("tiles", "thumbnails", "outlines")


def start(folder: Path, table: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(table)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def hash_products(folder: Path) -> dict[str, str]:
    """Fingerprint of every product of the stage, by name; the ledger holds seconds and is left out."""
    return {
        str(path.relative_to(folder)): fingerprint(path)
        for name in FOLDERS
        for path in sorted((folder / name).iterdir())
    }


@pytest.mark.slow
def test_a_killed_batch_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    paths = {f"S-{number}": tmp_path / f"S-{number}.svs" for number in range(8)}
    for number, path in enumerate(paths.values()):
        write_pyramid(path, draw_tissue(900, 700, seed=number), mpp=0.5)
    table = tmp_path / "slides.csv"
    pd.DataFrame({"slide_id": list(paths), "path": [str(path) for path in paths.values()]}).to_csv(table, index=False)
    assert start(tmp_path / "undisturbed", table).wait() == 0

    folder, interrupted = tmp_path / "killed", 0
    for delay_s in (0.05, 0.15, 0.3, 0.5, 0.8):
        process = start(folder, table)
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay_s)
        interrupted += process.poll() is None
        process.kill()
        process.wait()
        for path in (folder / "tiles").glob("S-*.h5"):
            assert len(read_tiles(path).coords_l0) > 10, "a half file under its final name"
    assert interrupted, "no run was killed before it had ended"
    assert start(folder, table).wait() == 0
    assert hash_products(folder) == hash_products(tmp_path / "undisturbed")
