"""Published numbers as a table: what the chapters and the scoreboard stand their own results beside."""

from typing import Any

import pandas as pd

from helpers.core.errors import SchemaError
from helpers.core.paths import data_dir, read_yaml

TAGS = ("V", "G", "A", "2nd")
PUBLISHED_COLUMNS = (
    "id", "scoreboard", "quantity", "scale", "horizon_months", "value", "ci_low", "ci_high", "n", "n_events", "cohort",
    "profile", "tag", "endpoint_tag", "kind", "cite", "doi", "partition_low", "partition_high", "source",
)  # fmt: skip


def read_published(*, profile: str | None = None, chapter: str | None = None) -> pd.DataFrame:
    """Read `data/published.yaml`.

    Parameters
    ----------
    profile : str, optional
        Keep the numbers of this profile and those of other cohorts; all profiles' otherwise.
    chapter : str, optional
        '03': keep numbers that stand beside rows of this chapter.

    Returns
    -------
    DataFrame
        One row per number, columns `PUBLISHED_COLUMNS`. `scoreboard` is the id of the row it stands beside, `tag`
        says how it is known (V verified, G same group, A assumed, 2nd second-hand).

    Raises
    ------
    SchemaError
        When a number has no value, an unknown tag or source, or an unknown field.
    """
    content = read_yaml(data_dir() / "published.yaml")
    for number in content["numbers"]:
        _check_number(number, content["sources"])
    rows = [{**number, **_cite(content["sources"][number["source"]])} for number in content["numbers"]]
    table = pd.DataFrame(rows).reindex(columns=list(PUBLISHED_COLUMNS))
    if profile is not None:
        table = table[table["profile"].isna() | (table["profile"] == profile)]
    if chapter is not None:
        table = table[table["scoreboard"].fillna("").str.startswith(f"{chapter}/")]
    return table.reset_index(drop=True)


def _cite(source: dict[str, Any]) -> dict[str, Any]:
    return {"cite": source["cite"], "doi": source["doi"]}


def _check_number(number: dict[str, Any], sources: dict[str, Any]) -> None:
    unknown = sorted(set(number) - set(PUBLISHED_COLUMNS))
    problems = [f"unknown fields {', '.join(unknown)}"] if unknown else []
    if not isinstance(number.get("value"), int | float):
        problems.append(f"value {number.get('value')!r}, expected a number")
    if number.get("tag") not in TAGS:
        problems.append(f"tag {number.get('tag')!r}, expected one of {', '.join(TAGS)}")
    if number.get("source") not in sources:
        problems.append(f"source {number.get('source')!r}, expected one of {', '.join(sources)}")
    if problems:
        msg = f"SchemaError: published number '{number.get('id')}' has {'; '.join(problems)}. Correct published.yaml."
        raise SchemaError(msg)
