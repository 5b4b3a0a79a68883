"""From predictions to the tables of chapter 03 and the scoreboard's rows; everything comes from predictions alone."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.stats.correlation import (
    compute_agreement,
    compute_agreement_by,
    compute_foldwise_agreement,
    summarise_folds,
)

MIN_CLUSTERS: Final = 5
"""Sites needed for a bootstrap over sites."""
CEILING_SHARE: Final = 0.85
"""Share of the noise ceiling that the declared arm must reach on the phantom."""
COLOUR_LIMIT: Final = 0.35
"""Mean colour must stay below it on the phantom's external site, or the phantom is too easy."""
OVER_SEEDS: Final = "one cohort with its interval; means over seeds come from make validate"
SPLIT_ENDS: Final = {"development": "oof", "internal_test": "internal_test", "external": "external"}
QUANTITY_IDS: Final = {"spearman": "spearman", "pearson": "pearson", "r_squared": "r_squared", "r2_score": "r2"}
IMAGE_ROWS: Final = ("value", "ci_low", "ci_high", "n")


def compute_performance(
    predictions: pd.DataFrame, *, site: pd.Series, repeat: int = 0, n_boot: int = 1000, rng: np.random.Generator
) -> pd.DataFrame:
    """Measure every arm on every target and split of one repeat, with case and site bootstraps.

    Parameters
    ----------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred.
    site : Series
        By `case_id`.
    repeat : int
        The partition that is reported; the others give its spread.
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        target, arm, split, quantity, value, ci_low, ci_high, site_low, site_high, n, n_sites. The site interval is
        missing where fewer than 5 sites are at hand.
    """
    tables = []
    for (target, arm, split), rows in predictions[predictions["repeat"] == repeat].groupby(["target", "arm", "split"]):
        y_true, y_pred = rows["y_true"].to_numpy(), rows["y_pred"].to_numpy()
        table = compute_agreement(y_true, y_pred, n_boot=n_boot, rng=rng).drop(columns="resampled")
        sites = site.loc[rows["case_id"]].astype(str).to_numpy()
        table = table.assign(site_low=np.nan, site_high=np.nan, n_sites=len(set(sites)))
        if len(set(sites)) >= MIN_CLUSTERS:
            by_site = compute_agreement(y_true, y_pred, n_boot=n_boot, rng=rng, clusters=sites)
            table[["site_low", "site_high"]] = by_site[["ci_low", "ci_high"]].to_numpy()
        tables.append(table.assign(target=target, arm=arm, split=split))
    order = [
        "target",
        "arm",
        "split",
        "quantity",
        "value",
        "ci_low",
        "ci_high",
        "site_low",
        "site_high",
        "n",
        "n_sites",
    ]
    return pd.concat(tables, ignore_index=True)[order]


def compute_repeats(predictions: pd.DataFrame, *, rng: np.random.Generator, min_cases: int = 10) -> pd.DataFrame:
    """Measure every repeat, pooled over its folds and as the mean of its folds.

    Parameters
    ----------
    predictions : DataFrame
    rng : numpy Generator
    min_cases : int
        Folds below it are left out of the mean.

    Returns
    -------
    DataFrame
        split, target, arm, repeat, quantity, pooled, fold_mean, fold_sd, n_folds. Frozen splits have no folds: there,
        `pooled` is the ensemble of the repeat.
    """
    keys = ["split", "target", "arm", "repeat"]
    pooled = compute_agreement_by(predictions, keys, rng=rng).rename(columns={"value": "pooled"})
    in_folds = predictions[predictions["fold"] >= 0]
    folds = summarise_folds(compute_agreement_by(in_folds, [*keys, "fold"], rng=rng, min_cases=min_cases), keys)
    folds = folds.rename(columns={"value": "fold_mean", "sd": "fold_sd"})
    kept = [*keys, "quantity", "fold_mean", "fold_sd", "n_folds"]
    return pooled[[*keys, "quantity", "pooled"]].merge(folds[kept], on=[*keys, "quantity"], how="left")


def compute_foldwise_performance(
    predictions: pd.DataFrame, *, site: pd.Series, repeat: int = 0, n_boot: int = 1000, rng: np.random.Generator
) -> pd.DataFrame:
    """Measure every arm on every target as the mean of its folds, with case and site bootstraps.

    Parameters
    ----------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred; only development rows of `repeat` are read.
    site : Series
        By `case_id`.
    repeat : int
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        target, arm, quantity, value, ci_low, ci_high, site_low, site_high, n_folds, n. The site interval is missing
        where fewer than 5 sites are at hand.
    """
    tables = []
    inner = predictions[(predictions["repeat"] == repeat) & (predictions["split"] == "development")]
    for (target, arm), rows in inner.groupby(["target", "arm"]):
        columns = (rows["y_true"].to_numpy(), rows["y_pred"].to_numpy(), rows["fold"].to_numpy())
        table = compute_foldwise_agreement(*columns, n_boot=n_boot, rng=rng)
        sites = site.loc[rows["case_id"]].astype(str).to_numpy()
        table = table.assign(site_low=np.nan, site_high=np.nan, n=len(rows), target=target, arm=arm)
        if len(set(sites)) >= MIN_CLUSTERS:
            by_site = compute_foldwise_agreement(*columns, n_boot=n_boot, rng=rng, clusters=sites)
            table[["site_low", "site_high"]] = by_site[["ci_low", "ci_high"]].to_numpy()
        tables.append(table)
    order = ["target", "arm", "quantity", "value", "ci_low", "ci_high", "site_low", "site_high", "n_folds", "n"]
    return pd.concat(tables, ignore_index=True)[order]


def build_performance_rows(
    performance: pd.DataFrame,
    *,
    arm: str,
    targets: Sequence[str],
    published: pd.DataFrame,
    ceiling: dict[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Turn the declared arm's performance into scoreboard rows, each beside the number it must answer to.

    On a planted cohort the Spearman correlation stands beside the ceiling that measurement noise allows; elsewhere
    beside the baseline on the same files. Published numbers of other cohorts get rows of their own.

    Parameters
    ----------
    performance : DataFrame
        From `compute_performance`.
    arm : str
    targets : sequence of str
    published : DataFrame
        From `read_published(profile=…, chapter='03')`.
    ceiling : dict of str to float, optional
        Spearman correlation of the latent with the measured score, by target.

    Returns
    -------
    list of dict
        Arguments of `run.score`.
    """
    mine = performance[(performance["arm"] == arm) & performance["target"].isin(list(targets))]
    rows: list[dict[str, Any]] = []
    for found in mine.to_dict("records"):
        end = f"{found['target']}/{SPLIT_ENDS[found['split']]}"
        row = _start_row(f"03/{QUANTITY_IDS[found['quantity']]}/{end}", found["quantity"], found)
        planted = ceiling is not None and found["quantity"] == "spearman" and found["target"] in ceiling
        if planted and ceiling is not None:
            top = ceiling[found["target"]]
            rows += [row | _describe_ceiling(top), _build_ratio(found, top, end)]
        else:
            rows.append(row | _find_baseline(row, published))
    return rows + _build_published(mine, published)


def _start_row(name: str, quantity: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "quantity": quantity} | {key: found[key] for key in IMAGE_ROWS}


def _describe_ceiling(top: float) -> dict[str, Any]:
    return {"kind": "planted", "reference": top, "source": "truth/estimands.json: latent against measured score"}


def _build_ratio(found: dict[str, Any], top: float, end: str) -> dict[str, Any]:
    scaled = {name: found[name] / top for name in ("value", "ci_low", "ci_high")}
    row = {
        "id": f"03/ceiling_ratio/{end}",
        "quantity": "spearman over its noise ceiling",
        "n": found["n"],
        "kind": "planted",
    }
    verdict = _judge(scaled["value"] >= CEILING_SHARE, clearly_not=scaled["ci_high"] < CEILING_SHARE)
    source = f"asked of route b; {OVER_SEEDS}"
    return row | scaled | {"reference": CEILING_SHARE, "holds": verdict, "source": source}


def _judge(holds: bool, *, clearly_not: bool) -> bool | None:
    """One cohort decides for, decides against only with its whole interval, and else leaves it open."""
    return True if holds else (False if clearly_not else None)


def _find_baseline(row: dict[str, Any], published: pd.DataFrame) -> dict[str, Any]:
    """Stand beside the baseline on the same files, if any: the value must reach the low end of its partitions."""
    fits = published[(published["scoreboard"] == row["id"]) & (published["kind"] == "baseline")]
    if fits.empty:
        return {"kind": "control", "source": "no number to stand beside"}
    number = fits.iloc[0]
    low, high = number["partition_low"], number["partition_high"]
    return {
        "kind": "baseline", "reference": number["value"], "reference_low": low, "reference_high": high,
        "source": f"{number['cite']}; n {number['n']:g}, range over partitions", "holds": bool(row["value"] >= low),
    }  # fmt: skip


def _build_published(mine: pd.DataFrame, published: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per published number; an internal test stands beside out-of-fold where none was set aside."""
    rows = []
    keyed = mine.set_index(["target", "split", "quantity"])
    for number in published[published["kind"] == "published"].to_dict("records"):
        _, _, target, end = number["scoreboard"].split("/")
        split = end if (target, end) in {key[:2] for key in keyed.index} else "development"
        quantity = "r2_score" if number["quantity"] == "r2_as_published" else number["quantity"]
        if (end == "external" and split != end) or (target, split, quantity) not in keyed.index:
            continue
        source = f"{number['cite']}; {number['cohort']}, n {number['n']:g}"
        source += "; published as R², formula unstated" if number["quantity"] == "r2_as_published" else ""
        name = f"03/{QUANTITY_IDS[quantity]}_beside_{number['source']}/{target}/{SPLIT_ENDS[split]}"
        reference = {
            "reference": number["value"],
            "reference_low": number["ci_low"],
            "reference_high": number["ci_high"],
        }
        row = _start_row(name, quantity, keyed.loc[(target, split, quantity)].to_dict())
        rows.append(row | reference | {"kind": "published", "source": source})
    return rows


def build_control_rows(
    performance: pd.DataFrame, *, arm: str, targets: Sequence[str], planted: bool
) -> list[dict[str, Any]]:
    """Turn the control arms into scoreboard rows beside the declared arm.

    Parameters
    ----------
    performance : DataFrame
        From `compute_performance`.
    arm : str
        The declared arm; every other one is a control.
    targets : sequence of str
    planted : bool
        On the phantom, mean colour must stay below 0.35 on the external site.

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `03/spearman_<arm>/<target>/<split>`.
    """
    table = performance[(performance["quantity"] == "spearman") & performance["target"].isin(list(targets))]
    declared = table[table["arm"] == arm].set_index(["target", "split"])["value"]
    rows = []
    for found in table[table["arm"] != arm].to_dict("records"):
        name = f"03/spearman_{found['arm']}/{found['target']}/{SPLIT_ENDS[found['split']]}"
        row = _start_row(name, "spearman", found) | {"kind": "control"}
        if planted and found["arm"] == "mean_colour" and found["split"] == "external":
            row |= {"reference": COLOUR_LIMIT, "source": f"above it the phantom would be too easy; {OVER_SEEDS}"}
            row |= {"holds": _judge(found["value"] <= COLOUR_LIMIT, clearly_not=found["ci_low"] > COLOUR_LIMIT)}
        else:
            row |= {"reference": declared[(found["target"], found["split"])], "source": f"the {arm} arm of this run"}
        rows.append(row)
    return rows


def build_null_rows(nulls: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn permutation nulls into scoreboard rows: the observed value against the null's 99th percentile.

    Parameters
    ----------
    nulls : DataFrame
        target, split, observed, null_q99, n_permutations, p, n.

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `03/permutation/<target>/<split>`.
    """
    return [
        {
            "id": f"03/permutation/{row['target']}/{SPLIT_ENDS[row['split']]}", "quantity": "spearman against its null",
            "value": row["observed"], "n": row["n"], "reference": row["null_q99"], "kind": "control",
            "source": f"99th percentile of {row['n_permutations']:g} within-site permutations, every fold refitted, "
            f"p {row['p']:.3g}", "holds": bool(row["observed"] > row["null_q99"]),
        }
        for row in nulls.to_dict("records")
    ]  # fmt: skip


def build_confounding_rows(panel: pd.DataFrame, *, target: str) -> list[dict[str, Any]]:
    """Turn the confounding panel into scoreboard rows: each label alone, and the image inside its strata.

    Parameters
    ----------
    panel : DataFrame
        From `compute_confounding_panel`.
    target : str

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `03/spearman_<label>_alone/…` and `03/spearman_within_<label>/…`.
    """
    image = float(panel.loc[panel["kind"] == "image", "value"].iloc[0])
    rows = []
    for found in panel.dropna(subset="value").to_dict("records"):
        if found["kind"] == "label_only":
            row = _start_row(f"03/spearman_{found['label']}_alone/{target}/oof", "spearman", found)
            rows.append(row | {"kind": "control", "reference": image, "source": "the image over all cases"})
        elif found["kind"] == "within_label":
            row = _start_row(f"03/spearman_within_{found['label']}/{target}/oof", "spearman, mean of strata", found)
            tested = found["p"] == found["p"]
            row |= {"kind": "control", "reference": found["null_q95"], "source": "95th percentile of the null"}
            rows.append(row | ({"holds": bool(found["value"] > found["null_q95"])} if tested else {}))
    return rows


NOT_WORSE: Final = -0.01
"""The lower bound of the paired difference must not lie below it, for an arm to be called no worse than the ridge."""


def build_arm_rows(comparison: pd.DataFrame, *, arm: str, reference: str) -> list[dict[str, Any]]:
    """Turn the comparison of arms into scoreboard rows: paired differences beside 0, a verdict for the declared arm.

    Parameters
    ----------
    comparison : DataFrame
        From `compare_arms`.
    arm : str
        The declared arm.
    reference : str

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `03/spearman_difference/<arm>_vs_<reference>/<target>/oof`.
    """
    rows = []
    for found in comparison[comparison["arm"] != reference].to_dict("records"):
        name = f"03/spearman_difference/{found['arm']}_vs_{reference}/{found['target']}/oof"
        row = {"id": name, "quantity": "paired difference of spearman", "value": found["difference"]}
        row |= {"ci_low": found["ci_low"], "ci_high": found["ci_high"], "n": found["n"], "reference": 0.0}
        source = f"the {reference} arm on the same folds of {found['n_repeats']} partitions, Nadeau-Bengio interval"
        row |= {"kind": "control", "source": source}
        if found["arm"] == arm:
            row["holds"] = bool(found["difference"] >= 0 and found["ci_low"] >= NOT_WORSE)
        rows.append(row)
    return rows


def build_probe_row(probe: dict[str, float], *, encoder: str) -> dict[str, Any]:
    """Turn a site probe into a scoreboard row beside chance.

    Parameters
    ----------
    probe : dict
        From `helpers.features.probe.probe_site`.
    encoder : str

    Returns
    -------
    dict
        Arguments of `run.score`.
    """
    return {
        "id": f"03/site_probe/{encoder}/oof", "quantity": "balanced accuracy", "value": probe["balanced_accuracy"],
        "n": int(probe["n_cases"]), "reference": probe["chance"], "kind": "control",
        "source": f"chance over {probe['n_sites']:g} sites; p {probe['p_value']:.3g} by relabelling cases",
    }  # fmt: skip
