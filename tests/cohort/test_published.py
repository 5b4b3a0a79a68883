"""Published numbers as data."""

import re

import pytest

from helpers.cohort import published
from helpers.cohort.published import PUBLISHED_COLUMNS, read_published
from helpers.core.errors import SchemaError


def test_the_backbone_paper_is_there_as_printed():
    table = read_published().set_index("id")
    row = table.loc["ekholm2024/hazard_ratio/prolif11_image/rfs"]
    assert (row["value"], row["ci_low"], row["ci_high"], row["n"]) == (1.65, 1.05, 2.61, 997)
    assert row["doi"] == "10.1186/s12885-024-13248-9"
    assert row["endpoint_tag"] == "A", "the endpoint is our reading of the paper"
    spearman = table.loc[[i for i in table.index if i.startswith("ekholm2024/spearman")], "value"]
    assert sorted(spearman) == [0.403, 0.502, 0.564, 0.691]


def test_every_number_has_a_source_a_tag_and_a_unique_id():
    table = read_published()
    assert table["id"].is_unique
    assert table[["value", "tag", "kind", "cite"]].notna().all().all()
    outside = table[table["kind"] == "published"]
    assert outside["doi"].str.match(r"10\.\d{4,}/").all()


def test_published_intervals_contain_their_value():
    table = read_published().dropna(subset=["ci_low", "ci_high"])
    assert (table["ci_low"] < table["value"]).all()
    assert (table["value"] < table["ci_high"]).all()


def test_scoreboard_ids_have_the_form_of_the_design():
    ids = read_published()["scoreboard"].dropna()
    assert all(re.fullmatch(r"0\d/[a-z0-9_]+/[A-Za-z0-9_]+/[a-z_]+", name) for name in ids)


def test_a_profile_sees_its_own_numbers_and_those_of_other_cohorts():
    phantom, metabric = read_published(profile="phantom"), read_published(profile="metabric", chapter="04")
    assert phantom["profile"].isna().all()
    assert set(metabric["profile"].dropna()) == {"metabric"}
    assert metabric["scoreboard"].str.startswith("04/").all()


def test_a_wrong_entry_is_named(monkeypatch):
    wrong = {"numbers": [{"id": "x", "value": "high", "tag": "?", "source": "s", "colour": 1}], "sources": {}}
    monkeypatch.setattr(published, "read_yaml", lambda path: wrong)
    with pytest.raises(SchemaError) as caught:
        read_published()
    assert str(caught.value) == (
        "SchemaError: published number 'x' has unknown fields colour; value 'high', expected a number; tag '?', "
        "expected one of V, G, A, 2nd; source 's', expected one of . Correct published.yaml."
    )


def test_the_columns_are_always_the_same():
    assert tuple(read_published(chapter="99").columns) == PUBLISHED_COLUMNS
