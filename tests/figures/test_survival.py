"""Survival figures: what must be on the paper is on the paper, and it is the tables' own numbers."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers.figures import survival as figures
from helpers.figures.style import PALETTES, new_axes
from helpers.stats import survival
from helpers.stats.competing import estimate_cumulative_incidence
from helpers.stats.survival_scores import tabulate_distribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@pytest.fixture
def cohort() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    score = rng.normal(size=160)
    time = rng.exponential(90 * np.exp(-0.7 * score))
    censoring = rng.uniform(12, 140, 160)
    table = pd.DataFrame({"time": np.minimum(time, censoring).round(1), "event": time <= censoring, "score": score})
    return table.assign(group=np.where(score > 0, "high", "low"))


@pytest.fixture
def km(cohort: pd.DataFrame) -> "Axes":
    time, event, group = cohort["time"], cohort["event"], cohort["group"]
    return figures.plot_km(
        survival.fit_km(time, event, group=group),
        survival.count_at_risk(time, event, at=[0, 24, 48, 72, 96, 120], group=group),
        ax=new_axes(),
        test=survival.compare_logrank(time, event, group),
        ratio={"hazard_ratio": 2.0, "ci_low": 1.25, "ci_high": 3.2},
        cutoff_origin="median of 160 training cases",
        endpoint="Recurrence or death",
        title="a  11-gene score",
    )


def texts(ax: "Axes", gid: str) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_gid() == gid]


def test_km_draws_one_step_curve_and_one_band_per_group_in_the_risk_colours(km: "Axes") -> None:
    curves = [line for line in km.lines if line.get_drawstyle() == "steps-post"]
    assert [line.get_color() for line in curves] == [PALETTES["risk"]["high"], PALETTES["risk"]["low"]]
    assert len(km.collections) == 2, "a band per group"
    assert all(line.get_ydata()[0] == 1.0 for line in curves)


def test_km_marks_every_time_at_which_a_case_is_censored(km: "Axes", cohort: pd.DataFrame) -> None:
    ticks = [line for line in km.lines if line.get_gid() == "censored"]
    drawn = sum(len(line.get_xdata()) for line in ticks)
    assert drawn == sum(rows.loc[~rows["event"], "time"].nunique() for _, rows in cohort.groupby("group"))


def test_the_numbers_at_risk_below_the_axes_are_those_just_before_each_tick(km: "Axes", cohort: pd.DataFrame) -> None:
    expected = [
        str(int(((cohort["group"] == group) & (cohort["time"] >= tick)).sum()))
        for group in ("high", "low")
        for tick in (0, 24, 48, 72, 96, 120)
    ]
    assert texts(km, "at_risk") == expected
    assert texts(km, "at_risk_heading") == ["Number at risk just before"]


def test_the_numbers_at_risk_stand_under_their_ticks(km: "Axes") -> None:
    places = [text.xy[0] for text in km.texts if text.get_gid() == "at_risk"]
    assert places == pytest.approx([0, 2, 4, 6, 8, 10] * 2)
    assert km.get_xticks() == pytest.approx([0, 2, 4, 6, 8, 10]), "months became years"


def test_km_states_n_events_p_ratio_and_where_the_cutoff_came_from(km: "Axes", cohort: pd.DataFrame) -> None:
    facts = texts(km, "facts")[0]
    assert "HR high vs low 2.00 (1.25–3.20), log-rank p" in facts
    assert "cut-off: median of 160 training cases" in facts
    legend = [text.get_text() for text in km.get_legend().get_texts()]
    counts = cohort.groupby("group")["event"].agg(["size", "sum"])
    assert legend == [f"{g}: {counts.loc[g, 'size']} cases, {counts.loc[g, 'sum']} events" for g in ("high", "low")]


def test_the_table_below_does_not_touch_the_axis_label(km: "Axes") -> None:
    km.figure.canvas.draw()
    heading = next(text for text in km.texts if text.get_gid() == "at_risk_heading")
    label = km.xaxis.label
    assert heading.get_window_extent().y1 <= label.get_window_extent().y0


FOREST = pd.DataFrame(
    [
        {"label": "Univariable", "heading": True},
        {"label": "Score, per SD", "heading": False, "hazard_ratio": 1.5, "ci_low": 1.2, "ci_high": 1.9, "n": 200,
         "n_events": 60, "p": 0.0004},
        {"label": "Grade", "heading": False, "hazard_ratio": 3.0, "ci_low": 0.5, "ci_high": 40.0, "n": 200,
         "n_events": 60, "p": 0.2},
        {"label": "ER", "heading": False, "n": 200, "n_events": 0},
    ]
)  # fmt: skip


def test_the_forest_has_a_log_axis_and_a_line_at_one() -> None:
    ax = figures.plot_forest(FOREST, ax=new_axes())
    assert ax.get_xscale() == "log"
    line = next(line for line in ax.lines if line.get_gid() == "no_effect")
    assert set(line.get_xdata()) == {1.0}


def test_the_forest_prints_n_events_and_the_interval_of_every_row() -> None:
    ax = figures.plot_forest(FOREST, ax=new_axes())
    assert texts(ax, "label") == ["Univariable", "Score, per SD", "Grade", "ER"]
    cells = texts(ax, "cell")
    assert cells[:4] == ["n", "events", "HR (95 % CI)", "p"]
    assert cells[4:8] == ["200", "60", "1.50 (1.20–1.90)", "< 0.001"]
    assert cells[12:] == ["200", "0", "not estimable", ""]


def test_a_long_heading_does_not_squeeze_the_axis() -> None:
    rows = FOREST.assign(label=["Multivariable, predicted from the image (8 events per term)", *FOREST["label"][1:]])
    widths = []
    for table in (FOREST, rows):
        ax = figures.plot_forest(table, ax=new_axes())
        ax.figure.draw_without_rendering()
        widths.append(ax.get_position().width)
    assert widths[1] == pytest.approx(widths[0], rel=0.02)


def test_an_interval_that_leaves_the_axis_ends_in_an_arrow() -> None:
    ax = figures.plot_forest(FOREST, ax=new_axes())
    assert ax.get_xlim()[1] == 10.0
    arrows = [line for line in ax.lines if line.get_gid() == "arrow"]
    assert [(line.get_marker(), line.get_ydata()[0]) for line in arrows] == [(">", 2.0)]


def test_ratio_over_time_shows_drift_average_periods_and_the_test(cohort: pd.DataFrame) -> None:
    time, event, x = cohort["time"], cohort["event"], cohort[["score"]]
    residuals, smooth = survival.compute_schoenfeld(time, event, x)
    periods = survival.estimate_ratio_by_period(time, event, cohort["score"], edges=[0, 24, 60, 140])
    test = survival.check_proportional_hazards(time, event, x)
    ax = figures.plot_ratio_over_time(smooth, periods, ax=new_axes(), test=test)
    figures.plot_ph_residuals(residuals, ax=ax)
    assert ax.get_yscale() == "log"
    assert sum(line.get_gid() == "period" for line in ax.lines) == 3
    assert texts(ax, "events") == [f"{n:.0f}" for n in periods["n_events"]]
    assert texts(ax, "facts")[0].startswith("proportional hazards: χ² = ")
    dots = next(line for line in ax.lines if line.get_gid() == "residuals")
    assert len(dots.get_xdata()) == event.sum()


def test_a_period_of_few_events_is_not_drawn(cohort: pd.DataFrame) -> None:
    time, event = cohort["time"], cohort["event"]
    _, smooth = survival.compute_schoenfeld(time, event, cohort[["score"]])
    periods = survival.estimate_ratio_by_period(time, event, cohort["score"], edges=[0, 24, 60, 140])
    periods.loc[2, "n_events"] = figures.FEWEST_EVENTS - 1
    ax = figures.plot_ratio_over_time(smooth, periods, ax=new_axes())
    assert len(texts(ax, "events")) == 2


def test_the_distribution_shows_the_cutoff_and_its_origin(cohort: pd.DataFrame) -> None:
    histogram = tabulate_distribution(cohort.assign(split="external"))
    assert histogram["count"].sum() == len(cohort)
    ax = figures.plot_score_distribution(
        histogram, ax=new_axes(), cutoff=0.25, cutoff_origin="median of 80 development cases", xlabel="score"
    )
    line = next(line for line in ax.lines if line.get_gid() == "cutoff")
    assert set(line.get_xdata()) == {0.25}
    assert texts(ax, "facts") == ["cut-off 0.25: median of 80 development cases"]


def test_incidence_draws_both_estimates_and_writes_their_last_values(cohort: pd.DataFrame) -> None:
    cause = np.where(cohort["event"], np.where(cohort["score"] > -0.5, 1, 2), 0)
    curve = estimate_cumulative_incidence(cohort["time"], cause)
    ax = figures.plot_incidence(curve, ax=new_axes(), endpoint="Recurrence", max_months=100)
    last = curve[curve["time"] <= 100].iloc[-1]
    written = {text.get_text() for text in ax.texts}
    assert written == {f"{last['incidence']:.3f}", f"{last['one_minus_km']:.3f}"}


def test_p_values_read_as_in_a_journal() -> None:
    assert [figures.format_p(p) for p in (0.0002, 0.0314, 0.314, float("nan"))] == [
        "p < 0.001", "p = 0.031", "p = 0.31", "p not available"
    ]  # fmt: skip


# --- the primary ratio from all sides -------------------------------------------------------------------------------


def test_the_spline_is_drawn_with_its_line_its_cases_and_its_test(cohort: pd.DataFrame) -> None:
    from helpers.stats.flexible import fit_spline

    curve, test = fit_spline(cohort["time"], cohort["event"], cohort["score"])
    ax = figures.plot_spline(curve, test, ax=new_axes(), scores=cohort["score"], cutoff=0.1, source="image", title="a")
    lines = {line.get_gid(): line for line in ax.lines if line.get_gid()}
    assert lines["spline"].get_ydata().tolist() == curve["hazard_ratio"].tolist()
    assert lines["straight"].get_ydata().tolist() == curve["straight"].tolist()
    inside = cohort["score"].between(curve["score"].min(), curve["score"].max())
    assert len(lines["rug"].get_xdata()) == inside.sum()
    assert lines["spline"].get_color() == PALETTES["source"]["image"]
    assert "curvature p" in texts(ax, "facts")[0]
    assert f"160 cases, {cohort['event'].sum()} events" in texts(ax, "facts")[0]
    assert ax.get_yscale() == "log"


def judged() -> dict[str, pd.DataFrame]:
    rows = [
        {"model": model, "group": g, "predicted": 0.1 * (g + 1), "observed": 0.1 * (g + 1), "ci_low": 0.05, "ci_high": 0.5, "n": 40, "n_events": 8}
        for model in ("clinical", "clinical + RNA") for g in range(4)
    ]  # fmt: skip
    decisions = pd.DataFrame(
        {
            "model": "clinical",
            "threshold": [0.1, 0.2, 0.3],
            "net_benefit": [0.2, 0.1, 0.05],
            "treat_all": [0.2, 0.05, -0.1],
        }
    )
    auc = pd.DataFrame({"model": "clinical + RNA", "time": [12.0, 24.0], "auc": [0.6, 0.65]})
    return {"calibration": pd.DataFrame(rows), "decisions": decisions, "auc": auc}


def test_calibration_decisions_and_auc_are_the_tables_own_numbers() -> None:
    tables = judged()
    ax = figures.plot_calibration(tables["calibration"], ax=new_axes(), horizon=60.0)
    assert ax.get_xlabel() == "Predicted probability at 5 years"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["clinical", "clinical + RNA"]
    assert "n 160" in texts(ax, "facts")[0], "cases of one model, not of both together"
    ax = figures.plot_decisions(tables["decisions"], ax=new_axes(), horizon=60.0)
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert drawn["clinical"] == [0.2, 0.1, 0.05]
    assert drawn["treat everybody"] == [0.2, 0.05, -0.1]
    ax = figures.plot_auc(tables["auc"], ax=new_axes())
    assert list(ax.lines[1].get_xdata()) == [1.0, 2.0], "years"
    assert ax.lines[1].get_color() == PALETTES["source"]["rna"]


def test_power_shows_its_interval_and_the_events_an_image_needs() -> None:
    from helpers.figures.style import new_figure

    power = pd.DataFrame(
        {
            "hazard_ratio": [1.3, 2.2],
            "image_ratio": [1.2, 1.7],
            "power": [0.3, 0.9],
            "ci_low": [0.2, 0.8],
            "ci_high": [0.4, 0.95],
            "formula": [0.31, 0.92],
            "mean_events": [90.0, 90.0],
        }
    )
    needs = pd.DataFrame(
        {"rna_ratio": [1.3, 1.3, 2.2, 2.2], "correlation": [1.0, 0.5, 1.0, 0.5], "n_events": [457, 1800, 51, 206]}
    )
    _, axes = new_figure(width_mm=150, height_mm=60, columns=2)
    figures.plot_power(power, needs, axes=axes)
    assert {text.get_text() for text in axes[0].texts} >= {"RNA 1.3", "RNA 2.2"}
    curves = [list(line.get_ydata()) for line in axes[1].lines]
    assert curves == [[457, 1800], [51, 206]]
    assert axes[1].get_xlim()[0] > axes[1].get_xlim()[1], "the correlation falls to the right"


def test_a_forest_row_without_counts_leaves_their_cells_empty() -> None:
    rows = pd.DataFrame(
        [
            {
                "label": "a new site",
                "heading": False,
                "hazard_ratio": 1.5,
                "ci_low": 0.9,
                "ci_high": 2.4,
                "p": np.nan,
                "n": np.nan,
                "n_events": np.nan,
            }
        ]
    )
    ax = figures.plot_forest(rows, ax=new_axes())
    assert "nan" not in "".join(texts(ax, "cell"))


def test_a_missing_number_at_risk_is_a_dash_and_a_missing_interval_says_so(cohort: pd.DataFrame) -> None:
    time, event = cohort["time"], cohort["event"]
    at_risk = survival.count_at_risk(time, event, at=[0, 48, 96]).astype({"n_at_risk": "Int64"})
    at_risk.loc[2, "n_at_risk"] = pd.NA
    ax = figures.plot_km(survival.fit_km(time, event), at_risk, ax=new_axes())
    assert texts(ax, "at_risk")[-1] == "–"
    assert figures.format_ratio({"hazard_ratio": 1.2, "ci_low": np.nan, "ci_high": np.nan}) == "1.20 (no interval)"


def test_panels_have_letters_where_there_is_more_than_one() -> None:
    from helpers.figures.style import letter_panels

    assert letter_panels(2) == ["a  ", "b  "]
    assert letter_panels(1) == [""]
