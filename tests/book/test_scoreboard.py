"""The board holds what the chapters announced: all of it, once, and nothing of runs beside the book."""

import pytest

from helpers.book.scoreboard import COLUMNS, collect_scores, find_axis, summarise_scores, write_scoreboard
from helpers.core import paths, provenance
from helpers.core.errors import RunError
from helpers.core.specs import Spec


class Three(Spec):
    chapter = "03_example"


class Four(Spec):
    chapter = "04_example"


def run_chapter(spec, profile, rows, *, name="book", finish=True):
    run = provenance.start(spec, profile, run_name=name)
    for row in rows:
        run.score(**{"quantity": "spearman", "kind": "planted", "value": 0.5, "source": "us", **row})
    if finish:
        run.finish()


def test_rows_of_finished_book_chapters_come_in_chapter_order(tmp_path):
    run_chapter(Four(), tmp_path, [{"id": "04/hazard_ratio/x/rfs", "holds": False, "kind": "published"}])
    run_chapter(Three(), tmp_path, [{"id": "03/spearman/x/oof", "holds": True}, {"id": "03/spearman/x/external"}])
    run_chapter(Three(), tmp_path, [{"id": "03/spearman/other/oof"}], name="lr3")
    table = collect_scores(tmp_path)
    assert table["id"].tolist() == ["03/spearman/x/oof", "03/spearman/x/external", "04/hazard_ratio/x/rfs"]
    assert tuple(table.columns) == COLUMNS
    summary = summarise_scores(table).set_index("kind")
    assert summary.loc["planted"].tolist() == [2, 1, 0, 1]
    assert summary.loc["published"].tolist() == [1, 0, 1, 0]


def test_the_file_holds_the_same_rows_with_null_for_what_is_not_known(tmp_path):
    run_chapter(Three(), tmp_path, [{"id": "03/spearman/x/oof", "n": 12}])
    rows = paths.read_json(write_scoreboard(tmp_path))
    assert rows[0]["n"] == 12
    assert isinstance(rows[0]["n"], int)
    assert rows[0]["n_events"] is None
    assert rows[0]["ci_low"] is None
    assert rows[0]["holds"] is None


def test_what_no_row_states_is_a_missing_number_and_never_none(tmp_path):
    run_chapter(Three(), tmp_path, [{"id": "03/spearman/x/oof"}])
    assert collect_scores(tmp_path)[["ci_low", "reference", "n"]].dtypes.tolist() == [float, float, float]


def test_a_chapter_that_did_not_finish_is_absent(tmp_path):
    run_chapter(Three(), tmp_path, [{"id": "03/spearman/x/oof"}])
    run_chapter(Four(), tmp_path, [{"id": "04/hazard_ratio/x/rfs"}])
    provenance.start(Four(), tmp_path, run_name="book")
    assert collect_scores(tmp_path)["chapter"].unique().tolist() == ["03"]


def test_no_finished_chapter_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(RunError, match="no chapter of .* has finished.*make book PROFILE="):
        collect_scores(tmp_path)


def test_an_id_that_occurs_twice_or_under_a_wrong_chapter_is_refused(tmp_path):
    run_chapter(Three(), tmp_path, [{"id": "03/spearman/x/oof"}, {"id": "03/spearman/x/oof"}])
    with pytest.raises(RunError, match=r"ids \['03/spearman/x/oof'\] occur twice"):
        collect_scores(tmp_path)
    run_chapter(Three(), tmp_path, [{"id": "04/spearman/x/oof"}])
    with pytest.raises(RunError, match=r"ids \['04/spearman/x/oof'\] do not begin"):
        collect_scores(tmp_path)


def test_hazard_ratios_bounded_measures_and_the_rest_are_drawn_on_axes_of_their_own(tmp_path):
    rows = [
        {"id": "03/spearman/x/oof", "value": -0.2, "reference": 0.5},
        {"id": "03/hazard_ratio/x/rfs", "value": 0.9},
        {"id": "03/seconds/x/all", "value": 12.0},
        {"id": "03/share/x/all", "value": 0.5, "reference_high": 3.0},
    ]
    run_chapter(Three(), tmp_path, rows)
    assert find_axis(collect_scores(tmp_path)).tolist() == ["bounded", "ratio", "other", "other"]
