"""A study of arms: every arm, fold and partition, fitted once; held-out and frozen cases predicted."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.core.errors import ModelError
from helpers.core.progress import track
from helpers.models.arms import Arm, EnsembleArm, FittedArm, PreparedArm, combine_arms, list_arms
from helpers.models.bags import Bags
from helpers.models.linear import Measure, tabulate_predictions

if TYPE_CHECKING:
    from collections.abc import Iterator

Fits = dict[int, dict[str, list[FittedArm]]]
"""Repeat, then arm, to the fitted arms of its folds."""


class FoldedCases:
    """Cases and where the splits put them; what every study of models stands on."""

    if TYPE_CHECKING:

        @property
        def cases(self) -> pd.Index: ...  # noqa: D102 - given by the study

        @property
        def splits(self) -> pd.DataFrame: ...  # noqa: D102

    @property
    def frozen(self) -> pd.DataFrame:
        """Cases in no fold: case_id, role."""
        return self.splits[(self.splits["fold"] < 0) & self.splits["case_id"].isin(self.cases)]

    def list_folds(self, repeats: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """List (repeat, fold) of the development folds that test a case.

        Parameters
        ----------
        repeats : sequence of int, optional
            Default: all.

        Returns
        -------
        list of tuple
        """
        tested = self.splits["role"].eq("test") & (self.splits["fold"] >= 0) & self.splits["case_id"].isin(self.cases)
        folds = self.splits.loc[tested, ["repeat", "fold"]].drop_duplicates()
        if repeats is not None:
            folds = folds[folds["repeat"].isin(list(repeats))]
        return [(int(r), int(f)) for r, f in folds.sort_values(["repeat", "fold"]).to_numpy()]

    def locate(self, repeat: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of training (train + val) and test cases of a fold.

        Parameters
        ----------
        repeat, fold : int

        Returns
        -------
        train, test : ndarray, int
        """
        rows = self.splits[(self.splits["repeat"] == repeat) & (self.splits["fold"] == fold)]
        role = rows.set_index("case_id")["role"].reindex(self.cases)
        return np.flatnonzero(role.notna() & role.ne("test")), np.flatnonzero(role.eq("test"))


@dataclass(frozen=True)
class Study(FoldedCases):
    """What an arm is fitted to.

    Parameters
    ----------
    bags : Bags
    cases : Index
        Case of each bag.
    splits : DataFrame
        repeat, fold, case_id, role; cases without a bag are left out.
    groups : Series
        Site by `case_id`, for inner folds.
    seed : int
        Of arms that draw: the numbers depend on seed, repeat and fold alone, not on threads.
    aggregation : str
        Of the plain ridge.
    """

    bags: Bags
    cases: pd.Index
    splits: pd.DataFrame
    groups: pd.Series
    seed: int
    aggregation: str = "mean"

    @property
    def recipes(self) -> dict[str, Arm]:
        """Every arm by name."""
        return list_arms(aggregation=self.aggregation)

    def prepare(self, arm: Arm, repeat: int, fold: int) -> PreparedArm:
        """Digest the training cases of a fold for an arm.

        Parameters
        ----------
        arm : Arm
        repeat, fold : int

        Returns
        -------
        PreparedArm
        """
        train, _ = self.locate(repeat, fold)
        groups = self.groups.loc[self.cases[train]].to_numpy()
        return arm.prepare(self.bags.take(train), groups=groups, rng=np.random.default_rng([self.seed, repeat, fold]))


def predict_arms(
    study: Study, measure: Measure, arms: Sequence[str], *, repeats: Sequence[int] | None = None, workers: int = 1
) -> tuple[pd.DataFrame, Fits]:
    """Fit every arm on every fold, predict held-out cases out of fold and frozen cases by the mean of all folds.

    Members that an ensemble shares with the list of arms are fitted once.

    Parameters
    ----------
    study : Study
    measure : callable
        Training case ids to targets of all cases.
    arms : sequence of str
        Names in `list_arms()`.
    repeats : sequence of int, optional
        Default: all.
    workers : int
        Threads; folds are shared out, and the numbers do not depend on it.

    Returns
    -------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred; fold -1 is the ensemble of folds on frozen cases.
    fits : dict of int to dict of str to list of FittedArm

    Raises
    ------
    ModelError
        When an arm is unknown.
    """
    check_arms(arms)
    jobs = study.list_folds(repeats)
    with limit_threads(), ThreadPoolExecutor(max(1, workers)) as pool:
        running = pool.map(lambda job: _run_fold(study, measure, arms, *job), jobs)
        results = list(track(running, total=len(jobs), describe="fit arms"))
    tables: list[pd.DataFrame] = []
    fits: Fits = {}
    for (repeat, _), (table, fitted, _) in zip(jobs, results, strict=True):
        tables.append(table)
        for name, fit in fitted.items():
            fits.setdefault(repeat, {}).setdefault(name, []).append(fit)
    for repeat in fits:
        guesses = [frozen for (r, _), (_, _, frozen) in zip(jobs, results, strict=True) if r == repeat]
        tables += _average_frozen(study, measure, repeat, guesses)
    return pd.concat(tables, ignore_index=True), fits


def _run_fold(
    study: Study, measure: Measure, arms: Sequence[str], repeat: int, fold: int
) -> tuple[pd.DataFrame, dict[str, FittedArm], dict[str, np.ndarray]]:
    train, test = study.locate(repeat, fold)
    measured = measure(study.cases[train])
    labels = measured.loc[study.cases[train]].to_numpy(float)
    fitted = fit_arms(study, arms, labels, repeat=repeat, fold=fold)
    truth, held_out = measured.loc[study.cases[test]], study.bags.take(test)
    outside = study.bags.take(study.cases.get_indexer(study.frozen["case_id"]))
    tables, frozen = [], {}
    for name in arms:
        predicted = fitted[name].predict(held_out)
        tables.append(tabulate_predictions(truth, predicted, "development", repeat, fold, name))
        if len(outside):
            frozen[name] = fitted[name].predict(outside)
    return pd.concat(tables, ignore_index=True), {name: fitted[name] for name in arms}, frozen


def fit_arms(study: Study, arms: Sequence[str], labels: np.ndarray, *, repeat: int, fold: int) -> dict[str, FittedArm]:
    """Fit arms, and the members of those that are ensembles, on one fold; each recipe once.

    Parameters
    ----------
    study : Study
    arms : sequence of str
    labels : ndarray, (n_train, k)
    repeat, fold : int

    Returns
    -------
    dict of str to FittedArm
        Members too.
    """
    known, fitted = study.recipes, {}
    for name in list_recipes(arms):
        fitted[name] = study.prepare(known[name], repeat, fold).fit(labels)
    for name in arms:
        arm = known[name]
        if isinstance(arm, EnsembleArm):
            members = {member: fitted[member] for member in arm.members}
            fitted[name] = combine_arms(members, labels, max_rounds=arm.max_rounds)
    return fitted


def list_recipes(arms: Sequence[str]) -> list[str]:
    """List what must be fitted for a list of arms: ensembles are replaced by their members, each named once.

    Parameters
    ----------
    arms : sequence of str

    Returns
    -------
    list of str
    """
    known, names = list_arms(), []
    for name in arms:
        arm = known[name]
        names += list(arm.members) if isinstance(arm, EnsembleArm) else [name]
    return list(dict.fromkeys(names))


def check_arms(arms: Sequence[str], known: Collection[str] | None = None) -> None:
    """Raise where an arm is unknown or named twice.

    Parameters
    ----------
    arms : sequence of str
    known : collection of str, optional
        Default: the arms of `list_arms`.

    Raises
    ------
    ModelError
        Names the arm, and those there are.
    """
    known = list_arms() if known is None else known
    for name in arms:
        if name not in known or list(arms).count(name) > 1:
            what = "is named twice" if name in known else "does not exist"
            msg = f"ModelError: arm '{name}' {what}; there are {', '.join(known)}. Name each one wanted once."
            raise ModelError(msg)


def _average_frozen(
    study: Study, measure: Measure, repeat: int, guesses: Sequence[Mapping[str, np.ndarray]]
) -> list[pd.DataFrame]:
    if not guesses[0]:
        return []
    frozen = study.frozen
    development = study.cases[study.cases.isin(study.splits.loc[study.splits["fold"] >= 0, "case_id"])]
    truth, tables = measure(development).loc[frozen["case_id"]], []
    for name in guesses[0]:
        mean = np.mean([guess[name] for guess in guesses], axis=0)
        for split in frozen["role"].unique():
            rows = frozen["role"].eq(split).to_numpy()
            tables.append(tabulate_predictions(truth[rows], mean[rows], split, repeat, -1, name))
    return tables


def find_held_out(study: FoldedCases, case_id: str, fits: Sequence[FittedArm], *, repeat: int = 0) -> list[FittedArm]:
    """Return the models that did not see a case: that of its fold, or all where it is in none.

    Parameters
    ----------
    study : Study
    case_id : str
    fits : sequence of FittedArm
        Of the folds of a partition, in order.
    repeat : int

    Returns
    -------
    list of FittedArm
    """
    rows = study.splits[(study.splits["repeat"] == repeat) & (study.splits["case_id"] == case_id)]
    folds = [fold for _, fold in study.list_folds([repeat])]
    own = rows.loc[rows["role"].eq("test") & (rows["fold"] >= 0), "fold"]
    return [fits[folds.index(int(own.iloc[0]))]] if len(own) else list(fits)


class ArmFolds:
    """All folds of one repeat for one arm, digested once, ready to be refitted on any labels.

    The counterpart of `helpers.models.linear.RidgeFolds` for every arm.

    Parameters
    ----------
    study : Study
    arm : str
    repeat : int
    workers : int
        Threads; folds are shared out, and the numbers do not depend on it.

    Attributes
    ----------
    slow : list of str
        What the arm rests on that is trained anew for each label, so that hundreds of refits take hundreds of fits.
    """

    def __init__(self, study: Study, arm: str, *, repeat: int = 0, workers: int = 1) -> None:
        check_arms([arm])
        known = study.recipes
        self.slow = [name for name in list_recipes([arm]) if not known[name].refits_many]
        folds = study.list_folds([repeat])
        self.study, self.arm, self.workers = study, known[arm], max(1, workers)
        places = [study.locate(*fold) for fold in folds]
        self.rows = np.sort(np.concatenate([test for _, test in places]))
        self.cases = study.cases[self.rows]
        self.test = [np.isin(self.rows, test) for _, test in places]
        with limit_threads():
            self.prepared = [study.prepare(self.arm, *fold) for fold in folds]

    def fit(self, labels: np.ndarray) -> list[FittedArm]:
        """Refit every fold.

        Parameters
        ----------
        labels : ndarray, (n_cases, k)
            In the order of `cases`.

        Returns
        -------
        list of FittedArm
        """
        with limit_threads(), ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda one, test: one.fit(labels[~test]), self.prepared, self.test))

    def describe_cost(self, labels: np.ndarray, *, n_refits: int) -> str:
        """Say what a null with refits will take, by timing one.

        Parameters
        ----------
        labels : ndarray, (n_cases, k)
            One column of them is fitted.
        n_refits : int

        Returns
        -------
        str
        """
        if not self.slow:
            return f"{n_refits} refits share their factorisation"
        started = perf_counter()
        self.fit(labels[:, :1])
        minutes = (perf_counter() - started) * n_refits / 60
        slow = ", ".join(self.slow)
        return f"{n_refits} refits train {slow} anew, about {minutes:.0f} min; fewer n_permutations take less"

    def predict_held_out(self, models: Sequence[FittedArm]) -> np.ndarray:
        """Predict each case by the model that did not see it.

        Parameters
        ----------
        models : sequence of FittedArm

        Returns
        -------
        ndarray, (n_cases, k)
        """
        predicted: list[np.ndarray] = [
            model.predict(self.study.bags.take(self.rows[test])) for model, test in zip(models, self.test, strict=True)
        ]
        out = np.empty((len(self.rows), predicted[0].shape[1]))
        for values, test in zip(predicted, self.test, strict=True):
            out[test] = values
        return out

    def predict_outside(self, models: Sequence[FittedArm], cases: pd.Index) -> np.ndarray:
        """Predict cases outside all folds by the mean of all models.

        Parameters
        ----------
        models : sequence of FittedArm
        cases : Index

        Returns
        -------
        ndarray, (n_cases, k)
        """
        outside = self.study.bags.take(self.study.cases.get_indexer(cases))
        return np.mean([model.predict(outside) for model in models], axis=0)

    def refit(self, labels: np.ndarray) -> np.ndarray:
        """Refit every fold on labels and predict the held-out cases.

        Parameters
        ----------
        labels : ndarray, (n_cases, k)

        Returns
        -------
        ndarray, (n_cases, k)
        """
        return self.predict_held_out(self.fit(labels))


@contextmanager
def limit_threads() -> "Iterator[None]":
    """Keep linear algebra to one thread per fold inside a block: many small products gain nothing from more."""
    import sys

    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    with threadpool_limits(1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)
