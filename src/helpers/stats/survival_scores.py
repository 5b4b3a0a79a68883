"""From predictions or expression to one score per case, and from results to the scoreboard's rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.cohort.genes import ScoreMethod, list_needed_genes, read_signature, score_signature, widen_expression
from helpers.cohort.summary import name_splits
from helpers.cohort.tables import read_expression, read_table
from helpers.core import paths, provenance
from helpers.core.errors import DuplicateError, SchemaError, StatsError
from helpers.core.provenance import Run
from helpers.core.specs import SurvivalSpec
from helpers.stats.survival_plan import SCALE_LABELS, SCORE_COLUMNS
from helpers.stats.survival_truth import PlantedTruth, compare_with_truth

IMAGE_AND_RNA: Final = ("image", "rna")
REPRODUCED: Final = 0.005
"""A baseline on the same files is reproduced when the hazard ratios differ by no more than this."""
REPRODUCED_NEARLY: Final = 0.02
"""The same, relative, where more than 1 in 1,000 cases differ, such as those at time 0 that a baseline left out."""


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a run, and where they come from.

    Parameters
    ----------
    table : DataFrame
        Columns `SCORE_COLUMNS`, one row per case, target and way of measuring.
    measured : tuple of str
        What the plan is about first: ('image', 'rna'), or ('rna',) where there is no image.
    cutoffs : dict of str to float
        Cut-offs of the image score that chapter 03 locked, by target; empty for another arm than it declares.
    origin : str
        Words for the page.
    partitions : dict of int to DataFrame
        The same table for every repeated partition into folds; the first of them is `table`.
    """

    table: pd.DataFrame
    measured: tuple[str, ...]
    cutoffs: dict[str, float]
    origin: str
    partitions: dict[int, pd.DataFrame]


def load_scores(spec: SurvivalSpec, run: Run, cases: pd.DataFrame) -> ScoreTable:
    """Read the scores that a spec asks for: of chapter 03, of a table from elsewhere, or from expression alone.

    Parameters
    ----------
    spec : SurvivalSpec
    run : Run
        Records what is read.
    cases : DataFrame
        Of chapter 00.

    Returns
    -------
    ScoreTable
    """
    if spec.score_source == "expression":
        return _load_expression(spec, run, cases)
    arm, cutoffs = spec.prediction_arm, {}
    if spec.predictions_path is None:
        folder = run.upstream("03")
        path = folder / "predictions.parquet"
        declared = (provenance.read_run(folder) or {})["spec"]["arm"]
        arm = arm or declared
        if arm == declared:  # another arm has another scale: its cut-off is fitted here
            cutoffs = paths.read_json(run.read_input(folder / "thresholds.json"))
    else:
        path = paths.resolve(spec.predictions_path)
    predictions = read_table(run.read_input(path))
    for case_id in sorted(set(predictions["case_id"]) - set(cases["case_id"])):
        run.lose(case_id, "predicted, but not in the case table")
    known = predictions[predictions["case_id"].isin(cases["case_id"])]
    ours = known[known["arm"] == arm] if "arm" in known and arm in set(known["arm"]) else known
    repeats = sorted(_read_numbers(ours["repeat"]).dropna().unique()) if "repeat" in ours else [0]
    partitions = {
        int(repeat): collect_prediction_scores(known, targets=spec.targets, arm=arm, repeat=repeat)
        for repeat in repeats
    }
    table = partitions[min(partitions)]
    measured = tuple(name for name in IMAGE_AND_RNA if (table["measured"] == name).any())
    origin = f"{paths.shorten(path)}, arm {arm or 'not named'}, partition {min(partitions)} of {len(partitions)}"
    return ScoreTable(table, measured, cutoffs, origin, partitions)


def _load_expression(spec: SurvivalSpec, run: Run, cases: pd.DataFrame) -> ScoreTable:
    folder = run.upstream("00")
    splits_path = folder / "splits.csv"
    found = splits_path.is_file()
    splits = pd.read_csv(run.read_input(splits_path), dtype={"case_id": str}) if found else None
    roles = name_splits(cases, splits).set_axis(cases["case_id"])
    expression = read_expression(run.read_input(folder / "cohort" / "expression.parquet"))
    scores = score_expression(expression, splits=roles, targets=spec.targets, method=spec.score_method)
    return ScoreTable(
        scores, ("rna",), {}, f"expression of chapter 00, {spec.score_method}; no image score", {0: scores}
    )


def collect_prediction_scores(
    predictions: pd.DataFrame, *, targets: Sequence[str], arm: str | None = None, repeat: int = 0
) -> pd.DataFrame:
    """Turn a table of predictions into one image score and one RNA score per case and target.

    One partition into folds is taken, since averaging over many would be a bigger ensemble than the declared one; a
    development case that was predicted by a model that saw it is refused.

    Parameters
    ----------
    predictions : DataFrame
        case_id, target, y_pred; optional split ('development' without it), repeat, fold (−1 marks an ensemble), arm,
        y_true.
    targets : sequence of str
    arm : str, optional
        Needed where the table holds several.
    repeat : int
        Partition taken.

    Returns
    -------
    DataFrame
        Columns `SCORE_COLUMNS`; `measured` is 'image' (y_pred) and 'rna' (y_true, where stated).

    Raises
    ------
    SchemaError
        When a column, the arm, the partition or a target is missing.
    DuplicateError
        When a case has two predictions in one partition.
    StatsError
        When a development case has a prediction of a model trained on it.
    """
    table = _pick_arm(_check_columns(predictions), arm)
    table = table[table["repeat"] == repeat]
    absent = sorted(set(targets) - set(table["target"]))
    if absent:
        found = ", ".join(sorted(set(table["target"]))) or "nothing"
        msg = (
            f"SchemaError: partition {repeat} of the predictions holds no target {', '.join(absent)}; found {found}. "
            "Correct `targets`."
        )
        raise SchemaError(msg)
    table = table[table["target"].isin(list(targets))]
    _check_out_of_fold(table)
    _check_once(table)
    long = table.rename(columns={"y_pred": "image", "y_true": "rna"})
    long = long.melt(["case_id", "split", "target"], ["image", "rna"], var_name="measured", value_name="score")
    return long.dropna(subset=["score"])[list(SCORE_COLUMNS)].reset_index(drop=True)


def _check_columns(predictions: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in ("case_id", "target", "y_pred") if name not in predictions]
    if missing:
        msg = (
            f"SchemaError: table 'predictions' lacks {', '.join(missing)}; found {', '.join(predictions.columns)}. "
            "Expected one row per case and target: case_id, target, y_pred, and split, fold, arm, y_true where known."
        )
        raise SchemaError(msg)
    defaults = {"split": "development", "repeat": 0, "fold": 0, "arm": "", "y_true": np.nan}
    table = predictions.assign(**{name: value for name, value in defaults.items() if name not in predictions})
    for name in ("repeat", "fold", "y_pred", "y_true"):
        table[name] = _read_numbers(table[name])
    return table


def _read_numbers(column: pd.Series) -> pd.Series:
    """Read a column of a text table as numbers; empty cells are missing, words are an error."""
    numbers = pd.to_numeric(column, errors="coerce")
    words = column[numbers.isna() & column.notna()]
    if len(words):
        msg = (
            f"SchemaError: column '{column.name}' of the predictions holds '{words.iloc[0]}' ({len(words)} such "
            "cells), expected numbers. Correct or empty the cells."
        )
        raise SchemaError(msg)
    return numbers


def _pick_arm(table: pd.DataFrame, arm: str | None) -> pd.DataFrame:
    arms = sorted(table["arm"].unique())
    if (arm is None and len(arms) > 1) or (arm is not None and arm not in arms):
        msg = (
            f"SchemaError: predictions hold the arms {', '.join(arms)}, asked for {arm!r}. Set `prediction_arm` to one."
        )
        raise SchemaError(msg)
    return table if arm is None else table[table["arm"] == arm]


def _check_out_of_fold(table: pd.DataFrame) -> None:
    seen = table[(table["split"] == "development") & (table["fold"] < 0)]
    if len(seen):
        msg = (
            f"StatsError: {seen['case_id'].nunique()} development cases, first '{seen['case_id'].iloc[0]}', carry "
            "predictions of a model that was trained on them (fold −1). A hazard ratio from these would be flattered; "
            "give their out-of-fold predictions."
        )
        raise StatsError(msg)


def _check_once(table: pd.DataFrame) -> None:
    twice = table[table.duplicated(["case_id", "target"])]
    if len(twice):
        msg = (
            f"DuplicateError: case '{twice['case_id'].iloc[0]}' has more than one prediction of "
            f"{twice['target'].iloc[0]} in one partition ({len(twice)} such rows). Keep one per case, or number the "
            "partitions in a column `repeat`."
        )
        raise DuplicateError(msg)


def score_expression(
    expression: pd.DataFrame, *, splits: pd.Series, targets: Sequence[str], method: ScoreMethod = "mean_log2"
) -> pd.DataFrame:
    """Score signatures or single genes from the expression table, for a cohort without slides.

    Parameters
    ----------
    expression : DataFrame
        Of `read_expression`: case_id, gene, value, unit.
    splits : Series of str, index case_id
        development, internal_test or external; constants are fitted on development.
    targets : sequence of str
        Names of signatures, such as 'prolif11' and 'MKI67'.
    method : {'mean_log2', 'mean_zscore', 'pam50'}
        A single gene is its log2 value, whatever the method.

    Returns
    -------
    DataFrame
        Columns `SCORE_COLUMNS`; `measured` is 'rna'.
    """
    wide = widen_expression(expression, genes=list_needed_genes(targets, methods=[method]))
    wide = wide.loc[[case_id for case_id in wide.index if case_id in splits.index]]
    training = [case_id for case_id in wide.index if splits[case_id] == "development"]
    parts = []
    for target in targets:
        how: ScoreMethod = method if len(read_signature(target)) > 1 else "mean_log2"
        score = score_signature(wide, genes=target, method=how, training_cases=training)
        parts.append(pd.DataFrame({"case_id": wide.index, "target": target, "score": score.to_numpy()}))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(split=table["case_id"].map(splits), measured="rna")[list(SCORE_COLUMNS)]


def tabulate_distribution(scores: pd.DataFrame, *, bins: int | None = None) -> pd.DataFrame:
    """Count scores in equal bins, for a histogram.

    Parameters
    ----------
    scores : DataFrame
        With `score` and `split`; one target, one way of measuring.
    bins : int, optional
        Default: 8 to 30, with the square root of the number of cases.

    Returns
    -------
    DataFrame
        split, left, right, count; the bins are common to all splits.
    """
    bins = bins or int(np.clip(1.3 * np.sqrt(len(scores)), 8, 30))
    edges = np.histogram_bin_edges(scores["score"], bins=bins)
    parts = []
    for split, rows in scores.groupby("split", sort=True, observed=True):
        counts = np.histogram(rows["score"], bins=edges)[0]
        parts.append(pd.DataFrame({"split": split, "left": edges[:-1], "right": edges[1:], "count": counts}))
    return pd.concat(parts, ignore_index=True)


def correlate_measurements(scores: pd.DataFrame, *, target: str, case_ids: Sequence[str]) -> float:
    """Return Spearman's correlation of the image score with the RNA-measured one.

    Parameters
    ----------
    scores : DataFrame
        Columns `SCORE_COLUMNS`.
    target : str
    case_ids : sequence of str

    Returns
    -------
    float
        NaN where fewer than 3 cases have both.
    """
    from scipy.stats import spearmanr

    mine = scores[(scores["target"] == target) & scores["case_id"].isin(list(case_ids))]
    wide = mine.pivot_table(index="case_id", columns="measured", values="score").dropna()
    return float(spearmanr(wide["image"], wide["rna"]).statistic) if len(wide) > 2 and wide.shape[1] == 2 else np.nan


def build_score_rows(
    results: pd.DataFrame,
    *,
    published: pd.DataFrame,
    truth: PlantedTruth | None = None,
    cases: pd.DataFrame | None = None,
    scores: pd.DataFrame | None = None,
) -> list[dict[str, Any]]:
    """Turn declared hazard ratios into scoreboard rows, each beside the number it must answer to.

    A planted cohort answers to the Monte-Carlo truth of the same estimand; any other to the baseline on the same
    files, or to the published number of another cohort. Without any of these the row stands alone.

    Parameters
    ----------
    results : DataFrame
        From `estimate_analyses`, in the order of the plan: the first analysis of a target, way of measuring,
        population and endpoint has the plain id, a further one names what differs.
    published : DataFrame
        From `read_published(profile=…, chapter='04')`.
    truth : PlantedTruth, optional
        Of a phantom cohort; `cases` and `scores` come with it.
    cases, scores : DataFrame, optional
        What the results were estimated from.

    Returns
    -------
    list of dict
        Arguments of `run.score`.
    """
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    for result in results[results["hazard_ratio"].notna()].to_dict("records"):
        row = {name: result[name] for name in ("ci_low", "ci_high", "n", "n_events")}
        row |= {"id": _name_row(result, taken), "quantity": _describe_quantity(result), "value": result["hazard_ratio"]}
        taken.add(row["id"])
        if truth is not None and cases is not None and scores is not None:
            row |= compare_with_truth(result, truth, cases=cases, scores=scores)
        else:
            row |= _compare_with_published(row, result, published)
        rows.append(row)
    return rows


def _name_row(result: dict[str, Any], taken: set[str]) -> str:
    population = "" if result["population"] == "all" else f"_{result['population']}"
    arm, end = f"{result['target']}_{result['measured']}{population}", result["endpoint"]
    plain = f"04/hazard_ratio/{arm}/{end}"
    if plain not in taken:
        return plain
    until = "" if pd.isna(result["horizon_months"]) else f"_{result['horizon_months']:g}m"
    adjusted = "" if result["adjustment"] == "none" else f"_{result['adjustment']}"
    return f"04/hazard_ratio/{arm}_{result['scale']}{adjusted}{until}/{end}"


def _describe_quantity(result: dict[str, Any]) -> str:
    words = SCALE_LABELS[result["scale"]]
    until = "" if pd.isna(result["horizon_months"]) else f", {result['horizon_months']:g} months"
    adjusted = "" if result["adjustment"] == "none" else ", adjusted"
    return f"hazard ratio, {words}{adjusted}{until}"


def _compare_with_published(row: dict[str, Any], result: dict[str, Any], published: pd.DataFrame) -> dict[str, Any]:
    horizon = published["horizon_months"].astype(float)
    same_horizon = horizon.eq(result["horizon_months"]) | (horizon.isna() & pd.isna(result["horizon_months"]))
    fits = (published["scoreboard"] == row["id"]) & (published["scale"] == result["scale"]) & same_horizon
    if not fits.any() or result["adjustment"] != "none":
        return {"kind": "control", "source": "no number to stand beside"}
    number = published[fits].iloc[0]
    reference = {"reference": number["value"], "reference_low": number["ci_low"], "reference_high": number["ci_high"]}
    source = f"{number['cite']}; {number['cohort']}, n {number['n']:g}"
    verdict = None
    if number["kind"] == "baseline" and result["measured"] == "rna":
        same_cases = abs(row["n"] - number["n"]) <= number["n"] / 1000
        tolerance = REPRODUCED if same_cases else REPRODUCED_NEARLY * number["value"]
        verdict = bool(abs(row["value"] - number["value"]) <= tolerance)
    return reference | {"kind": number["kind"], "source": source, "holds": verdict}


def build_published_rows(results: pd.DataFrame, published: pd.DataFrame) -> list[dict[str, Any]]:
    """Stand the image's high-vs-low ratios beside those of the paper, whatever the profile's own scale is.

    Parameters
    ----------
    results : DataFrame
        From `estimate_analyses`: high vs low, unadjusted, all cases, image scores; one row per target.
    published : DataFrame
        From `read_published(chapter='04')`.

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `04/hazard_ratio_high_vs_low/<target>_image/<endpoint>`. Nothing has to hold:
        it is another cohort.
    """
    rows = []
    for result in results[results["hazard_ratio"].notna()].to_dict("records"):
        theirs = published[
            (published["kind"] == "published")
            & (published["scale"] == "high_vs_low")
            & (published["scoreboard"].str.startswith(f"04/hazard_ratio/{result['target']}_image/"))
        ]
        if theirs.empty:
            continue
        number = theirs.iloc[0]
        row = {name: result[name] for name in ("ci_low", "ci_high", "n", "n_events")}
        row |= {"reference": number["value"], "reference_low": number["ci_low"], "reference_high": number["ci_high"]}
        row |= {
            "id": f"04/hazard_ratio_high_vs_low/{result['target']}_image/{result['endpoint']}",
            "quantity": _describe_quantity(result), "value": result["hazard_ratio"], "kind": "published",
            "source": f"{number['cite']}; {number['cohort']}, n {number['n']:g}", "holds": None,
        }  # fmt: skip
        rows.append(row)
    return rows
