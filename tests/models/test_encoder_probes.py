"""Linear probes: they find what is there, nothing where there is nothing, and never see what they predict."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import ModelError
from helpers.models.encoder_probes import (
    ProbeSet,
    cut_tiles,
    draw_phantom_probe,
    predict_folds,
    probe_labels,
    read_her2st_probe,
    read_monuseg_probe,
    scale_within,
    summarise_probes,
    transfer_probe,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def make_probe(n: int = 200, fold: np.ndarray | None = None) -> tuple[np.ndarray, ProbeSet]:
    """Features of which the first carries the label 'there', and none the label 'noise'."""
    rng = np.random.default_rng(8)
    features = rng.normal(size=(n, 6))
    labels = pd.DataFrame({"there": 3 * features[:, 0] + 0.3 * rng.normal(size=n), "noise": rng.normal(size=n)})
    cluster = np.arange(n) // 10
    fold = cluster % 4 if fold is None else fold
    return features, ProbeSet("toy", np.zeros((n, 2, 2, 3), np.uint8), labels, fold, cluster)


def read_value(table: pd.DataFrame, label: str, quantity: str = "spearman") -> pd.Series:
    return table[(table["label"] == label) & (table["quantity"] == quantity)].iloc[0]


def test_a_probe_finds_what_is_there_and_nothing_where_there_is_nothing():
    features, probe = make_probe()
    table = probe_labels(features, probe, rng=np.random.default_rng(0), n_boot=200)
    assert read_value(table, "there")["value"] > 0.95
    assert abs(read_value(table, "noise")["value"]) < 0.25
    assert read_value(table, "there")["n"] == 200
    assert read_value(table, "there")["n_clusters"] == 20
    low, value, high = (read_value(table, "there")[name] for name in ("ci_low", "value", "ci_high"))
    assert low <= value <= high


def test_only_rows_with_a_fold_are_predicted_and_unknown_labels_are_left_out():
    features, probe = make_probe(fold=np.where(np.arange(200) < 150, -1, 0))
    probe.labels.loc[[0, 160], "there"] = np.nan
    table = probe_labels(features, probe, rng=np.random.default_rng(0), n_boot=100)
    assert read_value(table, "there")["n"] == 49
    assert read_value(table, "noise")["n"] == 50


def test_no_prediction_depends_on_its_own_label():
    features, probe = make_probe()
    truth = probe.labels["there"].to_numpy(float)
    before = predict_folds(features, truth, probe.fold, probe.cluster)
    changed = np.where(probe.fold == 2, truth + 100.0, truth)
    after = predict_folds(features, changed, probe.fold, probe.cluster)
    assert np.array_equal(before[probe.fold == 2], after[probe.fold == 2])
    assert not np.allclose(before[probe.fold == 1], after[probe.fold == 1])


def test_within_groups_levels_do_not_count():
    values, groups = np.array([1.0, 2.0, 3.0, 101.0, 102.0, 103.0, 7.0, 7.0]), np.array([*"aaabbbcc"])
    scaled = scale_within(values, groups)
    assert scaled[:3] == pytest.approx(scaled[3:6])
    assert scaled[6:].tolist() == [0.0, 0.0]


def test_features_of_another_set_are_refused():
    features, probe = make_probe()
    with pytest.raises(ModelError, match=r"199 rows of features for 200 tiles"):
        probe_labels(features[:-1], probe, rng=np.random.default_rng(0))


def test_the_summary_keeps_rank_correlation_and_r2():
    features, probe = make_probe()
    table = probe_labels(features, probe, rng=np.random.default_rng(0), n_boot=100).assign(encoder="e")
    assert set(summarise_probes([table])["quantity"]) == {"spearman", "r2_score"}


def test_phantom_probes_predict_the_external_site_from_all_others():
    probe = draw_phantom_probe(n_cases=6, n_external=2, seed=3, slide_um=300.0)
    external = np.char.startswith(probe.cluster, "EX")
    assert np.array_equal(probe.fold >= 0, external)
    assert probe.tiles.shape[1:] == (256, 256, 3)
    assert len(set(probe.cluster[external])) == 2
    assert (probe.labels["nuclear_density"] > 0).all()


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "monuseg_breast").is_dir(), reason="MoNuSeg is not beside the repository")
def test_monuseg_probes_count_every_outlined_nucleus_of_the_tiled_area():
    probe = read_monuseg_probe(SHARED / "monuseg_breast")
    outlined = [
        file.read_text().count("<Region ") for file in sorted((SHARED / "monuseg_breast" / "annotations").glob("*.xml"))
    ]
    assert probe.tiles.shape == (64, 125, 125, 3)
    assert probe.labels["nuclei per tile"].sum() == pytest.approx(sum(outlined), rel=0.01)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "her2st").is_dir(), reason="HER2ST is not beside the repository")
def test_her2st_probes_hold_out_patients_and_centre_tiles_on_spots():
    probe = read_her2st_probe(SHARED / "her2st")
    patients = {fold: {name[0] for name in probe.within[probe.fold == fold]} for fold in (0, 1)}
    assert patients == {0: {"B"}, 1: {"C"}}
    assert probe.tiles.shape[1:] == (256, 256, 3)


def test_a_folder_without_outlines_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"annotations/\*\.xml"):
        read_monuseg_probe(tmp_path)


def test_a_transferred_probe_is_fitted_on_the_source_and_judged_on_the_target():
    features, source = make_probe()
    target = ProbeSet(
        "real",
        source.tiles[:50],
        pd.DataFrame({"count": source.labels["there"][:50]}),
        np.zeros(50, int),
        np.arange(50),
    )
    joined = transfer_probe(source, target, source.labels["there"].to_numpy(float), label="count")
    assert joined.name == "real, fitted on the phantom"
    assert (joined.fold == -1).sum() == 200
    table = probe_labels(np.concatenate([features, features[:50]]), joined, rng=np.random.default_rng(0), n_boot=100)
    assert read_value(table, "count")["n"] == 50
    assert read_value(table, "count")["value"] > 0.95


def test_tiles_are_cut_in_raster_order():
    image = np.zeros((70, 70, 3), np.uint8)
    image[:32, 32:64] = 7
    tiles = cut_tiles(image, 32)
    assert tiles.shape == (4, 32, 32, 3)
    assert [int(tile.max()) for tile in tiles] == [0, 7, 0, 0]
