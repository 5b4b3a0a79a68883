"""From predictions to scores, and from hazard ratios to the scoreboard."""

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.published import read_published
from helpers.core.errors import DuplicateError, SchemaError, StatsError
from helpers.core.specs import PhantomSpec
from helpers.stats.survival_plan import RESULT_COLUMNS
from helpers.stats.survival_scores import (
    build_published_rows,
    build_score_rows,
    collect_prediction_scores,
    correlate_measurements,
    score_expression,
    tabulate_distribution,
)
from helpers.stats.survival_truth import PlantedTruth

PREDICTIONS = pd.DataFrame(
    {
        "case_id": ["007", "007", "008", "008", "900"],
        "split": ["development"] * 4 + ["external"],
        "repeat": [0, 1, 0, 1, 0],
        "fold": [0, 1, 1, 0, -1],
        "target": "prolif11",
        "arm": "ridge",
        "y_true": [1.0, 1.0, 2.0, 2.0, np.nan],
        "y_pred": [1.2, 1.4, 1.8, 2.0, 3.0],
    }
)


def test_the_declared_partition_gives_the_score_and_the_ensemble_that_of_external_cases() -> None:
    scores = collect_prediction_scores(PREDICTIONS, targets=["prolif11"])
    image = scores[scores["measured"] == "image"].set_index("case_id")
    assert image["score"].to_dict() == {"007": 1.2, "008": 1.8, "900": 3.0}
    assert image["split"].to_dict() == {"007": "development", "008": "development", "900": "external"}
    other = collect_prediction_scores(PREDICTIONS, targets=["prolif11"], repeat=1)
    assert other.loc[other["measured"] == "image", "score"].tolist() == [1.4, 2.0]


def test_a_case_predicted_twice_in_one_partition_is_refused() -> None:
    twice = pd.concat([PREDICTIONS, PREDICTIONS.iloc[:1]])
    with pytest.raises(DuplicateError, match="case '007' has more than one prediction of prolif11"):
        collect_prediction_scores(twice, targets=["prolif11"])


def test_the_measured_score_stands_beside_it_where_it_was_measured() -> None:
    scores = collect_prediction_scores(PREDICTIONS, targets=["prolif11"])
    rna = scores[scores["measured"] == "rna"].set_index("case_id")["score"]
    assert rna.to_dict() == {"007": 1.0, "008": 2.0}


def test_a_table_from_elsewhere_needs_three_columns_only() -> None:
    bare = PREDICTIONS.drop_duplicates("case_id")[["case_id", "target", "y_pred"]]
    scores = collect_prediction_scores(bare, targets=["prolif11"])
    assert scores["measured"].unique().tolist() == ["image"]
    assert scores["split"].unique().tolist() == ["development"]


def test_a_prediction_of_a_model_that_saw_the_case_is_refused() -> None:
    leaked = PREDICTIONS.assign(fold=[-1, 0, 1, 0, -1])
    with pytest.raises(
        StatsError, match="1 development cases, first '007', carry predictions of a model that was trained"
    ):
        collect_prediction_scores(leaked, targets=["prolif11"])


def test_several_arms_need_a_choice() -> None:
    both = pd.concat([PREDICTIONS, PREDICTIONS.assign(arm="mean_colour")])
    with pytest.raises(SchemaError, match="hold the arms mean_colour, ridge, asked for None"):
        collect_prediction_scores(both, targets=["prolif11"])
    assert len(collect_prediction_scores(both, targets=["prolif11"], arm="ridge")) == 5


def test_missing_columns_and_targets_are_named() -> None:
    with pytest.raises(SchemaError, match="'predictions' lacks y_pred; found case_id"):
        collect_prediction_scores(PREDICTIONS.drop(columns="y_pred"), targets=["prolif11"])
    with pytest.raises(SchemaError, match="holds no target ESR1; found prolif11"):
        collect_prediction_scores(PREDICTIONS, targets=["ESR1"])


def test_text_cells_become_numbers_and_words_are_an_error() -> None:
    as_text = PREDICTIONS.astype({"y_pred": str, "repeat": str, "fold": str})
    assert collect_prediction_scores(as_text, targets=["prolif11"])["score"].sum() == pytest.approx(9.0)
    with pytest.raises(SchemaError, match="column 'y_pred' of the predictions holds 'high'"):
        collect_prediction_scores(PREDICTIONS.assign(y_pred="high"), targets=["prolif11"])


def test_expression_alone_gives_the_rna_score_and_its_split() -> None:
    expression = pd.DataFrame({"case_id": ["a", "b", "c"], "gene": "MKI67", "value": [5.0, 6.0, 7.0], "unit": "log2"})
    splits = pd.Series(["development", "development", "external"], index=["a", "b", "c"])
    scores = score_expression(expression, splits=splits, targets=["MKI67"])
    assert scores["score"].tolist() == [5.0, 6.0, 7.0]
    assert scores["split"].tolist() == ["development", "development", "external"]
    assert set(scores["measured"]) == {"rna"}


def test_the_histogram_counts_every_case_once() -> None:
    rng = np.random.default_rng(1)
    scores = pd.DataFrame({"score": rng.normal(size=50), "split": ["development"] * 30 + ["external"] * 20})
    table = tabulate_distribution(scores, bins=9)
    assert table.groupby("split")["count"].sum().to_dict() == {"development": 30, "external": 20}


def test_the_correlation_uses_cases_that_have_both() -> None:
    table = pd.DataFrame(
        {"case_id": list("abcd") * 2, "split": "development", "target": "MKI67", "measured": ["image"] * 4 + ["rna"] * 4,
         "score": [1.0, 2, 3, 4, 1, 2, 4, 3]}
    )  # fmt: skip
    assert correlate_measurements(table, target="MKI67", case_ids=list("abcd")) == pytest.approx(0.8)
    assert np.isnan(correlate_measurements(table, target="MKI67", case_ids=["a"]))


# --- scoreboard rows -------------------------------------------------------------------------------------------------


def results(**fields: object) -> pd.DataFrame:
    row = {
        "role": "primary", "target": "MKI67", "measured": "rna", "endpoint": "rfs", "population": "all",
        "scale": "high_vs_low", "adjustment": "none", "horizon_months": 120.0, "hazard_ratio": 1.546, "ci_low": 1.35,
        "ci_high": 1.77, "n": 1903, "n_events": 859,
    }  # fmt: skip
    return pd.DataFrame([row | fields]).reindex(columns=RESULT_COLUMNS)


def test_a_baseline_on_the_same_files_holds_when_it_is_reproduced() -> None:
    published = read_published(profile="metabric", chapter="04")
    near, far = (
        build_score_rows(results(hazard_ratio=hr), published=published)[0] for hr in (1.546, 1.56)
    )  # fmt: skip
    assert (near["id"], near["kind"], near["reference"]) == ("04/hazard_ratio/MKI67_rna/rfs", "baseline", 1.544)
    assert (near["holds"], far["holds"]) == (True, False)


def test_another_scale_or_horizon_is_not_compared() -> None:
    published = read_published(profile="metabric", chapter="04")
    row = build_score_rows(results(scale="per_sd"), published=published)[0]
    assert (row["kind"], row.get("reference")) == ("control", None)
    row = build_score_rows(results(horizon_months=np.nan), published=published)[0]
    assert row.get("reference") is None


def test_a_second_analysis_of_the_same_endpoint_gets_an_id_that_says_what_differs() -> None:
    table = pd.concat([results(), results(scale="per_sd", adjustment="clinical"), results(population="erpos_her2neg")])
    ids = [row["id"] for row in build_score_rows(table, published=read_published(chapter="04"))]
    assert ids == [
        "04/hazard_ratio/MKI67_rna/rfs",
        "04/hazard_ratio/MKI67_rna_per_sd_clinical_120m/rfs",
        "04/hazard_ratio/MKI67_rna_erpos_her2neg/rfs",
    ]


ASKED = {"endpoint": "rfs", "scale": "high_vs_low", "adjustment": "none", "horizon_months": 120.0}
ESTIMANDS = {
    "adjustments": {"none": []},
    "rows": [{"score": "MKI67", "log_hr": 0.5, "hr": float(np.exp(0.5)), "mc_se": 0.01, **ASKED}],
    "image_rows": [{"rho_latent": rho, "log_hr": rho, "hr": float(np.exp(rho)), **ASKED} for rho in (0.2, 0.9)],
    "image_correlations": [
        {"rho_latent": 0.2, "spearman_MKI67": 0.1, "spearman_prolif11": 0.1},
        {"rho_latent": 0.9, "spearman_MKI67": 0.8, "spearman_prolif11": 0.8},
    ],
}


def judge(table: pd.DataFrame, *, rho: float = 0.45) -> dict:
    cases, scores, planted = draw_phantom()
    truth = PlantedTruth(PhantomSpec(), ESTIMANDS, planted, {"MKI67": rho})
    return build_score_rows(table, published=read_published(chapter="04"), truth=truth, cases=cases, scores=scores)[0]


def draw_phantom(n: int = 80) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(1)
    names = [f"P{i:03d}" for i in range(n)]
    latent, nodes = rng.normal(size=n), rng.poisson(1.0, n)
    size, age = np.exp2(rng.normal(0.2, 0.7, n)) * 20, rng.normal(60, 10, n)
    cases = pd.DataFrame(
        {"case_id": names, "age_years": age, "tumour_size_mm": size, "nodes_positive": nodes, "er": "positive",
         "her2": rng.choice(["negative", "positive"], n, p=[0.8, 0.2])}
    )  # fmt: skip
    planted = pd.DataFrame(
        {
            "case_id": names[::-1],
            "latent": latent[::-1],
            "log_nodes": np.log1p(nodes)[::-1],
            "log2_size": np.log2(size / 20)[::-1],
            "age_years": age[::-1],
        }
    )
    scores = [
        pd.DataFrame({"case_id": names, "split": "development", "target": "MKI67", "measured": m, "score": latent})
        for m in ("image", "rna")
    ]
    return cases, pd.concat(scores), planted


def test_a_planted_ratio_answers_to_the_same_estimand() -> None:
    row = judge(results())
    assert row["kind"] == "planted"
    assert row["reference"] == pytest.approx(np.exp(0.5))
    assert row["reference_low"] < row["reference"] < row["reference_high"]
    assert row["holds"] is True
    assert judge(results(ci_low=1.7))["holds"] is False


def test_the_image_answers_to_the_attenuated_truth_at_its_correlation() -> None:
    row = judge(results(measured="image"))
    assert row["reference"] == pytest.approx(np.exp(0.55))
    assert "reference_low" not in row, "a curve has no Monte-Carlo error of its own"
    assert "observed Spearman 0.450" in row["source"]


def test_a_subgroup_answers_to_its_own_cases_followed_over_and_over() -> None:
    row = judge(results(population="erpos_her2neg", scale="per_sd", sd=1.0))
    assert row["source"] == "these cases followed over and over"
    assert np.log(row["reference"]) == pytest.approx(0.40, abs=0.12), (
        "0.5 per SD of the latent, diluted by other deaths"
    )


def test_without_a_tabulated_truth_a_planted_row_says_so() -> None:
    for fields, rho in (({"endpoint": "os"}, 0.45), ({"measured": "image"}, 0.95)):
        row = judge(results(**fields), rho=rho)
        assert row.get("reference") is None
        assert "tabulated" in row["source"]


def test_the_papers_ratio_stands_beside_the_image_in_every_profile() -> None:
    table = pd.concat([results(measured="image"), results(measured="image", target="ESR1")])
    rows = build_published_rows(table, read_published(chapter="04"))
    assert [(r["id"], r["reference"], r["reference_low"], r["holds"]) for r in rows] == [
        ("04/hazard_ratio_high_vs_low/MKI67_image/rfs", 1.84, 1.17, None)
    ]


def test_a_ratio_that_could_not_be_estimated_is_no_row() -> None:
    assert build_score_rows(results(hazard_ratio=np.nan), published=read_published(chapter="04")) == []
