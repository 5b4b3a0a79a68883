"""The integer programme behind site-preserved folds: whole sites to folds, counts and strata as equal as they get."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from helpers.core.errors import SplitError

SLACK = 1.5  # a repeated partition may be this much less balanced than the best one
ATTEMPTS = 40  # random objectives tried per further partition before giving up


@dataclass(frozen=True)
class SiteProgramme:
    """Whole sites to folds: minimise the summed deviation of every count from an equal share.

    Parameters
    ----------
    sites : ndarray, (n_cases,), int
        Site codes 0 .. n_sites - 1.
    levels : ndarray, (n_cases, n_columns), int
        Stratum codes, one column per variable to balance.
    n_folds : int
    """

    sites: np.ndarray
    levels: np.ndarray
    n_folds: int

    @cached_property
    def counts(self) -> np.ndarray:
        """Cases per stratum and site, (1 + n_strata, n_sites); row 0 counts all cases."""
        n_sites = int(self.sites.max()) + 1
        members = [np.ones(len(self.sites), bool)]
        members += [column == level for column in self.levels.T for level in np.unique(column)]
        return np.stack([np.bincount(self.sites[rows], minlength=n_sites) for rows in members]).astype(float)

    @cached_property
    def weights(self) -> np.ndarray:
        """What a case out of balance costs, (1 + n_strata,): each stratified column as much as the case count."""
        return np.concatenate([[1.0], *[np.full(n, 2.0 / n) for n in (len(np.unique(c)) for c in self.levels.T)]])

    def compute_imbalance(self, plan: np.ndarray) -> float:
        """Sum the weighted deviations of a plan.

        Parameters
        ----------
        plan : ndarray, (n_sites,), int
            Fold of each site.

        Returns
        -------
        float
            In cases; 0 is perfect balance.
        """
        placed = self.counts @ (plan[:, None] == np.arange(self.n_folds))
        return float(self.weights @ np.abs(placed - self.counts.sum(1, keepdims=True) / self.n_folds).sum(1))

    def solve(self, costs: np.ndarray | None = None, cap: float = np.inf) -> np.ndarray | None:
        """Return the best plan whose imbalance is at most `cap`.

        Parameters
        ----------
        costs : ndarray, (n_sites, n_folds), optional
            What each placement costs on top of imbalance; random costs pull the solution elsewhere.
        cap : float

        Returns
        -------
        ndarray, (n_sites,), int, or None
            Fold of each site; None when no plan satisfies the cap.
        """
        from scipy.optimize import Bounds, milp

        n_sites, n_rows = self.counts.shape[1], len(self.counts)
        n_binary, n_slack = n_sites * self.n_folds, n_rows * self.n_folds
        pull = np.zeros(n_binary) if costs is None else costs.ravel()
        solved = milp(
            np.concatenate([pull, np.repeat(self.weights, self.n_folds)]),
            constraints=self._list_constraints(cap),
            integrality=np.repeat([1, 0], [n_binary, n_slack]),
            bounds=Bounds(0, np.concatenate([self._break_symmetry().ravel(), np.full(n_slack, np.inf)])),
            options={"mip_rel_gap": 0.0 if costs is None else 0.05, "node_limit": 2000},  # nodes: the same anywhere
        )
        return None if solved.x is None else solved.x[:n_binary].reshape(n_sites, self.n_folds).argmax(1)

    def _list_constraints(self, cap: float) -> list[Any]:
        """One fold per site; no fold empty; slack >= |count - share|; summed slack <= cap."""
        from scipy import sparse
        from scipy.optimize import LinearConstraint

        n_sites, n_rows = self.counts.shape[1], len(self.counts)
        n_slack = n_rows * self.n_folds
        per_fold = sparse.eye(self.n_folds)
        placed = sparse.kron(self.counts, per_fold)  # rows: stratum x fold, columns: site x fold
        share = np.repeat(self.counts.sum(1) / self.n_folds, self.n_folds)
        slack = sparse.eye(n_slack)
        per_site = sparse.kron(sparse.eye(n_sites), np.ones((1, self.n_folds)))
        filled = sparse.kron(np.ones((1, n_sites)), per_fold)
        total = np.concatenate([np.zeros(n_sites * self.n_folds), np.repeat(self.weights, self.n_folds)])[None]
        return [
            LinearConstraint(sparse.hstack([per_site, sparse.csr_matrix((n_sites, n_slack))]), 1, 1),
            LinearConstraint(sparse.hstack([filled, sparse.csr_matrix((self.n_folds, n_slack))]), 1, np.inf),
            LinearConstraint(sparse.hstack([placed, -slack]), -np.inf, share),
            LinearConstraint(sparse.hstack([placed, slack]), share, np.inf),
            LinearConstraint(total, -np.inf, cap),
        ]

    def _break_symmetry(self) -> np.ndarray:
        """Fold names mean nothing: the i-th largest site may only open fold i or join an earlier one."""
        allowed = np.ones((self.counts.shape[1], self.n_folds))
        for i, site in enumerate(np.argsort(-self.counts[0], kind="stable")[: self.n_folds]):
            allowed[site, i + 1 :] = 0
        return allowed

    def solve_repeatedly(self, repeats: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Find different partitions, the most balanced one first.

        Parameters
        ----------
        repeats : int
        rng : numpy Generator

        Returns
        -------
        list of ndarray, (n_cases,), int
            Fold of each case.

        Raises
        ------
        SplitError
            When fewer than `repeats` different partitions are found.
        """
        best = self.solve()
        if best is None:
            msg = f"SplitError: no partition of {int(self.sites.max()) + 1} sites into {self.n_folds} folds was found."
            raise SplitError(msg)
        found = {canonicalise(best): best}
        cap, scale = SLACK * max(self.compute_imbalance(best), 1.0), len(self.sites) / (4 * self.n_folds)
        for _ in range(ATTEMPTS * repeats):
            if len(found) >= repeats:
                break
            plan = self.solve(costs=rng.uniform(0, scale, (self.counts.shape[1], self.n_folds)), cap=cap)
            known = plan is None or canonicalise(plan) in found
            if plan is None or known:  # nothing new this near to the best one: allow, and pull, a little more
                cap, scale = 1.05 * cap, 1.1 * scale
            else:
                found[canonicalise(plan)] = plan
        if len(found) < repeats:
            msg = (
                f"SplitError: only {len(found)} different partitions of {int(self.sites.max()) + 1} sites into "
                f"{self.n_folds} folds were found, {repeats} were asked. Set n_repeats to {len(found)}."
            )
            raise SplitError(msg)
        return [plan[self.sites] for plan in found.values()]


def canonicalise(plan: np.ndarray) -> tuple[int, ...]:
    """Name folds in order of first appearance, so that equal partitions compare equal.

    Parameters
    ----------
    plan : ndarray, (n_sites,), int

    Returns
    -------
    tuple of int
    """
    names: dict[int, int] = {}
    return tuple(names.setdefault(int(fold), len(names)) for fold in plan)
