"""Benchmarks are rows of one form, written beside the machine that they were measured on."""

import sys

import pytest

from helpers.book import bench, bench_features, bench_peers, bench_slides
from helpers.core import paths
from helpers.core.errors import RunError

FIELDS = {"id", "value", "unit", "compared_with", "ratio", "bound"}


def test_rows_and_machine_are_written_and_a_partial_run_keeps_the_others(tmp_path, monkeypatch):
    numbers = iter([1.0, 2.0, 3.0])
    measured = {
        "first": lambda: [bench.make_row("first/a", next(numbers), "s", bound=0.5)],
        "second": lambda: [bench.make_row("second/a", next(numbers), "s", compared_with="theirs", ratio=2.0)],
    }
    monkeypatch.setattr(bench, "BENCHMARKS", measured)
    rows = bench.run_benchmarks(folder=tmp_path)
    assert [row["id"] for row in rows] == ["first/a", "second/a"]
    assert all(set(row) == FIELDS for row in rows)
    again = bench.run_benchmarks(only=["second"], folder=tmp_path)
    assert [(row["id"], row["value"]) for row in again] == [("first/a", 1.0), ("second/a", 3.0)]
    assert paths.read_json(tmp_path / "bench.json") == again
    assert set(paths.read_json(tmp_path / "machine.json")) == {"cpu", "cores", "system", "python", "date"}


def test_an_unknown_benchmark_is_named():
    with pytest.raises(
        RunError,
        match="no benchmark fast; there are startup, slides, gigapixel, features, peers, survival, arms, expression, fusion",
    ):
        bench.run_benchmarks(only=["fast"])


def test_the_best_of_several_timings_is_taken():
    calls = []
    assert bench.time_best(lambda: calls.append(1), repeats=4) >= 0.0
    assert len(calls) == 4


def test_a_slide_is_measured_against_the_decoder_openslide_and_one_thread(tmp_path, monkeypatch):
    from helpers.slides.writer import write_pyramid

    monkeypatch.setattr(bench_slides, "N_TILES", 4)
    monkeypatch.setattr(bench_slides, "N_TURNS", 1)
    path = tmp_path / "S.svs"
    write_pyramid(path, bench.draw_texture(1400), mpp=0.25)
    rows = bench_slides.measure_slide("small", path)
    assert [row["id"].split("/")[1] for row in rows] == [
        "native_tiles", "native_tiles_vs_openslide", "unaligned_512_to_256", "two_threads", "two_processes",
    ]  # fmt: skip
    assert all(row["value"] > 0 and row["ratio"] > 0 for row in rows)


def test_a_gigapixel_slide_has_its_levels_and_a_small_file(tmp_path):
    from helpers.slides.reader import open_slide

    path = bench_slides.write_gigapixel(tmp_path / "giga.tif", size=9_600)
    with open_slide(path, slide_id="giga") as slide:
        assert slide.source.name == "jpeg-tiff", slide.source.note
        assert slide.source.level_dimensions == ((9600, 9600), (2400, 2400), (600, 600))
        assert slide.mpp == pytest.approx(0.25)


def test_without_peers_none_are_measured(monkeypatch):
    monkeypatch.delenv(bench_peers.PEERS_VARIABLE, raising=False)
    assert bench_peers.measure_peers() == []


def test_a_peer_that_fails_says_its_last_line(tmp_path):
    with pytest.raises(RunError, match=r"the peer .* failed on 'S.svs': no such tool. Mend it"):
        bench_peers.run_peer(sys.executable, "raise SystemExit('no such tool')", tmp_path / "S.svs")


@pytest.fixture
def tiled(tmp_path, monkeypatch):
    """Two copies of a small slide, tiled, and a small network to be timed on it."""
    from helpers.slides.writer import write_pyramid
    from tests.slides.conftest import draw_tissue

    monkeypatch.setattr(bench_features, "N_COPIES", 2)
    monkeypatch.setattr(bench_features, "N_TURNS", 1)
    monkeypatch.setattr(bench_features, "TILE_PX", 128)
    monkeypatch.setattr(bench_features, "NETWORKS", ("random_resnet18",))
    write_pyramid(tmp_path / "S-1.svs", draw_tissue(900, 700), mpp=0.5, downsamples=(4,))
    return bench_features.tile_copies(tmp_path / "S-1.svs", tmp_path)


def test_decoding_on_a_card_is_not_measured_without_one(tiled, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert bench_features.measure_decoding(tiled, tmp_path) == []


def test_decoding_on_a_card_is_measured_against_the_host_or_refused(tiled, tmp_path, monkeypatch):
    """The CPU stands for the card, whose name the row bears."""
    import torch

    from helpers.features import device_decode

    cpu = torch.device("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a card")
    monkeypatch.setattr("helpers.core.device.pick_device", lambda name: cpu)
    monkeypatch.setattr("helpers.features.extract.list_accelerators", lambda device: [cpu])
    monkeypatch.setattr(
        "helpers.features.extract.pick_decoding_device", lambda way, device="auto": cpu if way == "cuda" else None
    )
    (row,) = bench_features.measure_decoding(tiled, tmp_path)
    assert row["id"] == "features/decode_cuda"
    assert row["compared_with"].endswith("both on a card")
    assert row["ratio"] > 0
    monkeypatch.setattr(device_decode, "MAX_MEAN_DIFFERENCE", -1.0)
    with pytest.raises(RunError, match="slide 'copy-0' was decoded on the host: .* differs from libjpeg-turbo"):
        bench_features.measure_decoding(tiled, tmp_path)
