"""Which genes does a slide tell? One linear test for all of them, permuted within sites with every fold refitted.

With a penalty that depends on the features alone, the held-out predictions of a ridge are one matrix times the labels.
So a permuted label is refitted by a product, and thousands of genes with hundreds of permutations take seconds. The
penalty is set by the effective degrees of freedom; nothing is chosen by the labels. Expression enters as ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from helpers.core.errors import ModelError
from helpers.models.linear import compute_ridge_path
from helpers.phantom.effects import SITES
from helpers.phantom.omics import draw_expression
from helpers.stats.correlation import compute_pearson_columns
from helpers.stats.multiplicity import adjust_benjamini_hochberg
from helpers.stats.resampling import permute_within

DrawCohort = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Draws expression, (n_cases, n_genes), and which genes are null, (n_genes,), bool."""
COLUMNS_AT_ONCE = 512
"""Permuted labels per product: few, so that they and their predictions stay in the processor's cache."""


def choose_penalty(singular_values: np.ndarray, *, freedom: float) -> float:
    """Find the penalty that leaves a ridge some effective degrees of freedom.

    Parameters
    ----------
    singular_values : ndarray, (rank,)
        Of the standardised training features.
    freedom : float
        Sum of s² / (s² + penalty); at most nine tenths of the rank are given.

    Returns
    -------
    float
    """
    squared = np.asarray(singular_values, float) ** 2
    wanted = min(freedom, 0.9 * len(squared))
    low, high = -20.0, np.log(squared.sum()) + 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (squared / (squared + np.exp(middle))).sum() > wanted else (low, middle)
    return float(np.exp((low + high) / 2))


def build_smoother(features: np.ndarray, folds: np.ndarray, *, freedom: float) -> np.ndarray:
    """Return the matrix that turns labels into held-out ridge predictions.

    Parameters
    ----------
    features : ndarray, (n_cases, d)
        Pooled features.
    folds : ndarray, (n_cases,), int
        The fold in which a case is held out.
    freedom : float
        As in `choose_penalty`.

    Returns
    -------
    ndarray, (n_cases, n_cases)
        Rows sum to 1, and are 0 on cases of the same fold.

    Raises
    ------
    ModelError
        When there are fewer than two folds.
    """
    names = np.unique(folds)
    if len(names) < 2:
        msg = f"ModelError: {len(names)} fold leaves no training case for a held-out prediction. Give two or more."
        raise ModelError(msg)
    smoother = np.zeros((len(folds), len(folds)))
    for name in names:
        test = folds == name
        path = compute_ridge_path(features[~test])
        shrunk = path.s / (path.s**2 + choose_penalty(path.s, freedom=freedom))
        standardised = np.nan_to_num((features[test] - path.mean) / path.scale)
        weights = (standardised @ path.vt.T * shrunk) @ path.u.T
        centred = weights - weights.mean(axis=1, keepdims=True)
        smoother[np.ix_(test, ~test)] = centred + 1.0 / (~test).sum()
    return smoother


def rank_columns(values: np.ndarray) -> np.ndarray:
    """Replace values by ranks of mean 0 and SD 1; ties share theirs.

    Parameters
    ----------
    values : ndarray, (n_cases, k)

    Returns
    -------
    ndarray, (n_cases, k)
        Constant columns become 0.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0)
    ranks = ranks - ranks.mean(axis=0)
    spread = ranks.std(axis=0)
    return np.divide(ranks, spread, out=np.zeros_like(ranks), where=spread > 0)


def screen_genes(
    smoother: np.ndarray,
    expression: np.ndarray,
    *,
    groups: np.ndarray,
    n_permutations: int,
    rng: np.random.Generator,
    judged: np.ndarray | None = None,
) -> pd.DataFrame:
    """Test every gene: the held-out correlation of its ranks, in a null that permutes cases within groups.

    A permutation moves whole cases, so that genes stay as correlated as they are.

    Parameters
    ----------
    smoother : ndarray, (n_cases, n_cases)
        From `build_smoother`.
    expression : ndarray, (n_cases, n_genes)
    groups : ndarray, (n_cases,)
        Site, or site and stratum; permutations stay inside.
    n_permutations : int
    rng : numpy Generator
    judged : ndarray, (n_cases,), bool, optional
        Cases in which the correlation is measured; all are trained on.

    Returns
    -------
    DataFrame, n_genes rows
        value, null_mean, null_q95, p (one-sided, never 0), q (Benjamini and Hochberg).
    """
    kept = np.ones(len(groups), bool) if judged is None else judged
    observed, null = _permute(smoother, expression, groups, n_permutations, rng, kept)
    p = compute_p_values(observed, null)
    return pd.DataFrame({
        "value": observed, "null_mean": null.mean(axis=0), "null_q95": np.quantile(null, 0.95, axis=0), "p": p,
        "q": adjust_benjamini_hochberg(p),
    })  # fmt: skip


def _permute(
    smoother: np.ndarray, expression: np.ndarray, groups: np.ndarray, n: int, rng: np.random.Generator, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Held-out correlations of genes, (k,), and of their permuted labels, (n, k)."""
    ranks = rank_columns(expression)
    observed = np.nan_to_num(compute_pearson_columns(ranks[kept], smoother[kept] @ ranks))
    permutations = permute_within(groups, n_permutations=n, rng=rng)
    return observed, correlate_permuted(smoother, ranks, permutations=permutations, kept=kept)


def correlate_permuted(
    smoother: np.ndarray, ranks: np.ndarray, *, permutations: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """Correlate permuted labels with the held-out predictions of a refit on them.

    Parameters
    ----------
    smoother : ndarray, (n_cases, n_cases)
    ranks : ndarray, (n_cases, k)
        Labels, SD near 1.
    permutations : ndarray, (n_permutations, n_cases), int
        As `permute_within` gives them.
    kept : ndarray, (n_cases,), bool
        Cases in which the correlation is measured.

    Returns
    -------
    ndarray, (n_permutations, k), float32
        0 where one side is constant.
    """
    n_cases, k = ranks.shape
    centred = smoother[kept] - smoother[kept].mean(axis=0)  # predictions of mean 0, whatever the labels
    rows, labels = centred.astype(np.float32), np.ascontiguousarray(ranks, np.float32)
    null = np.empty((len(permutations), k), np.float32)
    per_step = max(1, COLUMNS_AT_ONCE // k)
    for start in range(0, len(permutations), per_step):
        some = permutations[start : start + per_step]
        drawn = labels[some.T].reshape(n_cases, -1)  # (n_cases, some x k)
        predicted, own = rows @ drawn, drawn if kept.all() else drawn[kept] - drawn[kept].mean(axis=0)
        squared = np.einsum("ij,ij->j", own, own) * np.einsum("ij,ij->j", predicted, predicted)
        shared = np.einsum("ij,ij->j", own, predicted)
        found = np.divide(shared, np.sqrt(squared), out=np.zeros_like(shared), where=squared > 0)
        null[start : start + len(some)] = found.reshape(len(some), k)
    return null


def compute_p_values(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return one-sided permutation p-values, never 0.

    Parameters
    ----------
    observed : ndarray, (k,)
    null : ndarray, (n_permutations, k)
        In single precision, which ties with itself: what is nearly as high counts as high.

    Returns
    -------
    ndarray, (k,)
    """
    return (1 + (null >= observed - 1e-6).sum(axis=0)) / (1 + len(null))


def simulate_screens(
    smoother: np.ndarray,
    draw: DrawCohort,
    *,
    groups: np.ndarray,
    n_cohorts: int,
    n_permutations: int,
    level: float = 0.05,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Draw expression again and again for the same slides, screen every cohort, and count what was wrong.

    Parameters
    ----------
    smoother : ndarray, (n_cases, n_cases)
    draw : callable
        A generator to expression and which genes are null.
    groups : ndarray, (n_cases,)
    n_cohorts, n_permutations : int
    level : float
        Of the q-values.
    rng : numpy Generator

    Returns
    -------
    DataFrame, n_cohorts rows
        n_found, n_false, proportion (false among found; 0 where nothing was found), power (found among linked; missing
        where nothing is linked), null_share (π0).
    """
    rows, everyone = [], np.ones(len(groups), bool)
    for _ in range(n_cohorts):
        expression, is_null = draw(rng)
        observed, null = _permute(smoother, expression, groups, n_permutations, rng, everyone)
        found = adjust_benjamini_hochberg(compute_p_values(observed, null)) <= level
        n_false = int((found & is_null).sum())
        power = float(found[~is_null].mean()) if (~is_null).any() else float("nan")
        rows.append({
            "n_found": int(found.sum()), "n_false": n_false, "proportion": n_false / max(1, int(found.sum())),
            "power": power, "null_share": float(is_null.mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def summarise_screens(screens: pd.DataFrame, *, level: float = 0.99) -> dict[str, float]:
    """Average simulated screens, with the one-sided lower bound of the mean false discovery proportion.

    Parameters
    ----------
    screens : DataFrame
        From `simulate_screens`.
    level : float
        Of the bound, by the normal approximation of a mean over cohorts.

    Returns
    -------
    dict
        n_cohorts, null_share, proportion, lower, upper (one-sided bounds), power, n_found.
    """
    from scipy.stats import norm

    n, mean = len(screens), float(screens["proportion"].mean())
    half = float(norm.ppf(level) * screens["proportion"].std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return {
        "n_cohorts": n, "null_share": float(screens["null_share"].mean()), "proportion": mean, "lower": mean - half,
        "upper": mean + half, "power": float(screens["power"].mean()), "n_found": float(screens["n_found"].mean()),
    }  # fmt: skip


@dataclass(frozen=True)
class PlantedGenes:
    """Draws the expression of a phantom's cases anew: the tumours and their slides stay, the assays are repeated.

    Parameters
    ----------
    cases : DataFrame
        Planted values of the cases (truth/cases_truth.csv), in the order of the smoother.
    loadings : DataFrame
        truth/loadings.csv, or some of its rows.
    assay_sd : float
        Noise that all genes of a case share.
    break_links : bool
        Give each case the planted values of another one of its site, so that every gene is null.
    """

    cases: pd.DataFrame
    loadings: pd.DataFrame
    assay_sd: float
    break_links: bool = False

    @cached_property
    def is_null(self) -> np.ndarray:
        """Genes that load on nothing a slide could show, (n_genes,), bool."""
        linked = self.loadings[["proliferation", "luminal", "her2", "basal", "til"]].abs().sum(axis=1) > 0
        return np.ones(len(linked), bool) if self.break_links else ~linked.to_numpy()

    def __call__(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw expression, (n_cases, n_genes), and say which genes are null."""
        truth = self.cases
        if self.break_links:
            order = permute_within(truth["site"].to_numpy(), n_permutations=1, rng=rng)[0]
            truth = truth.iloc[order]
        assay = self.assay_sd * rng.standard_normal(len(truth))
        factors = {name: truth[f"factor_{name}"].to_numpy(float) for name in ("luminal", "her2", "basal")}
        factors["proliferation"] = (truth["latent"].to_numpy(float) + assay) / np.sqrt(1 + self.assay_sd**2)
        factors["til"] = truth["til_z"].to_numpy(float)
        batch = {site.site: site.batch for site in SITES}
        factors["batch"] = truth["site"].map(batch).to_numpy(float)
        return draw_expression(self.loadings, factors, lambda _: rng), self.is_null
