"""A study of fusion: every arm on every fold and partition, each control beside them, missing modalities too."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pandas as pd

from helpers.core.errors import ModelError
from helpers.core.progress import track
from helpers.models.bags import Bags
from helpers.models.fusion import (
    BOTH,
    FusionFit,
    FusionInputs,
    FusionRecipe,
    Modality,
    combine_paths,
    fit_paths,
    lay_out_genes,
    squash,
    train_network,
)
from helpers.models.logistic import plan_inner_classes
from helpers.models.study import FoldedCases, limit_threads
from helpers.stats.resampling import permute_within


@dataclass(frozen=True, kw_only=True)
class FusionArm:
    """A way to classify a case.

    Attributes
    ----------
    modalities : tuple of str
    network : FusionRecipe or None
        None: the logistic regression of one modality, or late fusion of both.
    residual : bool
        The logistic regressions run beside the network.
    permute : str
        'image' or 'genes': exchanged between cases of one site, in training and in test; '' for none.
    """

    modalities: tuple[Modality, ...] = BOTH
    network: FusionRecipe | None = None
    residual: bool = True
    permute: str = ""


def list_fusion_arms(recipe: FusionRecipe | None = None) -> dict[str, FusionArm]:
    """List the arms by name.

    Parameters
    ----------
    recipe : FusionRecipe, optional
        Of the bidirectional network, from which the others differ as their names say.

    Returns
    -------
    dict of str to FusionArm
    """
    both = recipe or FusionRecipe()
    return {
        "image_linear": FusionArm(modalities=("image",)),
        "genes_linear": FusionArm(modalities=("genes",)),
        "image_net": FusionArm(modalities=("image",), network=replace(both, modalities=("image",)), residual=False),
        "genes_net": FusionArm(modalities=("genes",), network=replace(both, modalities=("genes",)), residual=False),
        "late_fusion": FusionArm(),
        "concat": FusionArm(network=replace(both, concat=True)),
        "cross_genes_look": FusionArm(network=replace(both, tiles_look=False)),
        "cross_tiles_look": FusionArm(network=replace(both, genes_look=False)),
        "cross_attention": FusionArm(network=both),
        "cross_attention_plain": FusionArm(network=both, residual=False),
        "image_permuted": FusionArm(network=both, permute="image"),
        "genes_permuted": FusionArm(network=both, permute="genes"),
    }


FUSION_ARMS: Final = tuple(list_fusion_arms())
MISSING: Final[dict[str, tuple[Modality, ...]]] = {"without_images": ("genes",), "without_genes": ("image",)}
"""Predictions of the declared network for cases that lack a modality: end of the arm's name to what is present."""


@dataclass(frozen=True)
class FusionStudy(FoldedCases):
    """What the arms are fitted to.

    Attributes
    ----------
    inputs : FusionInputs
        All cases.
    labels : Series of float
        0 or 1 by `case_id`, in the order of `inputs`.
    groups : mapping of str to list of str
        Gene groups, of genes of the table.
    genes : tuple of str
        Columns of `inputs.genes`.
    splits : DataFrame
        repeat, fold, case_id, role.
    site : Series
        By `case_id`.
    seed : int
    target : str
    recipe : FusionRecipe
    """

    inputs: FusionInputs
    labels: pd.Series
    groups: Mapping[str, list[str]]
    genes: tuple[str, ...]
    splits: pd.DataFrame
    site: pd.Series
    seed: int
    target: str = "basal_her2"
    recipe: FusionRecipe = field(default_factory=FusionRecipe)

    @property
    def cases(self) -> pd.Index:
        """All cases."""
        return self.labels.index


def make_study(
    bags: Bags, owners: pd.Index, expression: pd.DataFrame, labels: pd.Series, *, groups: Mapping[str, list[str]],
    splits: pd.DataFrame, site: pd.Series, seed: int, target: str = "basal_her2", recipe: FusionRecipe | None = None,
) -> FusionStudy:  # fmt: skip
    """Put a study together from the cases that have a label, images, genes and a place in the splits.

    Parameters
    ----------
    bags : Bags
    owners : Index
        Case of each bag.
    expression : DataFrame, (n_cases, n_genes)
    labels : Series of float
        0, 1 or missing, by `case_id`.
    groups : mapping of str to list of str
    splits : DataFrame
    site : Series
    seed : int
    target : str
    recipe : FusionRecipe, optional

    Returns
    -------
    FusionStudy

    Raises
    ------
    ModelError
        When fewer than two cases of either class are left.
    """
    known = labels.dropna().index
    there = owners[owners.isin(known) & owners.isin(expression.index) & owners.isin(splits["case_id"])]
    y = labels.loc[there].astype(float)
    if min(int(y.sum()), int((1 - y).sum())) < 2:
        msg = (
            f"ModelError: target '{target}' has {int(y.sum())} positives among {len(y)} cases; two of each are needed."
        )
        raise ModelError(msg)
    genes = tuple(dict.fromkeys(gene for members in groups.values() for gene in members))
    inputs = FusionInputs(bags.take(owners.get_indexer(there)), expression.loc[there, list(genes)].to_numpy(float))
    return FusionStudy(inputs, y, groups, genes, splits, site.loc[there], seed, target, recipe or FusionRecipe())


def find_thin_fold(study: FusionStudy, *, min_cases: int = 6, repeats: Sequence[int] = (0,)) -> str:
    """Say where a training part has too few cases of a class for inner folds; an empty string where none has.

    Parameters
    ----------
    study : FusionStudy
    min_cases : int
        Of each class, in every training part.
    repeats : sequence of int

    Returns
    -------
    str
    """
    y = study.labels.to_numpy()
    for repeat, fold in study.list_folds(repeats):
        train, _ = study.locate(repeat, fold)
        positives = int(y[train].sum())
        if min(positives, len(train) - positives) < min_cases:
            return f"{positives} positives among {len(train)} training cases of fold {fold + 1}"
    return ""


Fits = dict[tuple[int, int], dict[str, FusionFit]]
"""(repeat, fold) to the fitted arms."""


def predict_fusion(
    study: FusionStudy, arms: Sequence[str], *, repeats: Sequence[int] | None = None, workers: int = 1
) -> tuple[pd.DataFrame, Fits]:
    """Fit arms on every fold; predict held-out cases, and frozen cases by the mean logit of all folds.

    Where `cross_attention` is among the arms, its predictions without images and without genes come along.

    Parameters
    ----------
    study : FusionStudy
    arms : sequence of str
        Names of `FUSION_ARMS`.
    repeats : sequence of int, optional
    workers : int
        Threads over folds; no number depends on it.

    Returns
    -------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred (probability), threshold.
    fits : dict

    Raises
    ------
    ModelError
        When an arm is unknown, or a training part holds one class only.
    """
    unknown = [name for name in arms if name not in FUSION_ARMS]
    if unknown:
        msg = f"ModelError: fusion arm '{unknown[0]}' does not exist; there are {', '.join(FUSION_ARMS)}."
        raise ModelError(msg)
    jobs = study.list_folds(repeats)
    with limit_threads(), ThreadPoolExecutor(max(1, workers)) as pool:
        running = pool.map(lambda job: _run_fold(study, arms, *job), jobs)
        results = list(track(running, total=len(jobs), describe="fit fusion arms"))
    tables = [table for table, _, _ in results]
    for repeat in dict.fromkeys(repeat for repeat, _ in jobs):
        mine = [frozen for (r, _), (_, _, frozen) in zip(jobs, results, strict=True) if r == repeat]
        tables += _average_frozen(study, mine, repeat)
    fits = {job: fitted for job, (_, fitted, _) in zip(jobs, results, strict=True)}
    return pd.concat(tables, ignore_index=True), fits


Logits = dict[str, tuple[np.ndarray, float]]


def _run_fold(
    study: FusionStudy, arms: Sequence[str], repeat: int, fold: int
) -> tuple[pd.DataFrame, dict[str, FusionFit], Logits]:
    train, test = study.locate(repeat, fold)
    fitted = fit_fusion_arms(study, arms, train=train, repeat=repeat, fold=fold)
    outside = study.cases.get_indexer(study.frozen["case_id"])
    tables, frozen = [], {}
    for name, (logits, threshold) in _decide(study, fitted, test, repeat).items():
        tables.append(_tabulate(study, test, logits, threshold, name, ("development", repeat, fold)))
    if len(outside):
        frozen = _decide(study, fitted, outside, repeat)
    return pd.concat(tables, ignore_index=True), fitted, frozen


def fit_fusion_arms(
    study: FusionStudy, arms: Sequence[str], *, train: np.ndarray, repeat: int = 0, fold: int = 0
) -> dict[str, FusionFit]:
    """Fit arms to a training part; what several of them share is fitted once.

    Parameters
    ----------
    study : FusionStudy
    arms : sequence of str
    train : ndarray, int
    repeat, fold : int
        Of the seed and of the permutation controls.

    Returns
    -------
    dict of str to FusionFit
    """
    known = list_fusion_arms(study.recipe)
    y, sites = study.labels.to_numpy()[train], study.site.astype(str).to_numpy()[train]
    folds = plan_inner_classes(y, groups=sites, n_folds=study.recipe.n_inner, seed=study.seed + fold)
    slots = lay_out_genes(study.groups, study.genes)
    seed = int(np.random.SeedSequence([study.seed, repeat, fold]).generate_state(1)[0])
    parts, paths, networks = {}, {}, {}  # type: ignore[var-annotated]
    fitted = {}
    for name in arms:
        arm = known[name]
        if arm.permute not in parts:
            parts[arm.permute] = study.inputs.take(train, **find_exchange(study, arm.permute, repeat))
            paths[arm.permute] = fit_paths(parts[arm.permute], y, folds=folds)
        key = (arm.network, arm.permute)
        if arm.network is not None and key not in networks:
            networks[key] = train_network(
                parts[arm.permute], y, slots=slots, recipe=arm.network, folds=folds, seed=seed
            )
        linear = paths[arm.permute] if arm.residual else {}
        fitted[name] = combine_paths(y, modalities=arm.modalities, linear=linear, network=networks.get(key))
    return fitted


def find_exchange(study: FusionStudy, permute: str, repeat: int) -> dict[str, np.ndarray]:
    """Say whose images, or genes, each case has in a permutation control: those of a case of the same site.

    Where no two cases share a site (none is stated), all cases exchange with one another.

    Parameters
    ----------
    study : FusionStudy
    permute : str
        'image', 'genes' or ''.
    repeat : int

    Returns
    -------
    dict of str to ndarray, (n_cases,), int
        An option of `FusionInputs.take`.
    """
    if not permute:
        return {}
    rng = np.random.default_rng([study.seed, repeat, 3])
    sites = study.site.astype(str).to_numpy()
    groups = sites if len(np.unique(sites)) < len(sites) else np.zeros(len(sites), int)
    order = permute_within(groups, n_permutations=1, rng=rng)[0]
    return {"images_of" if permute == "image" else "genes_of": order}


def _decide(study: FusionStudy, fitted: Mapping[str, FusionFit], rows: np.ndarray, repeat: int) -> Logits:
    known, found = list_fusion_arms(study.recipe), {}
    for name, fit in fitted.items():
        part = study.inputs.take(rows, **find_exchange(study, known[name].permute, repeat))
        found[name] = fit.decide(part), fit.threshold
        if name == "cross_attention":
            for end, present in MISSING.items():
                found[f"{name}_{end}"] = fit.decide(part, present=present), fit.threshold
    return found


def _tabulate(
    study: FusionStudy, rows: np.ndarray, logits: np.ndarray, threshold: float, arm: str, where: tuple[str, int, int]
) -> pd.DataFrame:
    split, repeat, fold = where
    return pd.DataFrame({
        "case_id": study.cases[rows], "split": split, "repeat": repeat, "fold": fold, "target": study.target,
        "arm": arm, "y_true": study.labels.to_numpy()[rows], "y_pred": squash(logits),
        "threshold": threshold,
    })  # fmt: skip


def _average_frozen(study: FusionStudy, guesses: list[Logits], repeat: int) -> list[pd.DataFrame]:
    frozen, tables = study.frozen, []
    for name in guesses[0]:
        logits = np.mean([guess[name][0] for guess in guesses], axis=0)
        threshold = float(np.mean([guess[name][1] for guess in guesses]))
        for split in frozen["role"].unique():
            mine = frozen["role"].eq(split).to_numpy()
            rows = study.cases.get_indexer(frozen.loc[mine, "case_id"])
            tables.append(_tabulate(study, rows, logits[mine], threshold, name, (split, repeat, -1)))
    return tables
