"""Specs refuse what they do not know, and their key ignores where things lie."""

from typing import Optional

import pytest
from pydantic import Field

from helpers.core.errors import SpecError
from helpers.core.specs import AnalysisPlan, PathStr, Spec


class Example(Spec):
    tile_px: int = Field(256, ge=16)
    fallback_mpp: Optional[float] = None
    table: Optional[PathStr] = None
    tables: list[PathStr] = Field(default_factory=list)


def test_a_spec_takes_its_own_names_out_of_a_namespace_and_nothing_else():
    spec = Example.from_namespace({"tile_px": 224, "table": None, "pd": object(), "workers": 2})
    assert spec.tile_px == 224


def test_every_problem_is_listed_with_what_was_found():
    with pytest.raises(SpecError) as error:
        Example.from_values({"tile_px": 8, "fallback_mpp": "half", "tilepx": 3})
    text = str(error.value)
    assert "3 parameters do not fit Example" in text
    assert "tile_px: Input should be greater than or equal to 16, found 8" in text
    assert "found 'half'" in text
    assert "tilepx: Extra inputs are not permitted" in text


def test_the_key_ignores_where_a_file_lies_and_the_inputs_name_it():
    here, there = Example(table="data/a.csv"), Example(table="data/b.csv", tables=["data/c.csv"])
    assert here.key_fields() == there.key_fields() == {"tile_px": 256, "fallback_mpp": None}
    assert sorted(there.list_inputs()) == ["table[0]", "tables[0]"]
    assert Example().list_inputs() == {}


def test_a_spec_cannot_be_changed_after_it_was_made():
    with pytest.raises(ValueError, match="frozen"):
        Example().tile_px = 512


def test_the_plan_knows_its_endpoints():
    with pytest.raises(SpecError, match="primary_endpoint"):
        AnalysisPlan.from_values({"primary_endpoint": "survival"})
