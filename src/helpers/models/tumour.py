"""Which tiles are tumour: those inside outlines somebody drew, or those a small classifier of tiles calls so.

The published system read tiles inside a cancer mask. Here the mask is a choice (`tumour_filter`), so that its worth can
be measured. The classifier is a logistic regression on the same tile features, taught by outlines of development
cases; it never sees a score. Where outlines exist for every slide, they can be used as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.core import paths
from helpers.core.errors import FeatureError
from helpers.features.store import FeatureBag
from helpers.models.descriptors import guard_scale
from helpers.models.inputs import make_readers, read_slide
from helpers.models.linear import Measure, predict_study
from helpers.models.pooling import pool_cases_by
from helpers.slides.annotation import read_annotations

MIN_TILES = 20
"""Tiles inside and outside of outlines that the classifier needs."""

FILTER_ARMS: Final = {"none": "all_tiles", "polygon": "inside_outlines", "model": "called_tumour"}
"""What `predict_by_filter` calls the choices of `tumour_filter`."""


@dataclass(frozen=True)
class TumourModel:
    """A logistic regression of "this tile is tumour" on its features.

    Parameters
    ----------
    mean, scale, weights : ndarray, (d,)
    intercept : float
    n_slides : int
        With outlines, learnt from.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: float
    n_slides: int

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the probability that each tile is tumour.

        Parameters
        ----------
        features : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles,)
        """
        from scipy.special import expit

        return np.asarray(expit((features - self.mean) / self.scale @ self.weights + self.intercept), float)


def find_outlines(folder: str | Path, slide_ids: Sequence[str]) -> dict[str, Path]:
    """Find the outlines of slides.

    Parameters
    ----------
    folder : str or Path
        Of <slide_id>.geojson.
    slide_ids : sequence of str

    Returns
    -------
    dict of str to Path
        Slides without a file are absent.

    Raises
    ------
    FeatureError
        When no slide has one.
    """
    place = paths.resolve(folder)
    found = {name: place / f"{name}.geojson" for name in slide_ids if (place / f"{name}.geojson").is_file()}
    if not found:
        first = slide_ids[0] if len(slide_ids) else "slide_id"
        msg = f"FeatureError: no outline of {len(slide_ids)} slides in '{place}', looked first for '{first}.geojson'."
        raise FeatureError(msg)
    return found


def find_inside(bag: FeatureBag, outline: Path, *, slide_id: str, classes: Sequence[str]) -> np.ndarray:
    """Say which tiles have their centre inside an outline.

    Parameters
    ----------
    bag : FeatureBag
    outline : Path
    slide_id : str
    classes : sequence of str

    Returns
    -------
    ndarray, (n_tiles,), bool

    Raises
    ------
    FeatureError
        When the features carry no coordinates.
    """
    import shapely

    if bag.coords_l0 is None or "patch_size_level0" not in bag.attributes:
        msg = f"FeatureError: the features of slide '{slide_id}' state no place, so no outline can choose among them."
        raise FeatureError(msg)
    centres = bag.coords_l0 + float(bag.attributes["patch_size_level0"]) / 2
    area = read_annotations(outline, slide_id=slide_id, classes=classes)
    return np.asarray(shapely.contains_xy(area, centres[:, 0], centres[:, 1]), bool)


def fit_tumour_model(
    files: pd.DataFrame, outlines: Mapping[str, Path], *, classes: Sequence[str], cases: pd.Index
) -> TumourModel:
    """Learn what tumour looks like from outlined slides of given cases.

    Parameters
    ----------
    files : DataFrame
        slide_id, case_id, features_file.
    outlines : mapping of str to Path
    classes : sequence of str
    cases : Index
        Development cases; outlines of others are not read.

    Returns
    -------
    TumourModel

    Raises
    ------
    FeatureError
        When there are too few tiles of either kind.
    """
    from sklearn.linear_model import LogisticRegression

    usable = files[files["slide_id"].isin(list(outlines)) & files["case_id"].isin(cases)]
    tiles, inside = [], []
    for slide_id, path in zip(usable["slide_id"], usable["features_file"], strict=True):
        bag = read_slide(path, slide_id)
        tiles.append(np.asarray(bag.features, float))
        inside.append(find_inside(bag, outlines[slide_id], slide_id=slide_id, classes=classes))
    n_in, n_out = (int(sum((part == side).sum() for part in inside)) for side in (True, False))
    if min(n_in, n_out) < MIN_TILES:
        msg = (
            f"FeatureError: {n_in} tiles inside and {n_out} outside the outlines of {len(usable)} development slides; "
            f"the classifier needs {MIN_TILES} of each. Outline more slides, or set tumour_filter to none."
        )
        raise FeatureError(msg)
    x, y = np.concatenate(tiles), np.concatenate(inside)
    mean = x.mean(axis=0)
    scale = guard_scale(x.std(axis=0), mean)
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000).fit((x - mean) / scale, y)
    return TumourModel(mean, scale, model.coef_[0], float(model.intercept_[0]), len(usable))


@dataclass(frozen=True, kw_only=True)
class TumourFilter:
    """Says which tiles of a slide are tumour; other encoders of the same tiles (controls) get the same choice.

    Parameters
    ----------
    model : TumourModel, optional
        Calls tiles; without it the outlines choose.
    outlines : mapping of str to Path
        By slide; read where there is no model. A slide without one keeps no tile.
    classes : sequence of str
        Of outlines.
    min_probability : float
        Of the model.
    """

    model: TumourModel | None = None
    outlines: Mapping[str, Path] = field(default_factory=dict)
    classes: Sequence[str] = ()
    min_probability: float = 0.5
    known: dict[str, np.ndarray] = field(default_factory=dict, repr=False, init=False)

    def __call__(self, slide_id: str, bag: FeatureBag) -> np.ndarray:
        """Choose among the tiles of a slide.

        Parameters
        ----------
        slide_id : str
        bag : FeatureBag

        Returns
        -------
        ndarray, (n_tiles,), bool
        """
        if slide_id not in self.known:
            self.known[slide_id] = self._choose(slide_id, bag)
        return self.known[slide_id]

    def _choose(self, slide_id: str, bag: FeatureBag) -> np.ndarray:
        if self.model is not None:
            return self.model.predict(bag.features) >= self.min_probability
        if slide_id in self.outlines:
            return find_inside(bag, self.outlines[slide_id], slide_id=slide_id, classes=self.classes)
        return np.zeros(len(bag.features), bool)


def make_tumour_filter(
    files: pd.DataFrame, *, how: str, folder: str | Path | None, classes: Sequence[str], cases: pd.Index,
    min_probability: float = 0.5,
) -> TumourFilter | None:  # fmt: skip
    """Return the filter that a spec asks for.

    Parameters
    ----------
    files : DataFrame
        slide_id, case_id, features_file.
    how : str
        none, polygon or model.
    folder : str or Path, optional
        Of outlines.
    classes : sequence of str
    cases : Index
        Development cases, which the model may learn from.
    min_probability : float

    Returns
    -------
    TumourFilter or None

    Raises
    ------
    FeatureError
        When outlines are missing, or too few for the model.
    """
    if how == "none" or folder is None:
        return None
    outlines = find_outlines(folder, files["slide_id"].tolist())
    model = fit_tumour_model(files, outlines, classes=classes, cases=cases) if how == "model" else None
    return TumourFilter(model=model, outlines=outlines, classes=classes, min_probability=min_probability)


def predict_by_filter(
    files: pd.DataFrame, measure: Measure, splits: pd.DataFrame, *, site: pd.Series, folder: str | Path,
    classes: Sequence[str], cases: pd.Index, min_probability: float = 0.5, aggregation: str = "mean", **filters: Any,
) -> pd.DataFrame:  # fmt: skip
    """Predict by the plain ridge from all tiles, from those inside outlines, and from those called tumour.

    All three are judged on the cases that keep a tile under each.

    Parameters
    ----------
    files : DataFrame
        slide_id, case_id, features_file.
    measure : callable
        Training cases to the targets of all cases.
    splits : DataFrame
    site : Series
        By case_id.
    folder : str or Path
        Of outlines.
    classes : sequence of str
    cases : Index
        Development cases, which the classifier may learn from.
    min_probability : float
    aggregation : str
    **filters : Any
        Options of `select_tiles`.

    Returns
    -------
    DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred; arms as in `FILTER_ARMS`.

    Raises
    ------
    FeatureError
        When outlines are missing, or too few for the classifier.
    """
    options: dict[str, Any] = {"folder": folder, "classes": classes, "cases": cases, "min_probability": min_probability}
    keeps = {arm: make_tumour_filter(files, how=how, **options) for how, arm in FILTER_ARMS.items()}
    pooled = pool_cases_by(files, make_readers(files, keeps, **filters), list(keeps), aggregation=aggregation)
    shared = sorted(set.intersection(*(set(table.index) for table in pooled.values())) & set(splits["case_id"]))
    tables = [predict_study(x.loc[shared], measure, splits, arm=arm, groups=site)[0] for arm, x in pooled.items()]
    return pd.concat(tables, ignore_index=True)
