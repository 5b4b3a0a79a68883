"""A study of two genes: one that a feature tells, one that nothing does."""

import numpy as np
import pandas as pd

from helpers.models.bags import collect_bags
from helpers.models.study import Study


def make_study(n: int = 60, *, n_frozen: int = 8) -> tuple[Study, pd.DataFrame]:
    """Two folds of sites and some frozen cases; gene a is linear in the mean of feature 0, gene b is noise."""
    rng = np.random.default_rng(4)
    latent = rng.normal(size=n)
    bags = [rng.normal(size=(int(rng.integers(4, 12)), 3)) + np.array([value, 0, 0]) for value in latent]
    cases = pd.Index([f"{i:03d}" for i in range(n)], name="case_id")
    site = pd.Series([f"S{i % 6}" for i in range(n)], index=cases)
    rows = [(0, -1, case, "external") for case in cases[:n_frozen]]
    for fold in (0, 1):
        for i, case in enumerate(cases[n_frozen:], start=n_frozen):
            rows.append((0, fold, case, "test" if i % 6 % 2 == fold else "train"))
    splits = pd.DataFrame(rows, columns=["repeat", "fold", "case_id", "role"])
    expression = pd.DataFrame({"a": latent + 0.2 * rng.normal(size=n), "b": rng.normal(size=n)}, index=cases)
    return Study(collect_bags(bags), cases, splits, site, 7), expression
