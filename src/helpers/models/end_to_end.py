"""Route a of chapter 03: one network per fold, trained from tiles; out-of-fold and ensemble predictions of cases."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.device import list_accelerators, pick_device
from helpers.core.errors import SplitError
from helpers.core.progress import track
from helpers.core.provenance import Run, compute_key, list_versions
from helpers.core.specs import EndToEndSpec
from helpers.features.networks import choose_precision
from helpers.models.augment import make_plain_augmenter
from helpers.models.bundle import collect_network_manifest, write_bundle
from helpers.models.cnn import FittedNetwork, fit_scaling, read_normalisation
from helpers.models.fold_networks import (
    FoldNetworks,
    describe_networks,
    list_weights,
    make_network_scorer,
    tabulate_outputs,
)
from helpers.models.linear import Measure
from helpers.models.pooling import pool_tile_scores
from helpers.models.tilebank import TileBank
from helpers.models.training import FitJob, fit_job, score_slide, to_fitted

if TYPE_CHECKING:
    import torch

VERSION: Final = "1"
"""Raised whenever the same tiles and spec would give another network: part of a checkpoint's key."""
AGGREGATIONS: Final = ("mean", "median", "p75")
UNRELATED: Final = ("n_boot", "cache_gb", "primary_target", "calibration")
"""Fields of the spec that do not decide a network."""
ReportFold = Callable[[int, dict[str, float]], None]


def list_devices(name: str = "auto") -> "list[torch.device]":
    """Return the devices that a fit is dealt to: every CUDA device that `name` means, otherwise the one.

    Parameters
    ----------
    name : str

    Returns
    -------
    list of torch.device
    """
    return list_accelerators(name) or [pick_device(name)]


def plan_job(
    bank: TileBank, measured: pd.DataFrame, splits: pd.DataFrame, spec: EndToEndSpec, *, fold: int, folder: Path
) -> tuple[FitJob, NDArray[np.float64], NDArray[np.float64]]:
    """Lay out the fit of a fold: who trains, who validates, and their scaled labels. Test cases have no label in it.

    Parameters
    ----------
    bank : TileBank
    measured : DataFrame, (n_cases, k)
        Targets by case, with constants of the fold's training part.
    splits : DataFrame
        Of one repeat.
    spec : EndToEndSpec
    fold : int
    folder : Path
        For checkpoints.

    Returns
    -------
    job : FitJob
    centre, scale : ndarray, (k,)

    Raises
    ------
    SplitError
        When the fold has no case to train on, or none to stop by.
    """
    role = splits[splits["fold"] == fold].set_index("case_id")["role"]
    train, validation = (bank.find_slides(role.index[role == name]) for name in ("train", "val"))
    if not len(train) or not len(validation):
        msg = (
            f"SplitError: fold {fold} has {len(train)} slides to train on and {len(validation)} of role 'val', which "
            "decide when training stops. Set val_fraction above 0 in chapter 00."
        )
        raise SplitError(msg)
    names = list(spec.targets)
    centre, scale = fit_scaling(
        measured.loc[np.unique(bank.cases[train]), names].to_numpy(float), scaling=spec.target_scaling
    )
    labels = np.full((len(bank.pools), len(names)), np.nan)
    both = np.concatenate([train, validation])
    labels[both] = (measured.loc[bank.cases[both], names].to_numpy(float) - centre) / scale
    job = FitJob(
        spec=spec, bank=bank, train=train, validation=validation, labels=labels, fold=fold,
        key=compute_fit_key(bank, labels, spec, train=train, fold=fold), checkpoint=folder / f"fold-{fold}.pt",
    )  # fmt: skip
    return job, centre, scale


def compute_fit_key(
    bank: TileBank, labels: NDArray[np.float64], spec: EndToEndSpec, *, train: NDArray[np.int64], fold: int
) -> str:
    """Return what identifies a fit: tiles, labels, spec, code version, libraries.

    Parameters
    ----------
    bank : TileBank
    labels : ndarray, (n_slides, k)
    spec : EndToEndSpec
    train : ndarray, (n,), int
    fold : int

    Returns
    -------
    str, 64 hex digits
    """
    fields = {name: value for name, value in spec.key_fields().items() if name not in UNRELATED}
    named = ~np.isnan(labels).any(axis=1)
    tiles = [[bank.pools[i].table.attributes["key"], bank.pools[i].rows.tolist()] for i in np.flatnonzero(named)]
    versions = {name: list_versions()[name] for name in ("histobook", "numpy", "torch", "timm")}
    inputs = {name: _hash_file(path) for name, path in spec.list_inputs().items()}
    return compute_key(VERSION, fields, fold, tiles, labels[named].tolist(), train.tolist(), versions, inputs)


def _hash_file(path: Path) -> str:
    from helpers.core.provenance import fingerprint

    return fingerprint(path)


def train_ensemble(
    bank: TileBank, measure: Measure, splits: pd.DataFrame, spec: EndToEndSpec, *, folder: Path, device: str = "auto",
    report: ReportFold | None = None,
) -> list[FittedNetwork]:  # fmt: skip
    """Train one network per fold of a repeat. Interrupted? Call it again: finished folds are read, the rest goes on.

    Parameters
    ----------
    bank : TileBank
        Of all slides; those of test cases are not opened here.
    measure : callable
        Training case ids to targets of all cases.
    splits : DataFrame
        repeat, fold, case_id, role. Role 'train' trains, 'val' decides when to stop; no other is looked at.
    spec : EndToEndSpec
    folder : Path
        For checkpoints.
    device : str
        auto, cpu, mps, cuda (all of them, one process each), cuda:1.
    report : callable, optional
        Gets fold and row of each finished epoch.

    Returns
    -------
    list of FittedNetwork

    Raises
    ------
    SplitError
        When the repeat has no folds, or a fold no case to train on or to stop by.
    """
    rows = splits[(splits["repeat"] == spec.repeat) & (splits["fold"] >= 0)]
    if not len(rows):
        known = sorted(splits.loc[splits["fold"] >= 0, "repeat"].unique().tolist())
        msg = f"SplitError: the splits have no folds of repeat {spec.repeat}, only of {known}. Mend repeat."
        raise SplitError(msg)
    devices, fitted = list_devices(device), []
    for fold in track(sorted(rows["fold"].unique().tolist()), describe="train folds"):
        learnt = rows[(rows["fold"] == fold) & rows["role"].isin(["train", "val"])]
        measured = measure(pd.Index(learnt.loc[learnt["case_id"].isin(set(bank.cases)), "case_id"]))
        job, centre, scale = plan_job(bank, measured, rows, spec, fold=fold, folder=folder)

        def tell(row: dict[str, float], fold: int = fold) -> None:
            if report is not None:
                report(fold, row)

        network = to_fitted(fit_job(job, devices=devices, report=tell), centre=centre, scale=scale)
        if spec.calibration == "training":
            network = calibrate(bank, network, measured, spec, device=device)
        fitted.append(network)
    return fitted


def calibrate(
    bank: TileBank, fitted: FittedNetwork, measured: pd.DataFrame, spec: EndToEndSpec, *, device: str = "auto"
) -> FittedNetwork:
    """Stretch a network's scores so that the cases of its training part lie on the line measured = predicted.

    Most tiles do not show what their label says, so that a network which minimises its error says little more than the
    mean for each. Ranks within a fold stay as they are. A network that has seen its training cases too often knows them
    too well, and is then stretched too little.

    Parameters
    ----------
    bank : TileBank
    fitted : FittedNetwork
    measured : DataFrame, (n_cases, k)
        Targets; only the cases that the network saw are looked at.
    spec : EndToEndSpec
    device : str

    Returns
    -------
    FittedNetwork
        A target whose training cases are not predicted in the right order stays as it was, and that is said.
    """
    tiles = score_tiles(bank, [fitted], fitted.seen, spec, device=device)
    pooled = aggregate_scores(tiles, targets=spec.targets, aggregation=spec.aggregation)
    centre, scale = fitted.centre.copy(), fitted.scale.copy()
    for number, target in enumerate(spec.targets):
        predicted, truth = pooled[target].to_numpy(), measured.loc[pooled.index, target].to_numpy(float)
        spread = predicted.var()
        slope = float(np.cov(predicted, truth, ddof=0)[0, 1] / spread) if spread > 0 else 0.0
        if slope <= 0:
            print(f"fold {fitted.fold}: {target} is not calibrated, its slope on the training cases is {slope:.2f}")
            continue
        centre[number] = truth.mean() + slope * (centre[number] - predicted.mean())
        scale[number] *= slope
    return replace(fitted, centre=centre, scale=scale)


def predict_slides(
    bank: TileBank, networks: Sequence[FittedNetwork], cases: Sequence[str], spec: EndToEndSpec, *, device: str = "auto"
) -> pd.DataFrame:
    """Score the tiles of cases by the mean of networks.

    Parameters
    ----------
    bank : TileBank
    networks : sequence of FittedNetwork
        None of which saw the cases.
    cases : sequence of str
    spec : EndToEndSpec
    device : str

    Returns
    -------
    DataFrame
        case_id, slide_id, row (of the tile file), and a column per target in its units.

    Raises
    ------
    SplitError
        When a network was trained on one of the cases, or stopped by it.
    """
    for fitted in networks:
        seen = sorted(set(fitted.seen) & set(cases))
        if seen:
            msg = (
                f"SplitError: the network of fold {fitted.fold} saw {len(seen)} of the cases it is to predict, first "
                f"'{seen[0]}'. Predict a case by networks that did not train on it."
            )
            raise SplitError(msg)
    return score_tiles(bank, networks, cases, spec, device=device)


def score_tiles(
    bank: TileBank, networks: Sequence[FittedNetwork], cases: Sequence[str], spec: EndToEndSpec, *, device: str = "auto"
) -> pd.DataFrame:
    """Score the tiles of cases by the mean of networks, whoever trained on them: for predictions use `predict_slides`.

    Parameters
    ----------
    bank : TileBank
    networks : sequence of FittedNetwork
    cases : sequence of str
    spec : EndToEndSpec
    device : str

    Returns
    -------
    DataFrame
        As `predict_slides`.
    """
    where = list_devices(device)[0]
    precision = choose_precision(spec.precision, where)
    normalisation = read_normalisation(networks[0].network)
    augmenter = make_plain_augmenter(bank.tile_px, crop_px=spec.crop_px, input_px=spec.input_px, **normalisation)
    for fitted in networks:
        fitted.network.to(where)
    tables = []
    for slide in bank.find_slides(cases).tolist():
        scores = [
            score_slide(f.network, bank, slide, augmenter, device=where, precision=precision) * f.scale + f.centre
            for f in networks
        ]
        pool = bank.pools[slide]
        place = {"case_id": pool.case_id, "slide_id": pool.slide_id, "row": pool.rows}
        tables.append(pd.DataFrame({**place, **dict(zip(spec.targets, np.mean(scores, axis=0).T, strict=True))}))
    return pd.concat(tables, ignore_index=True)


def aggregate_scores(tiles: pd.DataFrame, *, targets: Sequence[str], aggregation: str) -> pd.DataFrame:
    """Pool the tile scores of every case: all tiles of all its slides form one bag.

    Parameters
    ----------
    tiles : DataFrame
        From `predict_slides`.
    targets : sequence of str
    aggregation : {'mean', 'median', 'p75'}

    Returns
    -------
    DataFrame, (n_cases, n_targets)
        Index `case_id`.
    """
    bags = tiles.groupby("case_id", sort=True)
    pooled = {
        case: [pool_tile_scores(bag[target].to_numpy(), aggregation=aggregation) for target in targets]
        for case, bag in bags
    }
    return pd.DataFrame.from_dict(pooled, orient="index", columns=list(targets)).rename_axis("case_id")


def predict_study(
    bank: TileBank, networks: Sequence[FittedNetwork], measure: Measure, splits: pd.DataFrame, spec: EndToEndSpec, *,
    device: str = "auto", aggregations: Sequence[str] = AGGREGATIONS,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Predict the test cases of each fold by its network, and cases outside all folds by all networks together.

    Parameters
    ----------
    bank : TileBank
    networks : sequence of FittedNetwork
        One per fold, from `train_ensemble`.
    measure : callable
    splits : DataFrame
    spec : EndToEndSpec
    device : str
    aggregations : sequence of str
        Each becomes an arm: end_to_end_mean, ...

    Returns
    -------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred; fold -1 is the ensemble on frozen cases.
    tiles : DataFrame
        From `predict_slides`, with the column `fold`.
    """
    rows, present = splits[splits["repeat"] == spec.repeat], set(bank.cases)
    in_folds = rows[(rows["fold"] >= 0) & rows["case_id"].isin(present)]
    frozen = splits[(splits["fold"] < 0) & splits["case_id"].isin(present)]
    parts: list[tuple[str, int, Any, Sequence[FittedNetwork], pd.Index]] = []
    for fitted in networks:
        here = in_folds[in_folds["fold"] == fitted.fold]
        learnt, test = (pd.Index(here.loc[here["role"].eq("test") == wanted, "case_id"]) for wanted in (False, True))
        parts.append(("development", fitted.fold, test, [fitted], learnt))
    everyone = pd.Index(in_folds["case_id"].unique())
    parts += [(str(role), -1, group["case_id"], networks, everyone) for role, group in frozen.groupby("role")]
    tables, scored = [], []
    for split, fold, cases, members, learnt in track(parts, describe="score tiles"):
        tiles = predict_slides(bank, members, list(cases), spec, device=device).assign(fold=fold)
        scored.append(tiles)
        for aggregation in aggregations:
            pooled = aggregate_scores(tiles, targets=spec.targets, aggregation=aggregation)
            place = {"split": split, "repeat": spec.repeat, "fold": fold, "arm": f"end_to_end_{aggregation}"}
            tables.append(_tabulate(pooled, measure(learnt), place))
    return pd.concat(tables, ignore_index=True), pd.concat(scored, ignore_index=True)


def _tabulate(pooled: pd.DataFrame, measured: pd.DataFrame, place: dict[str, Any]) -> pd.DataFrame:
    columns = ["case_id", "split", "repeat", "fold", "target", "arm", "y_true", "y_pred"]
    blocks = [
        pd.DataFrame({"case_id": pooled.index, "target": target, "y_pred": pooled[target].to_numpy(),
                      "y_true": measured.loc[pooled.index, target].to_numpy(float), **place})
        for target in pooled.columns
    ]  # fmt: skip
    return pd.concat(blocks, ignore_index=True)[columns]


def write_network_bundle(
    run: Run, bank: TileBank, networks: Sequence[FittedNetwork], predictions: pd.DataFrame, tiles: pd.DataFrame,
    spec: EndToEndSpec, *, device: str = "auto",
) -> list[Path]:  # fmt: skip
    """Save the networks of all folds for slides that none of them saw, with the cut-off locked, in `bundle/` of a run.

    Parameters
    ----------
    run : Run
        Of chapter A2.
    bank : TileBank
    networks : sequence of FittedNetwork
        One per fold, from `train_ensemble`.
    predictions, tiles : DataFrame
        From `predict_study`.
    spec : EndToEndSpec
        Says which target and which aggregation are declared.
    device : str
        On which they predicted; decides the precision.

    Returns
    -------
    list of Path
    """
    where, weights = list_devices(device)[0], list_weights(networks)
    precision = choose_precision(spec.precision, where)
    shape = describe_networks(networks, spec, tile_px=bank.tile_px)
    declared = (predictions["arm"] == f"end_to_end_{spec.aggregation}") & (predictions["split"] == "development")
    out_of_fold = predictions[declared & (predictions["target"] == spec.primary_target)]
    manifest = collect_network_manifest(
        run, FoldNetworks(shape, weights, device=where, precision=precision), spec, predictions=out_of_fold,
        n_slides=len(bank.find_slides(list(out_of_fold["case_id"]))), cutoff=float(out_of_fold["y_pred"].median()),
    )  # fmt: skip
    scorer = make_network_scorer(networks, target=spec.primary_target, aggregation=spec.aggregation)
    reference = tabulate_outputs(tiles, networks)
    return write_bundle(run.dir / "bundle", scorer, manifest, reference=reference, weights=weights)


def tabulate_history(networks: Sequence[FittedNetwork]) -> pd.DataFrame:
    """Return the training of every fold as one table.

    Parameters
    ----------
    networks : sequence of FittedNetwork

    Returns
    -------
    DataFrame
        fold, epoch, loss, validation, rate, seconds, chosen (True for the epoch whose weights are kept).
    """
    tables = [pd.DataFrame(f.history).assign(fold=f.fold, chosen=lambda t, f=f: t["epoch"] == f.best_epoch)
              for f in networks]  # fmt: skip
    return pd.concat(tables, ignore_index=True)
