"""The scoreboard of a profile: every quantity that a chapter announced, beside what it is compared with.

Each chapter writes its rows to `scores.json`; here they are put together, and nothing is added or recomputed.
"""

from pathlib import Path

import pandas as pd

from helpers.core import paths, provenance
from helpers.core.errors import RunError

COLUMNS = (
    "id", "chapter", "quantity", "value", "ci_low", "ci_high", "n", "n_events", "reference", "reference_low",
    "reference_high", "source", "kind", "holds",
)  # fmt: skip
NUMBERS = ("value", "ci_low", "ci_high", "n", "n_events", "reference", "reference_low", "reference_high")


def collect_scores(profile_dir: str | Path) -> pd.DataFrame:
    """Put the rows of all finished chapters of a profile together.

    Named and interactive runs (`03@lr3`) are left out, and so are chapters whose last run did not finish.

    Parameters
    ----------
    profile_dir : str or Path
        `results/<profile>`.

    Returns
    -------
    DataFrame, one row per quantity, in the order of chapters
        Columns `COLUMNS`; `holds` is True, False or None (nothing to hold).

    Raises
    ------
    RunError
        When no chapter finished, when two rows have the same id, or when a row is filed under another chapter.
    """
    rows: list[dict[str, object]] = []
    folders = sorted(folder for folder in paths.resolve(profile_dir).glob("[0-9A]*_*") if "@" not in folder.name)
    finished = [folder for folder in folders if (provenance.read_run(folder) or {}).get("status") == "finished"]
    if not finished:
        msg = (
            f"RunError: no chapter of '{paths.shorten(paths.resolve(profile_dir))}' has finished, so there is nothing "
            f"to put on a scoreboard. Run the book first: make book PROFILE={Path(profile_dir).name}"
        )
        raise RunError(msg)
    for folder in finished:
        if (folder / "scores.json").is_file():
            rows += paths.read_json(folder / "scores.json")
    kinds = dict.fromkeys(NUMBERS, float) | {"holds": object}  # None becomes NaN, also in a column of nothing else
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)
    _check_ids(table)
    return table


def _check_ids(table: pd.DataFrame) -> None:
    twice = table.loc[table["id"].duplicated(), "id"].tolist()
    strays = table.loc[table["id"].str.split("/").str[0] != table["chapter"], "id"].tolist()
    if twice or strays:
        msg = (
            f"RunError: scoreboard ids {twice[:5]} occur twice, ids {strays[:5]} do not begin with their chapter's "
            "number. Expected one row per 'chapter/quantity/target-or-arm/split'. Mend the run.score(…) calls."
        )
        raise RunError(msg)


def write_scoreboard(profile_dir: str | Path) -> Path:
    """Write `scoreboard.json` of a profile.

    Parameters
    ----------
    profile_dir : str or Path

    Returns
    -------
    Path
    """
    table = collect_scores(profile_dir)
    whole = table[["n", "n_events"]].astype("Int64").astype(object)
    table = table.assign(**whole.where(whole.notna(), None))
    rows = [{name: provenance.to_plain(value) for name, value in row.items()} for row in table.to_dict("records")]
    return paths.write_json(rows, paths.resolve(profile_dir) / "scoreboard.json")


def summarise_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Count, per kind of comparison, the rows that hold, that do not, and that say nothing.

    Parameters
    ----------
    table : DataFrame
        From `collect_scores`.

    Returns
    -------
    DataFrame, one row per kind
        kind, rows, hold, fail, open.
    """
    verdict = table["holds"].map({True: "hold", False: "fail"}).fillna("open")
    counts = pd.crosstab(table["kind"], verdict).reindex(columns=["hold", "fail", "open"], fill_value=0)
    counts.insert(0, "rows", counts.sum(axis=1))
    return counts.rename_axis(index="kind", columns=None).reset_index()


def find_axis(table: pd.DataFrame) -> pd.Series:
    """Say which axis each row can be drawn on.

    Parameters
    ----------
    table : DataFrame
        From `collect_scores`.

    Returns
    -------
    Series of str
        'ratio' (hazard ratios: log axis, line at 1), 'bounded' (value, interval and reference lie in -1 … 1), else
        'other' (counts, months, seconds: no common axis).
    """
    ratio = table["id"].str.split("/").str[1].str.startswith("hazard_ratio")
    drawn = table[["value", "ci_low", "ci_high", "reference", "reference_low", "reference_high"]]
    bounded = (drawn.abs() <= 1.0).where(drawn.notna(), True).all(axis=1)
    return ratio.map({True: "ratio", False: ""}).where(ratio, bounded.map({True: "bounded", False: "other"}))
