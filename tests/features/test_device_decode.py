"""Decoding where networks run: tested on the CPU, with the same code that a card would run.

What only a card can show, nvJPEG's own pixels, is in the one test marked `gpu`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import simplejpeg
import tifffile
import torch
from numpy.typing import NDArray

from helpers.core.errors import FeatureError, RunError
from helpers.core.specs import FeatureSpec, TilingSpec
from helpers.features import device_decode
from helpers.features.device_decode import (
    HOST_DECODERS,
    MAX_MEAN_DIFFERENCE,
    decode_streams,
    iterate_on_device,
    name_decoder,
    pick_decoding_device,
    plan_decoding,
    read_batch_on_device,
)
from helpers.features.encoders import MeanColour, make_encoder
from helpers.features.extract import extract_cohort, make_encoders, show_tiles
from helpers.features.networks import TimmNetwork
from helpers.features.store import read_features
from helpers.slides.audit import fit_slide_normaliser
from helpers.slides.jpegtiff import NotDirectError
from helpers.slides.reader import Slide, open_slide
from helpers.slides.tilefile import TileTable, read_tiles
from helpers.slides.tiling import read_tile, tile_cohort
from helpers.slides.writer import write_pyramid
from tests.slides.conftest import draw_tissue
from tests.slides.test_jpegtiff import draw_detail

CPU = torch.device("cpu")


def lay_tiles(
    slide: Slide, *, edge_l0: tuple[int, int], tile_px: int, step: int, origin: tuple[int, int] = (0, 0)
) -> TileTable:
    """Tiles in raster order up to the very edge of a slide, with nothing but places."""
    x = sorted({*range(origin[0], slide.width - edge_l0[0], step), slide.width - edge_l0[0]})
    y = sorted({*range(origin[1], slide.height - edge_l0[1], step), slide.height - edge_l0[1]})
    coords = np.array([(a, b) for b in y for a in x], np.int64)
    nothing = np.empty((0, 2))
    return TileTable(
        slide_id=slide.slide_id, coords_l0=coords, edge_l0=edge_l0, tile_px=tile_px, overlap_px=0,
        size_l0=(slide.width, slide.height), qc=pd.DataFrame(), points=nothing, rings=nothing, attributes={},
    )  # fmt: skip


def read_all(slide: Slide, table: TileTable, *, batch_size: int = 7) -> NDArray[np.uint8]:
    """Every tile through the device's way, (n, H, W, 3)."""
    batches = list(iterate_on_device(slide, table, batch_size=batch_size, device=CPU))
    return torch.cat(batches).permute(0, 2, 3, 1).numpy()


def read_expected(slide: Slide, table: TileTable) -> NDArray[np.uint8]:
    return np.stack([read_tile(slide, table, index) for index in range(len(table.coords_l0))])


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4:2:0, non-square, no whole number of native tiles; level 1 ends a third of a pixel before the slide does."""
    path = tmp_path_factory.mktemp("slides") / "pyramid.svs"
    write_pyramid(path, draw_detail(1201, 849), mpp=0.5, tile_px=128, downsamples=(4, 16))
    return path


GEOMETRIES = {
    "one native tile each": {"edge_l0": (128, 128), "tile_px": 128, "step": 128},
    "unaligned": {"edge_l0": (100, 100), "tile_px": 100, "step": 90, "origin": (13, 7)},
    "halved": {"edge_l0": (200, 200), "tile_px": 100, "step": 170, "origin": (5, 3)},
    "fractional": {"edge_l0": (137, 137), "tile_px": 64, "step": 111, "origin": (1, 2)},
    "enlarged": {"edge_l0": (50, 50), "tile_px": 64, "step": 190},
    "level 1, fractional corners": {"edge_l0": (334, 334), "tile_px": 80, "step": 171, "origin": (3, 5)},
    "level 2": {"edge_l0": (800, 800), "tile_px": 48, "step": 33},
    "other resolution along y": {"edge_l0": (210, 190), "tile_px": 96, "step": 150},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_tiles_are_those_of_the_host_to_one_grey_level(pyramid: Path, name: str) -> None:
    with open_slide(pyramid, slide_id="S-1") as slide:
        table = lay_tiles(slide, **GEOMETRIES[name])
        level = slide.plan_read(device_decode.locate_tile(table, 0), width=table.tile_px, height=table.tile_px).level
        assert level == (int(name[6]) if name.startswith("level") else 0)
        found, expected = read_all(slide, table).astype(int), read_expected(slide, table).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    if name in ("one native tile each", "unaligned", "halved"):
        assert np.array_equal(found, expected), "sums of four whole numbers, or of one, leave nothing to differ"


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_chroma_of_any_sampling_is_that_of_the_host(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    path = tmp_path / "S.tif"
    tifffile.imwrite(
        path, draw_detail(400, 300), tile=(112, 96), photometric="ycbcr", subsampling=subsampling, compression="jpeg",
        metadata=None,
    )  # fmt: skip
    with open_slide(path, slide_id="S-1", mpp=0.5) as slide:
        table = lay_tiles(slide, edge_l0=(90, 90), tile_px=90, step=70)
        assert np.array_equal(read_all(slide, table), read_expected(slide, table))


def test_a_tile_does_not_depend_on_its_batch(pyramid: Path) -> None:
    with open_slide(pyramid, slide_id="S-1") as slide:
        table = lay_tiles(slide, **GEOMETRIES["fractional"])
        assert np.array_equal(read_all(slide, table, batch_size=1), read_all(slide, table, batch_size=1000))


def test_a_batch_is_what_networks_want(pyramid: Path) -> None:
    with open_slide(pyramid, slide_id="S-1") as slide:
        table = lay_tiles(slide, **GEOMETRIES["halved"])
        batch = read_batch_on_device(slide, table, 2, 7, device=CPU)
        assert (batch.shape, batch.dtype, batch.device) == ((5, 3, 100, 100), torch.uint8, CPU)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert np.abs(batch[0].permute(1, 2, 0).numpy().astype(int) - read_tile(slide, table, 2)).max() <= 1


def test_each_native_tile_is_decoded_once_in_a_batch(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def count(streams: list[bytes], *, device: torch.device) -> list[torch.Tensor]:
        calls.append(len(streams))
        assert len(set(streams)) == len(streams)
        return decode_streams(streams, device=device)

    monkeypatch.setattr(device_decode, "decode_streams", count)
    with open_slide(pyramid, slide_id="S-1") as slide:
        table = lay_tiles(slide, edge_l0=(100, 100), tile_px=50, step=50)
        read_batch_on_device(slide, table, 0, len(table.coords_l0), device=CPU)
    assert calls == [10 * 7], "1,201 x 849 px hold 10 x 7 native tiles, and one call decodes them"


def test_native_tiles_that_were_never_written_are_glass(tmp_path: Path) -> None:
    path, image = tmp_path / "S.tif", draw_detail(256, 256)

    def parts() -> Iterator[NDArray[np.uint8] | None]:
        for y, x in ((0, 0), (0, 128), (128, 0), (128, 128)):
            yield None if y == 128 else image[y : y + 128, x : x + 128]

    tifffile.imwrite(
        path, parts(), shape=image.shape, dtype=np.uint8, tile=(128, 128), photometric="ycbcr", subsampling=(1, 1),
        compression="jpeg", metadata=None,
    )  # fmt: skip
    with open_slide(path, slide_id="S-1", mpp=0.5) as slide:
        table = lay_tiles(slide, edge_l0=(60, 60), tile_px=60, step=49)
        found = read_all(slide, table, batch_size=4)
        assert np.array_equal(found, read_expected(slide, table))
        assert (found[-1] == 255).all(), "a batch of glass only"
        assert plan_decoding(slide, table, CPU).note == ""


def test_rgb_components_are_left_to_the_host(tmp_path: Path) -> None:
    path = tmp_path / "S.tif"
    tifffile.imwrite(
        path, draw_detail(300, 200), tile=(96, 112), photometric="rgb", compression="jpeg",
        compressionargs={"outcolorspace": "rgb"}, metadata=None,
    )  # fmt: skip
    with open_slide(path, slide_id="S-1", mpp=0.5) as slide:
        table = lay_tiles(slide, edge_l0=(60, 60), tile_px=60, step=49)
        decoding = plan_decoding(slide, table, CPU)
        assert decoding.decoder == "libjpeg-turbo"
        assert decoding.note == "decoded on the host: level 0 stores RGB components, which nvJPEG takes for YCbCr"
        with pytest.raises(NotDirectError, match="level 0 stores RGB components"):
            read_batch_on_device(slide, table, 0, 1, device=CPU)


def test_a_slide_that_is_not_jpeg_is_left_to_the_host_with_the_readers_reason(tmp_path: Path) -> None:
    path = tmp_path / "S.tif"
    tifffile.imwrite(path, draw_detail(256, 256), tile=(128, 128), photometric="rgb", compression="zlib", metadata=None)
    with open_slide(path, slide_id="S-1", mpp=0.5) as slide:
        decoding = plan_decoding(slide, lay_tiles(slide, edge_l0=(60, 60), tile_px=60, step=49), CPU)
    assert decoding.decoder == HOST_DECODERS["openslide"] == "openslide"
    assert "compression is ADOBE_DEFLATE, expected JPEG" in decoding.note


def test_the_difference_to_libjpeg_turbo_is_measured_and_none_where_it_decodes(pyramid: Path) -> None:
    with open_slide(pyramid, slide_id="S-1") as slide:
        decoding = plan_decoding(slide, lay_tiles(slide, **GEOMETRIES["unaligned"]), CPU)
    assert (decoding.mean_difference, decoding.max_difference, decoding.note) == (0.0, 0.0, "")
    assert decoding.decoder == name_decoder("cpu") != name_decoder("cuda")


def decode_otherwise(change: Callable[[bytes], NDArray[np.uint8]]) -> Callable[..., list[torch.Tensor]]:
    """A decoder that stands for another one."""

    def decode(streams: list[bytes], *, device: torch.device) -> list[torch.Tensor]:
        return [torch.from_numpy(change(stream)).permute(2, 0, 1).contiguous() for stream in streams]

    return decode


def test_a_decoder_that_repeats_chroma_is_used_and_its_difference_stated(
    make_tissue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = decode_otherwise(lambda stream: simplejpeg.decode_jpeg(stream, "RGB", fastupsample=True))
    monkeypatch.setattr(device_decode, "decode_streams", plain)
    with open_slide(make_tissue, slide_id="S-1") as slide:
        decoding = plan_decoding(slide, lay_tiles(slide, edge_l0=(100, 100), tile_px=100, step=90), CPU)
    assert decoding.note == ""
    assert 0.1 < decoding.mean_difference < MAX_MEAN_DIFFERENCE / 2
    assert 5 < decoding.max_difference < 40


def test_a_decoder_that_mistakes_colours_is_not_used(make_tissue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = decode_otherwise(lambda stream: np.ascontiguousarray(simplejpeg.decode_jpeg(stream, "RGB")[..., ::-1]))
    monkeypatch.setattr(device_decode, "decode_streams", wrong)
    with open_slide(make_tissue, slide_id="S-1") as slide:
        decoding = plan_decoding(slide, lay_tiles(slide, edge_l0=(100, 100), tile_px=100, step=90), CPU)
    assert decoding.decoder == "libjpeg-turbo"
    assert "differs from libjpeg-turbo by" in decoding.note


@pytest.fixture
def make_tissue(tmp_path: Path) -> Path:
    """A slide of tissue, 4:2:0."""
    path = tmp_path / "tissue.svs"
    write_pyramid(path, draw_tissue(600, 500), mpp=0.5, downsamples=(4,))
    return path


def test_a_stream_that_is_refused_or_cut_short_says_so(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotDirectError, match=r"a stream is refused by libjpeg-turbo \(torchvision"):
        decode_streams([b"\xff\xd8 no jpeg at all"], device=CPU)
    with open_slide(pyramid, slide_id="S-1") as slide:
        table = lay_tiles(slide, **GEOMETRIES["unaligned"])
        monkeypatch.setattr(type(slide.source), "read_stream", lambda self, level, number: b"\xff\xd8\xff")
        with pytest.raises(NotDirectError, match=r"native tile 0 has 3 of \d+ bytes"):
            read_batch_on_device(slide, table, 0, 1, device=CPU)


def test_full_memory_is_no_fault_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        msg = "CUDA error: while decoding JPEG images: CUDA out of memory. Tried to allocate"
        raise RuntimeError(msg)

    monkeypatch.setattr("torchvision.io.decode_jpeg", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        decode_streams([b"\xff\xd8"], device=CPU)
    lost = pytest.raises(RunError, match=r"RunError: device cuda:0 failed while running 'decode: cuda' \(CUDA error")
    with lost, device_decode.report_failures(torch.device("cuda", 0), 64):
        fail()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card, so nothing is to be refused")
def test_without_a_card_it_is_refused_before_anything_starts() -> None:
    spec = FeatureSpec(encoders=("no_such_encoder",), decode="cuda")
    with pytest.raises(
        FeatureError, match=r"decode: cuda needs a CUDA device, and device: auto means \w+ on this machine"
    ):
        make_encoders(spec)
    with pytest.raises(FeatureError, match="device: cpu means cpu"):
        pick_decoding_device("cuda", "cpu")
    assert pick_decoding_device("host", "cpu") is None


def test_the_first_of_several_cards_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [torch.device("cuda", number) for number in range(3)]
    monkeypatch.setattr(device_decode, "list_accelerators", lambda device: cards)
    assert pick_decoding_device("cuda", "auto") == cards[0]


SPEC = FeatureSpec(encoders=("random_resnet18", "mean_colour", "stain_texture"), precision="float32", batch_size=16)
TILING = TilingSpec(tile_px=64, mpp=1.0, thumbnail_px=128, min_tissue_um2=5_000)


@pytest.fixture
def cohort(tmp_path: Path, make_tissue: Path) -> pd.DataFrame:
    """A slide that a card could decode, and one in RGB components that it could not; both tiled."""
    image = draw_tissue(600, 500, seed=2)
    tifffile.imwrite(
        tmp_path / "rgb.tif", image, tile=(256, 256), photometric="rgb", compression="jpeg",
        compressionargs={"outcolorspace": "rgb"}, resolution=(20_000, 20_000), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    table = pd.DataFrame({"slide_id": ["S-1", "S-2"], "path": [str(make_tissue), str(tmp_path / "rgb.tif")]})
    tile_cohort(table, TILING, folder=tmp_path / "01", ledger=tmp_path / "01" / "ledger.parquet", workers=1)
    return table


@pytest.fixture
def cpu_as_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU stand for two cards, the first of which decodes."""
    monkeypatch.setattr(
        "helpers.features.extract.pick_decoding_device", lambda decode, device="auto": CPU if decode == "cuda" else None
    )
    monkeypatch.setattr("helpers.features.extract.list_accelerators", lambda device: [CPU, CPU])


def run(cohort: pd.DataFrame, spec: FeatureSpec, folder: Path, *, out: str) -> pd.DataFrame:
    target = folder / out
    ledger, throughput = extract_cohort(
        cohort,
        spec,
        tiles_folder=folder / "01" / "tiles",
        folder=target,
        ledger=target / "l.parquet",
        workers=2,
        device="cpu",
    )
    if (ledger["status"] == "ok").all():
        tables = [read_tiles(folder / "01" / "tiles" / f"{slide_id}.h5") for slide_id in cohort["slide_id"]]
        assert throughput.n_tiles == sum(len(table.coords_l0) for table in tables)
    return ledger.set_index("slide_id")


@pytest.mark.usefixtures("cpu_as_card")
@pytest.mark.parametrize("normalisation", ["none", "macenko"])
def test_a_cohort_is_decoded_on_the_device_where_it_can_be(
    cohort: pd.DataFrame, tmp_path: Path, normalisation: str
) -> None:
    spec = SPEC.model_copy(update={"stain_normalisation": normalisation})
    run(cohort, spec, tmp_path, out="host")
    there = spec.model_copy(update={"decode": "cuda"})
    ledger = run(cohort, there, tmp_path, out="card")
    assert ledger.at["S-1", "reason"] == ""
    assert ledger.at["S-2", "reason"].startswith("decoded on the host: level 0 stores RGB components")
    for slide_id, decoder in (("S-1", name_decoder("cpu")), ("S-2", "libjpeg-turbo")):
        for name in SPEC.encoders:
            here, card = (
                read_features(tmp_path / out / "features" / name / f"{slide_id}.h5") for out in ("host", "card")
            )
            assert card.attributes["decoder"] == decoder
            assert here.attributes["decoder"] == "libjpeg-turbo"
            assert here.attributes["key"] != card.attributes["key"], "what a card decodes is another result"
            assert np.abs(here.features - card.features).max() <= 1e-5 * np.abs(here.features).max(), (
                f"{name} of {slide_id}"
            )
    again = run(cohort, there, tmp_path, out="card")
    assert list(again["status"]) == ["reused", "reused"]
    assert list(again["reason"]) == list(ledger["reason"]), (
        "a slide that is reused forgot why it was decoded on the host"
    )


@pytest.mark.usefixtures("cpu_as_card")
def test_a_slide_whose_stream_is_refused_halfway_is_decoded_on_the_host_as_a_whole(
    cohort: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPEC.model_copy(update={"batch_size": 4, "encoders": ("mean_colour",)})
    run(cohort[:1], spec, tmp_path, out="host")
    calls: list[int] = []

    def refuse(streams: list[bytes], *, device: torch.device) -> list[torch.Tensor]:
        calls.append(len(streams))
        if len(calls) == 4:
            msg = "a stream is refused by nvjpeg (torchvision 0)"
            raise NotDirectError(msg)
        return decode_streams(streams, device=device)

    monkeypatch.setattr(device_decode, "decode_streams", refuse)
    ledger = run(cohort[:1], spec.model_copy(update={"decode": "cuda"}), tmp_path, out="card")
    assert ledger.at["S-1", "reason"] == "decoded on the host: a stream is refused by nvjpeg (torchvision 0)"
    here, card = (read_features(tmp_path / out / "features" / "mean_colour" / "S-1.h5") for out in ("host", "card"))
    assert np.array_equal(here.features, card.features)
    assert card.attributes["decoder"] == "libjpeg-turbo"


def test_the_key_of_what_the_host_decodes_is_what_it_was(cohort: pd.DataFrame, tmp_path: Path) -> None:
    run(cohort[:1], SPEC, tmp_path, out="host")
    target = tmp_path / "host" / "features" / "mean_colour" / "S-1.h5"
    with h5py.File(target, "r+") as file:  # as files were written before anybody asked who decoded
        for name in [name for name in file.attrs if name.startswith("decoder")]:
            del file.attrs[name]
    assert run(cohort[:1], SPEC, tmp_path, out="host").at["S-1", "status"] == "reused"


def test_descriptors_get_arrays_and_networks_what_lies_on_the_device(
    pyramid: Path, cohort: pd.DataFrame, tmp_path: Path
) -> None:
    network = make_encoder("random_resnet18", device="cpu")
    with open_slide(pyramid, slide_id="S-1") as slide:
        batch = read_batch_on_device(slide, lay_tiles(slide, **GEOMETRIES["halved"]), 0, 3, device=CPU)
    assert show_tiles(batch, [network], None)[0] is batch
    tensor, array = show_tiles(batch, [network, MeanColour()], None)
    assert tensor is batch
    assert np.array_equal(array, batch.permute(0, 2, 3, 1).numpy())
    table = read_tiles(tmp_path / "01" / "tiles" / "S-1.h5")
    normaliser = fit_slide_normaliser(cohort["path"][0], table, "macenko")
    seen = show_tiles(batch, [network, MeanColour(), make_encoder("stain_texture")], normaliser.apply)
    assert np.array_equal(seen[0], normaliser.apply(array))
    assert np.array_equal(seen[1], seen[0])
    assert np.array_equal(seen[2], array), "what unmixes stains sees tiles as scanned"


def test_a_network_takes_a_tensor_for_the_array_it_was_made_of(pyramid: Path) -> None:
    network = make_encoder("random_resnet18", device="cpu")
    assert isinstance(network, TimmNetwork)
    with open_slide(pyramid, slide_id="S-1") as slide:
        batch = read_batch_on_device(slide, lay_tiles(slide, **GEOMETRIES["halved"]), 0, 3, device=CPU)
    tiles = np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(network.encode(batch), network.encode(tiles))


@pytest.mark.gpu
def test_a_card_decodes_what_the_host_decodes(pyramid: Path, make_tissue: Path) -> None:
    """Never run by us: there was no card. Stitching and averaging are held to what nvJPEG's own pixels allow."""
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA, found none")
    cuda = torch.device("cuda", 0)
    for path in (pyramid, make_tissue):
        with open_slide(path, slide_id="S-1") as slide:
            table = lay_tiles(slide, edge_l0=(137, 137), tile_px=64, step=111)
            decoding = plan_decoding(slide, table, cuda)
            assert decoding.note == ""
            assert decoding.decoder == name_decoder("cuda")
            found = read_batch_on_device(slide, table, 0, len(table.coords_l0), device=cuda)
            assert found.device == cuda
            again = read_batch_on_device(slide, table, 0, len(table.coords_l0), device=cuda)
            assert torch.equal(found, again)
            tiles = found.permute(0, 2, 3, 1).cpu().numpy().astype(int)
            assert np.abs(tiles - read_expected(slide, table)).mean() <= decoding.mean_difference + 1
    network = make_encoder("random_resnet18", device="cuda")
    replaced = replace(table, coords_l0=table.coords_l0[:4])
    assert network.encode(read_batch_on_device(slide, replaced, 0, 4, device=cuda)).shape == (4, 512)
