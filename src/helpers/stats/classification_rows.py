"""From the tables of chapter 06 to rows of the scoreboard, each beside the number it must answer to."""

from typing import Any, Final

import pandas as pd

SPLIT_ENDS: Final = {"development": "oof", "internal_test": "internal_test", "external": "external"}
SHOWN: Final = ("roc_auc", "pr_auc", "f1")
NOT_WORSE: Final = -0.01
"""With signal in the genes only, fusion must not lose more than this in ROC-AUC."""


def build_arm_rows(performance: pd.DataFrame, *, end: str = "") -> list[dict[str, Any]]:
    """Turn the performance of every arm into rows beside chance.

    Parameters
    ----------
    performance : DataFrame
        From `compute_arm_performance`, one target.
    end : str
        What the cohort part is called, put before the split: ``a2_`` for a single site.

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `06/<quantity>/<arm>/<split>`.
    """
    rows = []
    for found in performance[performance["quantity"].isin(SHOWN)].to_dict("records"):
        name = f"06/{found['quantity']}/{found['arm']}/{end}{SPLIT_ENDS[found['split']]}"
        row = {"id": name, "quantity": found["quantity"]} | {k: found[k] for k in ("value", "ci_low", "ci_high", "n")}
        row |= {"n_events": found["n_positive"], "reference": found["chance"], "kind": "control"}
        rows.append(row | {"source": f"chance, {found['n_positive']} of {found['n']} positive"})
    return rows


def build_published_rows(performance: pd.DataFrame, published: pd.DataFrame, *, end: str = "") -> list[dict[str, Any]]:
    """Stand the arms beside the published numbers: the published network, genes alone, and the declared arm.

    Parameters
    ----------
    performance : DataFrame
        One target.
    published : DataFrame
        From `read_published(chapter='06')`: `scoreboard` names quantity and arm.
    end : str

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `06/<quantity>_beside_<source>/<arm>/<split>`.
    """
    rows = []
    for number in published.to_dict("records"):
        _, quantity, _, _ = number["scoreboard"].split("/")
        for arm in ("as_published_cross_attention", "genes_linear", "cross_attention"):
            mine = performance[(performance["arm"] == arm) & (performance["quantity"] == quantity)]
            for found in mine[mine["split"] == "development"].to_dict("records"):
                row = {"id": f"06/{quantity}_beside_{number['source']}/{arm}/{end}oof", "quantity": quantity}
                row |= {k: found[k] for k in ("value", "ci_low", "ci_high", "n")} | {"n_events": found["n_positive"]}
                source = f"{number['cite']}; {number['cohort']}, n {number['n']:g}, tag {number['tag']}"
                rows.append(row | {"reference": number["value"], "kind": "published", "source": source})
    return rows


def build_difference_rows(comparison: pd.DataFrame, *, end: str = "", target: str = "") -> list[dict[str, Any]]:
    """Turn paired differences of the declared arm into rows beside 0.

    Parameters
    ----------
    comparison : DataFrame
        From `compare_classifiers`.
    end : str
    target : str
        A planted label: 'both' must lie above 0, 'genes' must not lie below -0.01 against genes alone.

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `06/difference/<arm>_vs_<other>/<split>`, and `06/difference_planted_<target>/…`.
    """
    rows = []
    for found in comparison[comparison["quantity"] == "roc_auc"].to_dict("records"):
        name = f"difference_planted_{target}" if target else "difference"
        row: dict[str, Any] = {
            "id": f"06/{name}/{found['arm']}_vs_{found['other']}/{end}{SPLIT_ENDS[found['split']]}",
            "quantity": "difference of ROC-AUC, paired", "value": found["difference"], "ci_low": found["ci_low"],
            "ci_high": found["ci_high"], "n": found["n"], "reference": 0.0, "kind": "planted" if target else "control",
            "source": "no difference",
        }  # fmt: skip
        rows.append(row | judge_difference(found, target))
    return rows


def judge_difference(found: dict[str, Any], target: str) -> dict[str, Any]:
    """Say what a planted label asks of a difference, and whether it holds.

    Parameters
    ----------
    found : dict
        difference, ci_low, other.
    target : str
        'both', 'genes' or another.

    Returns
    -------
    dict
        holds, reference, source; empty where nothing is asked.
    """
    asked = {"image_linear", "genes_linear", "image_net", "genes_net", "image_permuted"}
    if target == "both" and found["other"] in asked:
        verdict = _judge(found["ci_low"] > 0, clearly_not=found["ci_high"] < 0)
        return {"holds": verdict, "source": "signal in both: the interval must lie above 0; open where it holds 0"}
    if target == "genes" and found["other"] == "genes_linear":
        verdict = _judge(found["difference"] >= NOT_WORSE, clearly_not=found["ci_high"] < NOT_WORSE)
        return {"holds": verdict, "reference": NOT_WORSE, "source": "signal in the genes only: must not lose more"}
    return {}


def _judge(holds: bool, *, clearly_not: bool) -> bool | None:
    """One cohort decides for, decides against only with its whole interval, and else leaves it open."""
    return True if holds else (False if clearly_not else None)


def build_exact_rows(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn the demonstration on the published networks into rows: what the images change, beside exactly 0.

    Parameters
    ----------
    summary : DataFrame
        From `demonstrate_image_use`.

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `06/image_effect/<kind>/…` and `06/image_gradient/<kind>/…`.
    """
    rows = []
    for found in summary.to_dict("records"):
        blind = found["kind"] in {"cross_attention", "concat_public", "genes"}
        for column, name in (("largest_change", "image_effect"), ("image_gradient", "image_gradient")):
            row: dict[str, Any] = {"id": f"06/{name}/as_published_{found['kind']}/all", "value": found[column]}
            row |= {"quantity": "largest change of the output" if name == "image_effect" else "largest gradient"}
            row |= {"kind": "control", "reference": 0.0, "source": "exactly 0 where the images cannot be seen"}
            rows.append(row | {"holds": bool((found[column] == 0) == blind)})
    return rows


def build_target_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn targets that are not RNA labels into rows beside the best label alone.

    Parameters
    ----------
    table : DataFrame
        target, arm, label, value, ci_low, ci_high, n, n_positive; the arm 'label_alone' is the reference.

    Returns
    -------
    list of dict
        Arguments of `run.score`, ids `06/roc_auc_<target>/<arm>/oof`.
    """
    rows = []
    alone = table[table["arm"] == "label_alone"].set_index("target")
    for found in table[table["arm"] != "label_alone"].to_dict("records"):
        row: dict[str, Any] = {"id": f"06/roc_auc_{found['target']}/{found['arm']}/oof", "quantity": "roc_auc"}
        row |= {"kind": "control", "n_events": found["n_positive"]}
        row |= {k: found[k] for k in ("value", "ci_low", "ci_high", "n")}
        if found["target"] in alone.index:
            label = alone.loc[found["target"]]
            row |= {"reference": label["value"], "source": f"the label alone: {label['label']}"}
        else:
            row |= {"reference": 0.5, "source": "chance"}
        rows.append(row)
    return rows
