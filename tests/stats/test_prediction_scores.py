"""Scoreboard rows of chapter 03: every number beside the right one, and a verdict only where there is one to give."""

import numpy as np
import pandas as pd
import pytest

from helpers.stats.prediction_scores import (
    build_arm_rows,
    build_confounding_rows,
    build_control_rows,
    build_null_rows,
    build_performance_rows,
    build_probe_row,
    compute_foldwise_performance,
    compute_performance,
    compute_repeats,
)

PUBLISHED = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "scoreboard": ["03/spearman/prolif11/external", "03/spearman/prolif11/oof", "03/r2/prolif11/internal_test"],
        "quantity": ["spearman", "spearman", "r2_as_published"],
        "value": [0.502, 0.655, 0.438],
        "ci_low": np.nan,
        "ci_high": np.nan,
        "n": [997.0, 683.0, 172.0],
        "cohort": ["SCAN-B", "TCGA", "theirs"],
        "kind": ["published", "baseline", "published"],
        "partition_low": [np.nan, 0.645, np.nan],
        "partition_high": [np.nan, 0.658, np.nan],
        "source": ["ekholm2024", "plain_pipeline", "ekholm2024"],
        "cite": ["Ekholm 2024", "ours", "Ekholm 2024"],
    }
)


def make_predictions(*, external: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(51)
    n = 120
    y = rng.normal(size=n)
    rows = []
    for arm, noise in (("ridge", 0.8), ("mean_colour", 4.0)):
        for repeat in (0, 1) if arm == "ridge" else (0,):
            predicted = y + noise * rng.normal(size=n)
            for i in range(n):
                split = "external" if external and i >= 80 else "development"
                fold = -1 if split == "external" else i % 4
                rows.append((f"{i:03d}", split, repeat, fold, "prolif11", arm, y[i], predicted[i]))
    names = ["case_id", "split", "repeat", "fold", "target", "arm", "y_true", "y_pred"]
    return pd.DataFrame(rows, columns=names)


@pytest.fixture(scope="module")
def performance() -> pd.DataFrame:
    site = pd.Series([f"S{i % 6}" if i < 80 else "X" for i in range(120)], index=[f"{i:03d}" for i in range(120)])
    return compute_performance(make_predictions(), site=site, n_boot=200, rng=np.random.default_rng(1))


def build(performance: pd.DataFrame, **options: object) -> dict[str, dict[str, object]]:
    rows = build_performance_rows(performance, arm="ridge", targets=["prolif11"], published=PUBLISHED, **options)  # type: ignore[arg-type]
    assert len({row["id"] for row in rows}) == len(rows)
    return {str(row["id"]): row for row in rows}


def test_performance_is_of_the_first_repeat_with_sites_resampled_where_there_are_five(
    performance: pd.DataFrame,
) -> None:
    rows = performance.query("arm == 'ridge' and quantity == 'spearman'").set_index("split")
    first = make_predictions().query("arm == 'ridge' and repeat == 0 and split == 'external'")
    assert rows.loc["external", "value"] == pytest.approx(first["y_true"].corr(first["y_pred"], "spearman"))
    assert rows.loc["external", "n"] == 40
    assert rows.loc["development", "site_low"] < rows.loc["development", "value"]
    assert np.isnan(rows.loc["external", "site_low"])


def test_repeats_show_pooled_and_fold_wise_values() -> None:
    table = compute_repeats(make_predictions().query("arm == 'ridge'"), rng=np.random.default_rng(1))
    held_out, external = (
        table.query("quantity == 'spearman' and split == @name") for name in ("development", "external")
    )
    assert held_out["repeat"].tolist() == external["repeat"].tolist() == [0, 1]
    assert (held_out["n_folds"] == 4).all()
    assert (held_out["pooled"] != held_out["fold_mean"]).all()
    assert external["fold_mean"].isna().all()


def test_planted_rows_stand_beside_the_noise_ceiling(performance: pd.DataFrame) -> None:
    rows = build(performance, ceiling={"prolif11": 0.9})
    value = rows["03/spearman/prolif11/external"]["value"]
    assert rows["03/spearman/prolif11/external"]["reference"] == 0.9
    ratio = rows["03/ceiling_ratio/prolif11/external"]
    assert ratio["value"] == pytest.approx(value / 0.9)
    assert rows["03/spearman_beside_ekholm2024/prolif11/external"]["reference"] == 0.502


def test_real_rows_stand_beside_the_baseline_on_the_same_files(performance: pd.DataFrame) -> None:
    row = build(performance)["03/spearman/prolif11/oof"]
    assert (row["kind"], row["reference"], row["reference_low"]) == ("baseline", 0.655, 0.645)
    assert row["holds"] == (row["value"] >= 0.645)
    assert build(performance)["03/r2/prolif11/oof"]["source"] == "no number to stand beside"


def test_a_published_internal_test_stands_beside_out_of_fold_where_none_was_set_aside(
    performance: pd.DataFrame,
) -> None:
    row = build(performance)["03/r2_beside_ekholm2024/prolif11/oof"]
    assert row["reference"] == 0.438
    assert "formula unstated" in str(row["source"])
    assert "holds" not in row


def test_a_published_external_number_has_no_row_without_an_external_split(performance: pd.DataFrame) -> None:
    rows = build(performance[performance["split"] == "development"])
    assert not [name for name in rows if name.endswith("external")]


def test_colour_must_stay_low_on_the_phantom_only(performance: pd.DataFrame) -> None:
    planted, real = (
        {row["id"]: row for row in build_control_rows(performance, arm="ridge", targets=["prolif11"], planted=kind)}
        for kind in (True, False)
    )
    name = "03/spearman_mean_colour/prolif11/external"
    expected = True if planted[name]["value"] <= 0.35 else (False if planted[name]["ci_low"] > 0.35 else None)
    assert (planted[name]["reference"], planted[name]["holds"]) == (0.35, expected)
    assert "holds" not in real[name]
    declared = performance.query("arm == 'ridge' and split == 'external' and quantity == 'spearman'")["value"].item()
    assert real[name]["reference"] == declared


def test_one_cohort_condemns_only_with_its_whole_interval(performance: pd.DataFrame) -> None:
    verdicts = {}
    for name, value, high in (("meets", 0.9, 0.95), ("open", 0.7, 0.9), ("fails", 0.3, 0.5)):
        table = performance.query("arm == 'ridge' and quantity == 'spearman' and split == 'external'")
        rows = build(table.assign(value=value, ci_low=0.2, ci_high=high), ceiling={"prolif11": 1.0})
        verdicts[name] = rows["03/ceiling_ratio/prolif11/external"]["holds"]
    assert verdicts == {"meets": True, "open": None, "fails": False}


def test_nulls_labels_and_probe_become_rows() -> None:
    nulls = pd.DataFrame(
        [
            {
                "target": "MKI67",
                "split": "development",
                "observed": 0.4,
                "null_q99": 0.1,
                "n_permutations": 200,
                "p": 0.005,
                "n": 80,
            }
        ]
    )
    row = build_null_rows(nulls)[0]
    assert (row["id"], row["holds"], row["reference"]) == ("03/permutation/MKI67/oof", True, 0.1)
    panel = pd.DataFrame(
        {
            "label": ["all cases", "er", "er"],
            "kind": ["image", "label_only", "within_label"],
            "value": [0.6, 0.4, 0.05],
            "ci_low": np.nan,
            "ci_high": np.nan,
            "n": 80,
            "null_q95": [np.nan, np.nan, 0.1],
            "p": [np.nan, np.nan, 0.2],
        }
    )
    alone, within = build_confounding_rows(panel, target="prolif11")
    assert (alone["id"], alone["reference"]) == ("03/spearman_er_alone/prolif11/oof", 0.6)
    assert (within["id"], within["holds"]) == ("03/spearman_within_er/prolif11/oof", False)
    probe = {"balanced_accuracy": 0.9, "chance": 0.125, "n_sites": 8.0, "n_cases": 598.0, "p_value": 0.01}
    assert build_probe_row(probe, encoder="uni")["id"] == "03/site_probe/uni/oof"


def test_arms_get_a_verdict_only_where_declared_and_only_if_no_worse_than_the_ridge() -> None:
    table = pd.DataFrame(
        {
            "arm": ["ensemble", "pls", "ridge"], "target": "prolif11", "n": 683, "n_repeats": 10,
            "difference": [0.004, -0.008, 0.0], "ci_low": [-0.009, -0.026, np.nan], "ci_high": [0.02, 0.01, np.nan],
        }
    )  # fmt: skip
    rows = build_arm_rows(table, arm="ensemble", reference="ridge")
    assert [row["id"] for row in rows] == [
        "03/spearman_difference/ensemble_vs_ridge/prolif11/oof", "03/spearman_difference/pls_vs_ridge/prolif11/oof",
    ]  # fmt: skip
    assert rows[0]["holds"] is True
    assert "holds" not in rows[1]
    worse = table.assign(ci_low=[-0.011, -0.026, np.nan])
    assert build_arm_rows(worse, arm="ensemble", reference="ridge")[0]["holds"] is False


def test_foldwise_performance_has_case_and_site_intervals() -> None:
    rng = np.random.default_rng(3)
    y = rng.normal(size=120)
    predictions = pd.DataFrame(
        {
            "case_id": [f"{i:03d}" for i in range(120)], "split": "development", "repeat": 0, "fold": np.arange(120) % 3,
            "target": "prolif11", "arm": "ridge", "y_true": y, "y_pred": y + rng.normal(size=120),
        }
    )  # fmt: skip
    site = pd.Series([f"S{i % 6}" for i in range(120)], index=predictions["case_id"])
    table = compute_foldwise_performance(predictions, site=site, n_boot=100, rng=rng).set_index("quantity")
    assert set(table.index) == {"spearman", "pearson", "r_squared", "r2_score"}
    row = table.loc["spearman"]
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["site_low"] < row["value"] < row["site_high"]
    assert (row["n_folds"], row["n"]) == (3, 120)
    few = compute_foldwise_performance(predictions, site=site.map(lambda _: "S0"), n_boot=100, rng=rng)
    assert few["site_low"].isna().all()
