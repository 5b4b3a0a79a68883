"""One bad slide costs one slide; a full disk costs nothing that is finished."""

import errno

import pandas as pd
import pytest

from helpers.core.errors import RunError, SlideError
from helpers.core.ledger import merge_ledgers, run_batch


def work(slide_id: str) -> tuple[str, str]:
    if slide_id == "S-2":
        raise SlideError("SlideError: slide 'S-2' is truncated.")
    if slide_id == "S-3":
        raise KeyError("mpp")
    return ("reused" if slide_id == "S-4" else "ok"), f"key-{slide_id}"


def test_every_slide_gets_one_row_with_its_reason_in_the_order_given(tmp_path):
    ids = ["S-4", "S-1", "S-2", "S-3"]
    table = run_batch(ids, work, stage="tile", path=tmp_path / "ledger.parquet", max_failed=2)
    assert table["slide_id"].tolist() == ids
    assert table["status"].tolist() == ["reused", "ok", "failed", "failed"]
    assert table["reason"].tolist() == ["", "", "SlideError: slide 'S-2' is truncated.", "KeyError: 'mpp'"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "ledger.parquet"), table)
    assert not (tmp_path / "ledger.jsonl").exists(), "the journal is gone once the ledger stands"


def test_too_many_failures_stop_after_everything_was_tried(tmp_path):
    with pytest.raises(RunError) as error:
        run_batch(["S-2", "S-3", "S-1"], work, stage="tile", path=tmp_path / "ledger.parquet", max_failed=1)
    text = str(error.value)
    assert "2 of 3 slides failed, max_failed is 1" in text
    assert "S-2: SlideError: slide 'S-2' is truncated." in text
    assert "raise max_failed" in text
    assert pd.read_parquet(tmp_path / "ledger.parquet")["status"].tolist() == ["failed", "failed", "ok"]


def test_a_full_disk_stops_the_batch_and_says_what_to_do(tmp_path):
    def full(slide_id: str) -> tuple[str, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="stopped at slide 'S-1'.*free some space"):
        run_batch(["S-1"], full, stage="tile", path=tmp_path / "ledger.parquet")
    assert not (tmp_path / "ledger.parquet").exists()


def test_shards_merge_and_a_slide_in_two_shards_is_refused(tmp_path):
    one = run_batch(["S-1"], work, stage="tile", path=tmp_path / "1.parquet")
    two = run_batch(["S-4"], work, stage="tile", path=tmp_path / "2.parquet")
    assert merge_ledgers([two, one])["slide_id"].tolist() == ["S-1", "S-4"]
    with pytest.raises(RunError, match="several shards"):
        merge_ledgers([one, one])


def test_a_remark_on_a_slide_that_went_well_is_its_reason(tmp_path):
    table = run_batch(
        ["a", "b"],
        lambda slide_id: ("ok", "k", "read slowly" if slide_id == "b" else ""),
        stage="s",
        path=tmp_path / "l.parquet",
    )
    assert table.set_index("slide_id")["reason"].to_dict() == {"a": "", "b": "read slowly"}
