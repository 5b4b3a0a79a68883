"""Chapter 05: every gene of a list predicted by several arms on the same folds, and hotspot maps of held-out cases."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from helpers.core.errors import ModelError
from helpers.core.progress import track
from helpers.models.arms import Arm, FittedArm, combine_arms, list_arms
from helpers.models.hotspots import HotspotArm, HotspotFit, draw_attention, list_hotspot_arms, weigh_untrained
from helpers.models.linear import tabulate_predictions
from helpers.models.study import Study, check_arms, limit_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

GeneFits = dict[str, list[FittedArm]]
"""Arm to the fitted arms of the folds of one partition."""
COMBINED: Final = ("blend", "chosen")
"""Arms made of others: the average of z-scored members, and per gene the member with the least inner error."""
MAPS: Final = ("value", "attention", "product")
"""What a tile's map may show; product: attention times the value's distance from the training mean."""


def list_gene_arms() -> dict[str, Arm]:
    """Return the arms that regress genes, by name.

    Returns
    -------
    dict of str to Arm
        The single arms of chapter 03, then those of `helpers.models.hotspots`; `COMBINED` are made of them.
    """
    single = {name: arm for name, arm in list_arms().items() if name not in {"average", "ensemble", "ensemble_all"}}
    return single | dict(list_hotspot_arms())


@dataclass(frozen=True)
class ChosenFit:
    """Per gene the fitted member that predicted best on the inner folds.

    Parameters
    ----------
    members : mapping of str to FittedArm
    which : ndarray, (k,), int
        Member of each gene.
    inner : ndarray, (n, k)
    """

    members: Mapping[str, FittedArm]
    which: "NDArray[np.intp]"
    inner: np.ndarray

    def predict(self, bags: Sequence[np.ndarray]) -> np.ndarray:
        """Predict cases.

        Parameters
        ----------
        bags : Bags or sequence of ndarray

        Returns
        -------
        ndarray, (n_cases, k)
        """
        return self._pick([member.predict(bags) for member in self.members.values()])

    def score_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Score tiles; raises where a chosen member gives no tile scores.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, k)
        """
        used = set(self.which.tolist())
        empty = np.full((len(tiles), len(self.which)), np.nan)
        scored = [m.score_tiles(tiles) if i in used else empty for i, m in enumerate(self.members.values())]
        return self._pick(scored)

    def _pick(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(values)[self.which, :, np.arange(len(self.which))].T

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Not stored: the members are."""
        msg = "ModelError: a choice among arms is not stored as an arm. Store its members and `which`."
        raise ModelError(msg)


def choose_arms(members: Mapping[str, FittedArm], labels: np.ndarray) -> ChosenFit:
    """Choose, for every gene, the member with the least squared error over the inner folds.

    Parameters
    ----------
    members : mapping of str to FittedArm
        Fitted on the same training cases.
    labels : ndarray, (n, k)

    Returns
    -------
    ChosenFit
    """
    inner = np.stack([member.inner for member in members.values()])  # (n_members, n, k)
    which = ((inner - labels) ** 2).sum(axis=1).argmin(axis=0)
    return ChosenFit(members, which, inner[which, :, np.arange(labels.shape[1])].T)


def fit_fold(study: Study, labels: np.ndarray, arms: Sequence[str], *, repeat: int, fold: int) -> dict[str, FittedArm]:
    """Fit arms on the training cases of one fold; combined arms take all single ones that give inner predictions.

    Parameters
    ----------
    study : Study
    labels : ndarray, (n_train, k)
    arms : sequence of str
    repeat, fold : int

    Returns
    -------
    dict of str to FittedArm
    """
    known = list_gene_arms()
    single = [name for name in arms if name not in COMBINED]
    fitted: dict[str, FittedArm] = {n: study.prepare(known[n], repeat, fold).fit(labels) for n in single}
    members = {name: fitted[name] for name in single}
    if "blend" in arms:
        fitted["blend"] = combine_arms(members, labels, max_rounds=0)
    if "chosen" in arms:
        fitted["chosen"] = choose_arms(members, labels)
    return {name: fitted[name] for name in arms}


def check_gene_arms(arms: Sequence[str]) -> None:
    """Raise where an arm is unknown, named twice, or a combined one has nothing to combine.

    Parameters
    ----------
    arms : sequence of str

    Raises
    ------
    ModelError
        Names the arm, and those there are.
    """
    check_arms(arms, [*list_gene_arms(), *COMBINED])
    if set(arms) <= set(COMBINED):
        msg = f"ModelError: arms {list(arms)} combine others, and no other is named. Name two or more single arms too."
        raise ModelError(msg)


def predict_genes(
    study: Study,
    expression: pd.DataFrame,
    arms: Sequence[str],
    *,
    repeats: Sequence[int] = (0,),
    workers: int = 1,
) -> tuple[pd.DataFrame, GeneFits]:
    """Fit every arm on all genes at once, fold by fold; predict held-out cases, and frozen cases by the mean of folds.

    Parameters
    ----------
    study : Study
    expression : DataFrame, (n_cases, n_genes)
        log2 values of the study's cases, in their order.
    arms : sequence of str
    repeats : sequence of int
        Partitions.
    workers : int
        Threads; folds are shared out, and the numbers do not depend on it.

    Returns
    -------
    predictions : DataFrame
        case_id, split, repeat, fold, target (gene), arm, y_true, y_pred.
    fits : dict of str to list of FittedArm
        Of the first partition.

    Raises
    ------
    ModelError
        When an arm is unknown, or expression and study hold other cases.
    """
    check_gene_arms(arms)
    if not expression.index.equals(study.cases):
        msg = "ModelError: expression and study hold other cases, or the same in another order. Index one by the other."
        raise ModelError(msg)
    jobs = study.list_folds(repeats)
    with limit_threads(), ThreadPoolExecutor(max(1, workers)) as pool:
        running = pool.map(lambda job: _run_fold(study, expression, arms, *job, keep=job[0] == repeats[0]), jobs)
        results = list(track(running, total=len(jobs), describe="fit genes"))
    tables = [table for table, _, _ in results]
    for repeat in repeats:
        guesses = [frozen for (r, _), (_, frozen, _) in zip(jobs, results, strict=True) if r == repeat]
        tables += _average_frozen(study, expression, repeat, guesses)
    fits: GeneFits = {name: [fitted[name] for _, _, fitted in results if fitted] for name in arms}
    return pd.concat(tables, ignore_index=True), fits


Guesses = dict[str, np.ndarray]


def _run_fold(
    study: Study, expression: pd.DataFrame, arms: Sequence[str], repeat: int, fold: int, *, keep: bool
) -> tuple[pd.DataFrame, Guesses, dict[str, FittedArm]]:
    train, test = study.locate(repeat, fold)
    fitted = fit_fold(study, expression.to_numpy(float)[train], arms, repeat=repeat, fold=fold)
    held_out, truth = study.bags.take(test), expression.iloc[test]
    outside = study.bags.take(study.cases.get_indexer(study.frozen["case_id"]))
    tables = [
        tabulate_predictions(truth, fit.predict(held_out), "development", repeat, fold, name)
        for name, fit in fitted.items()
    ]
    frozen = {name: fit.predict(outside) for name, fit in fitted.items()} if len(outside) else {}
    return pd.concat(tables, ignore_index=True), frozen, fitted if keep else {}


def _average_frozen(
    study: Study, expression: pd.DataFrame, repeat: int, guesses: Sequence[Guesses]
) -> list[pd.DataFrame]:
    frozen, tables = study.frozen, []
    for name in guesses[0]:
        mean = np.mean([guess[name] for guess in guesses], axis=0)
        for split in frozen["role"].unique():
            rows = frozen["role"].eq(split).to_numpy()
            truth = expression.loc[frozen["case_id"][rows]]
            tables.append(tabulate_predictions(truth, mean[rows], split, repeat, -1, name))
    return tables


def explain_slide(fits: Sequence[FittedArm], tiles: np.ndarray, *, columns: Sequence[int]) -> dict[str, np.ndarray]:
    """Map a slide for some genes, averaged over models.

    Parameters
    ----------
    fits : sequence of FittedArm
        Those that did not see the case.
    tiles : ndarray, (n_tiles, d)
    columns : sequence of int
        Genes.

    Returns
    -------
    dict of str to ndarray, (n_tiles, len(columns))
        value; and, of arms with attention, attention and product.
    """
    columns = list(columns)
    if not all(isinstance(fit, HotspotFit) for fit in fits):
        return {"value": np.mean([fit.score_tiles(tiles)[:, columns] for fit in fits], axis=0)}
    pairs = [fit.explain_tiles(tiles, columns=columns) for fit in fits if isinstance(fit, HotspotFit)]
    values, attention = (np.mean([pair[i] for pair in pairs], axis=0) for i in (0, 1))
    centre = np.mean([fit.centre[columns] for fit in fits if isinstance(fit, HotspotFit)], axis=0)
    return {"value": values, "attention": attention, "product": attention * (values - centre)}


def draw_random_attention(fit: HotspotFit, tiles: np.ndarray, *, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return the attention of nets that were drawn and never trained: what an attention map looks like by itself.

    Parameters
    ----------
    fit : HotspotFit
        Whose inputs are used.
    tiles : ndarray, (n_tiles, d)
    n_draws : int
    rng : numpy Generator
        Seeded alike for every slide, so that a draw is one net.

    Returns
    -------
    ndarray, (n_tiles, n_draws)
        Columns sum to 1.
    """
    arm = HotspotArm(n_attention=1, trunk=fit.arm.trunk, attention_width=fit.arm.attention_width)
    bound, n_inputs = 1 / np.sqrt(fit.nets[0]["w0"].shape[1]), fit.nets[0]["w0"].shape[1]
    net = {"w0": rng.uniform(-bound, bound, (n_draws, n_inputs, arm.trunk))}
    net["b0"] = rng.uniform(-bound, bound, (n_draws, 1, arm.trunk))
    return weigh_untrained(fit, tiles, net | draw_attention(arm, n_draws, rng=rng))


def call_subtypes(values: pd.DataFrame, measured: pd.DataFrame, subtype: pd.Series) -> pd.Series:
    """Give every case the subtype whose centroid its genes resemble most; a PAM50-like call, not PAM50's own.

    Parameters
    ----------
    values : DataFrame, (n_cases, n_genes)
        Predicted or measured, log2. Genes are standardised over these cases.
    measured : DataFrame, (n_train, n_genes)
        Of training cases, from which centroids are made: mean z-score of each gene within a subtype.
    subtype : Series
        Of training cases.

    Returns
    -------
    Series of str
        By Spearman correlation.
    """
    z = ((measured - measured.mean()) / measured.std()).loc[subtype.index]
    centroids = z.groupby(subtype).mean()
    own = ((values - values.mean()) / values.std())[centroids.columns]
    ranked, ranks = centroids.rank(axis=1), own.rank(axis=1)
    similarity = np.corrcoef(np.vstack([ranked, ranks]))[len(ranked) :, : len(ranked)]
    return pd.Series(centroids.index.to_numpy()[similarity.argmax(axis=1)], index=values.index)
