"""What the figures of chapter 00 show: artists and labels."""

import pandas as pd
import pytest

from helpers.cohort.flow import CohortFlow
from helpers.figures import cohort as figures
from helpers.figures.style import new_axes


@pytest.fixture
def flow() -> CohortFlow:
    flow = CohortFlow("patients listed", [f"P{i:02d}" for i in range(20)])
    flow.keep("RNA measured", {"P00": "no RNA", "P01": "no RNA", "P02": "cut file"})
    flow.keep("female", {})
    flow.keep("a reason each", {f"P{i:02d}": f"reason {i}" for i in range(3, 9)})
    return flow


def test_the_flow_has_a_box_per_step_and_one_per_loss(flow):
    ax = figures.plot_flow(flow.to_table(), ax=new_axes())
    gids = [patch.get_gid() for patch in ax.patches]
    assert gids.count("kept") == 4
    assert gids.count("lost") == 2, "a step that nobody left has no side box"


def test_the_flow_says_who_is_left_and_why_others_are_not(flow):
    ax = figures.plot_flow(flow.to_table(), ax=new_axes())
    texts = [text.get_text() for text in ax.texts]
    assert "Patients listed\n20 cases" in texts
    assert "2 left: no RNA\n1 left: cut file" in texts
    assert "A reason each\n11 cases" in texts
    assert any(text.endswith("2 left for 2 more reasons") for text in texts)


def test_outcome_bars_add_up_to_the_cohort():
    counts = pd.DataFrame({"endpoint": ["os", "pfi"], "n_events": [3, 5], "n_censored": [6, 2], "n_unknown": [1, 3]})
    ax = figures.plot_outcome_counts(counts, ax=new_axes())
    widths = [bar.get_width() for bar in ax.patches]
    assert sum(widths) == 20
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Overall survival", "Progression-free interval"]


def test_observation_curves_are_in_years():
    counts = pd.DataFrame({"endpoint": "os", "time_months": [0.0, 12.0, 24.0], "n_at_risk": [5, 3, 0]})
    ax = figures.plot_under_observation(counts, ax=new_axes())
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 2]
    assert ax.get_xlabel() == "Follow-up, years"


def test_endpoints_whose_curves_coincide_share_a_line_that_names_both():
    counts = pd.DataFrame(
        {
            "endpoint": ["os"] * 2 + ["dss"] * 2 + ["pfi"] * 2,
            "time_months": [0.0, 12.0] * 3,
            "n_at_risk": [5, 3, 5, 3, 5, 2],
        }
    )
    ax = figures.plot_under_observation(counts, ax=new_axes())
    assert [line.get_label() for line in ax.lines] == [
        "Overall survival\nDisease-specific survival", "Progression-free interval",
    ]  # fmt: skip


def test_folds_come_in_order_and_external_last():
    counts = pd.DataFrame(
        {
            "part": ["external", "fold 10", "fold 2", "internal test"],
            "site": ["X", "A", "B", "A"],
            "n_cases": [5, 3, 4, 2],
        }
    )
    ax = figures.plot_folds(counts, ax=new_axes())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Fold 2", "Fold 10", "Internal test", "External"]
    assert [text.get_text() for text in ax.texts][-4:] == [" 4", " 3", " 2", " 5"]
