"""`histobook predict`: slides that no fit ever saw, through tiles, features and a saved model, to a page per case.

Every slide fails alone, with its reason in the ledger and on the page of its case. What the model was not trained for
is refused: another resolution, another encoder, other weights, missing features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.book.case_report import CaseResult, SlideResult, write_report
from helpers.cohort.tables import find_no_file_names, read_slides
from helpers.core import paths
from helpers.core.errors import BagError, ModelError, ResolutionError, RunError
from helpers.core.ledger import run_batch
from helpers.core.provenance import list_versions, read_commit
from helpers.core.specs import FeatureSpec
from helpers.features.encoders import Encoder
from helpers.features.extract import extract_slide, make_encoders
from helpers.features.networks import TimmNetwork
from helpers.features.pipeline import share_cores
from helpers.features.store import FeatureBag, join_identities
from helpers.models.bundle import (
    Bundle,
    build_networks,
    check_encoder,
    check_features,
    count_far_features,
    read_bundle,
)
from helpers.models.fold_networks import FoldNetworks
from helpers.models.inputs import read_slide, select_tiles
from helpers.models.tumour import TumourFilter, find_outlines
from helpers.slides.reader import open_slide
from helpers.slides.tilefile import TileTable, read_tiles
from helpers.slides.tiling import tile_slide, use_one_thread_each

STAGE: Final = "predict"
WANTED: Final = {
    "none": ". Look at it",
    "polygon": " and lies inside outlined tumour. Outline its tumour, or look at it",
    "model": " and is called tumour. Look at it",
}
"""What the end of a message about a slide without tiles says, by `tumour_filter`."""
MAX_COARSER: Final = 1.25
"""A slide whose pixels are coarser than the model's by more than this factor would be blown up, and is refused."""


@dataclass(frozen=True)
class Prediction:
    """What `predict_slides` made.

    Attributes
    ----------
    predictions : DataFrame
        One row per case.
    ledger : DataFrame
        One row per slide.
    folder : Path
    unscored : tuple of str
        Cases of which no slide could be scored.
    """

    predictions: pd.DataFrame
    ledger: pd.DataFrame
    folder: Path
    unscored: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the outcome in words.

        Returns
        -------
        str
        """
        failed = self.ledger[self.ledger["status"] == "failed"]
        lines = [f"{len(self.ledger)} slides: {len(self.ledger) - len(failed)} scored, {len(failed)} failed"]
        lines += [f"  {row.slide_id}: {row.reason}" for row in failed.itertuples()]
        shown = self.predictions[["case_id", "target", "y_pred", "group", "n_slides", "slides_lost"]]
        lines += [shown.round(3).to_string(index=False), f"reports: {paths.shorten(self.folder / 'reports')}"]
        lines += [f"no score at all: {', '.join(self.unscored)}"] if self.unscored else []
        return "\n".join([*lines, "Research use only."])


def predict_slides(
    bundle_folder: str | Path,
    slides: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int = 2,
    weights: str | Path | None = None,
    features_dir: str | Path | None = None,
    outlines_dir: str | Path | None = None,
) -> Prediction:
    """Score new slides with a saved model: tables, maps, a page per case.

    Parameters
    ----------
    bundle_folder : str or Path
    slides : str or Path
        slides.csv: slide_id, case_id, path (relative paths start at its folder) and, where known, mpp.
    out : str or Path
        Folder; what lies there with the same key is reused.
    device : str
    workers : int
        Threads.
    weights : str or Path, optional
        File of the encoder's weights, where it is not found by itself.
    features_dir : str or Path, optional
        Folder of `<slide_id>.h5` that chapter 02 wrote (of several encoders: of a folder of these for each); without it
        features are extracted here.
    outlines_dir : str or Path, optional
        Folder of `<slide_id>.geojson` that outline tumour, for a model that reads tiles inside outlines alone.

    Returns
    -------
    Prediction

    Raises
    ------
    ModelError
        When the bundle was changed, the encoder is not the one it was trained with, or outlines are missing.
    RunError
        When not one slide could be scored.
    """
    bundle, folder = read_bundle(bundle_folder), paths.resolve(out)
    folder.mkdir(parents=True, exist_ok=True)
    table = read_new_slides(slides)
    encoders = [] if features_dir is not None else make_bundle_encoders(bundle, device=device, weights=weights)
    keep = make_bundle_filter(bundle, table["slide_id"].tolist(), outlines_dir=outlines_dir)
    scored: dict[str, SlideResult] = {}
    work = make_work(bundle, table, folder, encoders=encoders, features_dir=features_dir, keep=keep, scored=scored)
    computes = any(isinstance(encoder, TimmNetwork | FoldNetworks) for encoder in encoders)
    with use_one_thread_each(workers), share_cores(workers if computes else None) as share:

        def attempt(slide_id: str) -> tuple[str, str]:
            share()
            return work(slide_id)

        ledger = run_batch(
            list(table["slide_id"]), attempt, stage=STAGE, path=folder / "ledger.parquet", workers=workers,
            max_failed=len(table), describe="predict slides",
        )  # fmt: skip
    if not scored:
        reasons = "\n".join(f"  {row.slide_id}: {row.reason}" for row in ledger.itertuples())
        msg = f"RunError: none of {len(table)} slides could be scored:\n{reasons}"
        raise RunError(msg)
    return finish(bundle, table, ledger, scored, folder)


def read_new_slides(path: str | Path) -> pd.DataFrame:
    """Read the table of slides to be scored, their paths made absolute.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    DataFrame

    Raises
    ------
    SchemaError, DuplicateError
        When a column is missing, a slide stands twice, or a case cannot name its page.
    """
    path = paths.resolve(path)
    table = read_slides(path)
    for problem in find_no_file_names(table["case_id"].unique(), kind="case"):
        raise problem
    return table.assign(path=[str(path.parent / name) for name in table["path"]])  # an absolute name stays as it is


def make_bundle_encoders(bundle: Bundle, *, device: str, weights: str | Path | None) -> list[Encoder]:
    """Make the encoders of a bundle, and refuse others of the same names; its own networks are built as they were.

    Parameters
    ----------
    bundle : Bundle
    device : str
    weights : str or Path, optional

    Returns
    -------
    list of Encoder
        One, but where the model reads the features of several side by side.

    Raises
    ------
    FeatureError
        When one is unknown, or its weights are missing.
    ModelError
        When version, weights or precision are not those of training.
    """
    if bundle.manifest.networks is not None:
        if weights is not None:
            _refuse_weights("networks of its own")
        return [build_networks(bundle, device=device)]
    encoders = make_encoders(make_feature_spec(bundle, weights), device=device)
    identity = join_identities([encoder.identity for encoder in encoders])
    check_encoder(bundle.manifest, identity, item=f"encoder '{identity['encoder']}' of this machine")
    return encoders


def _refuse_weights(what: str) -> NoReturn:
    msg = f"ModelError: weights are given, but the model's features are those of {what}. Leave them out."
    raise ModelError(msg)


def make_feature_spec(bundle: Bundle, weights: str | Path | None = None) -> FeatureSpec:
    """Return the spec by which features of new slides are extracted.

    Parameters
    ----------
    bundle : Bundle
    weights : str or Path, optional
        Of the encoder that has any.

    Returns
    -------
    FeatureSpec

    Raises
    ------
    ModelError
        When weights are given and no encoder has any, or more than one.
    """
    manifest, names = bundle.manifest, bundle.manifest.encoder_names
    hashes, precisions = (manifest.encoder[name].split("+") for name in ("weights_sha256", "precision"))
    weighted = [name for name, sha in zip(names, hashes, strict=True) if sha]
    if weights is not None and len(weighted) != 1:
        formula = "a formula" if len(names) == 1 else "formulae"
        _refuse_weights(f"'{'+'.join(names)}', {'more than one network' if weighted else formula}")
    precision = precisions[names.index(weighted[0])] if weighted else precisions[0]
    return FeatureSpec.from_values({
        "encoders": names, "weights": {} if weights is None else {weighted[0]: str(weights)},
        "seed": manifest.encoder_seed, "precision": precision.removesuffix(", compiled"),
        "compile_networks": precision.endswith(", compiled"), "stored_as": manifest.stored_as,
    })  # fmt: skip


def make_bundle_filter(
    bundle: Bundle, slide_ids: Sequence[str], *, outlines_dir: str | Path | None
) -> TumourFilter | None:
    """Return the tumour filter that a model was trained with.

    Parameters
    ----------
    bundle : Bundle
    slide_ids : sequence of str
    outlines_dir : str or Path, optional

    Returns
    -------
    TumourFilter or None
        None where the model reads all tiles.

    Raises
    ------
    ModelError
        When the model needs outlines and none are given, or the reverse.
    FeatureError
        When no slide has an outline.
    """
    tumour = bundle.manifest.tumour
    if tumour.how == "polygon" and outlines_dir is None:
        msg = (
            "ModelError: the model reads tiles inside outlined tumour alone, and no outlines are given. "
            f"Give a folder of <slide_id>.geojson with class {' or '.join(tumour.classes)} (--outlines)."
        )
        raise ModelError(msg)
    if tumour.how != "polygon" and outlines_dir is not None:
        reads = "all tiles" if tumour.how == "none" else "tiles that its own classifier calls tumour"
        msg = f"ModelError: outlines are given, but the model reads {reads}. Leave them out."
        raise ModelError(msg)
    if tumour.how == "none":
        return None
    outlines = {} if outlines_dir is None else find_outlines(outlines_dir, slide_ids)
    return TumourFilter(
        model=bundle.tumour, outlines=outlines, classes=tumour.classes, min_probability=tumour.min_probability
    )


def make_work(
    bundle: Bundle, slides: pd.DataFrame, folder: Path, *, encoders: Sequence[Encoder], features_dir: str | Path | None,
    keep: TumourFilter | None, scored: dict[str, SlideResult],
) -> Callable[[str], tuple[str, str]]:  # fmt: skip
    """Return the function that scores one slide.

    Parameters
    ----------
    bundle : Bundle
    slides : DataFrame
        From `read_new_slides`.
    folder : Path
    encoders : sequence of Encoder
        Empty where features are read from `features_dir`.
    features_dir : str or Path, optional
    keep : TumourFilter, optional
    scored : dict
        Gets the result by slide.

    Returns
    -------
    callable
        Slide id to status and key; raises what is wrong with the slide.
    """
    rows, spec = slides.set_index("slide_id"), make_feature_spec(bundle)
    names = bundle.manifest.encoder_names
    if encoders:
        places = [folder / "features" / encoder.name for encoder in encoders]
    else:
        stored = paths.resolve(str(features_dir))
        places = [stored] if len(names) == 1 else [stored / name for name in names]

    def work(slide_id: str) -> tuple[str, str]:
        path = Path(rows.at[slide_id, "path"])
        stated = rows["mpp"].get(slide_id) if "mpp" in rows else None
        mpp = None if stated is None or pd.isna(stated) else float(stated)
        refuse_coarse(path, slide_id, mpp=mpp, wanted=bundle.manifest.tiling_spec.mpp)
        _, key, _ = tile_slide(slide_id, path, bundle.manifest.tiling_spec, folder=folder, mpp=mpp)
        tiles = folder / "tiles" / f"{slide_id}.h5"
        if encoders:
            _, key, _ = extract_slide(path, tiles, encoders, spec, folder=folder)
        files = [place / f"{slide_id}.h5" for place in places]
        bag = read_slide(files[0] if len(files) == 1 else files, slide_id)
        check_features(bundle.manifest, bag, item=f"slide '{slide_id}'")
        table = read_tiles(tiles)
        if bag.attributes.get("slide_fingerprint") != table.attributes["slide_fingerprint"]:
            msg = f"ModelError: features of slide '{slide_id}' were made from another file. Extract them again."
            raise ModelError(msg)
        kept = select_tiles(bag, **bundle.manifest.filters)
        kept = kept if keep is None else kept & keep(slide_id, bag)
        scored[slide_id] = score_slide(bundle, bag, kept, path=path, table=table)
        return "ok", key

    return work


def refuse_coarse(path: Path, slide_id: str, *, mpp: float | None, wanted: float) -> None:
    """Refuse a slide that was scanned more coarsely than the model's tiles.

    Parameters
    ----------
    path : Path
    slide_id : str
    mpp : float or None
        Of the slide table.
    wanted : float
        um per px of the model's tiles.

    Raises
    ------
    ResolutionError
        When it is too coarse, or states no resolution.
    SlideError
        When it cannot be opened.
    """
    try:
        opened = open_slide(path, slide_id=slide_id, mpp=mpp)
    except ResolutionError as error:
        msg = (
            f"{str(error).partition(' Set fallback_mpp')[0]} State it in column mpp of the slide table, if it is known."
        )
        raise ResolutionError(msg) from None
    with opened as slide:
        found = max(slide.resolution.mpp_x, slide.resolution.mpp_y)
    if found > MAX_COARSER * wanted:
        msg = (
            f"ResolutionError: slide '{slide_id}' was scanned at {found:.3g} um per px, the model reads tiles at "
            f"{wanted:g} um per px, and blowing them up invents what was not scanned. Scan it finer, or leave it out."
        )
        raise ResolutionError(msg)


def score_slide(
    bundle: Bundle, bag: FeatureBag, kept: NDArray[np.bool_], *, path: Path, table: TileTable
) -> SlideResult:
    """Score the tiles of a slide that pass the filters.

    Parameters
    ----------
    bundle : Bundle
    bag : FeatureBag
    kept : ndarray, (n_tiles,), bool
    path : Path
        Of the slide.
    table : TileTable

    Returns
    -------
    SlideResult

    Raises
    ------
    BagError
        When no tile passes.
    """
    if not kept.any():
        wanted = WANTED[bundle.manifest.tumour.how]
        msg = f"BagError: none of {len(kept)} tiles of slide '{table.slide_id}' passes the model's filters{wanted}."
        raise BagError(msg)
    features = bag.features[kept]
    try:
        scores, why = np.asarray(bundle.scorer.score_tiles(features), float), ""
    except ModelError as error:
        scores, why = np.array([]), str(error)
    return SlideResult(
        slide_id=table.slide_id, path=path, table=table, kept=kept, features=features, scores=scores,
        no_scores=why, far=count_far_features(bundle, features),
    )  # fmt: skip


def finish(
    bundle: Bundle, table: pd.DataFrame, ledger: pd.DataFrame, scored: dict[str, SlideResult], folder: Path
) -> Prediction:
    """Predict the cases, and write tables, maps and pages.

    Parameters
    ----------
    bundle : Bundle
    table, ledger : DataFrame
    scored : dict of str to SlideResult
    folder : Path

    Returns
    -------
    Prediction
    """
    reasons = ledger[ledger["status"] == "failed"].set_index("slide_id")["reason"].to_dict()
    provenance, rows = describe_run(bundle), []
    for case_id, slide_ids in table.groupby("case_id", sort=False)["slide_id"]:
        slides = [scored[name] for name in slide_ids if name in scored]
        if not slides:
            continue
        bag = np.concatenate([slide.features for slide in slides])
        value = float(bundle.scorer.predict([bag])[0])
        lost = {name: reasons[name] for name in slide_ids if name in reasons}
        case = CaseResult(case_id=str(case_id), score=value, slides=slides, lost=lost)
        rows.append(describe_case(bundle, case))
        write_report(case, bundle, folder, provenance=provenance)
    predictions = pd.DataFrame(rows)
    unscored = sorted(set(table["case_id"]) - set(predictions["case_id"]))
    paths.write_table(predictions, folder / "predictions.parquet")
    paths.write_table(predictions, folder / "predictions.csv")
    lost = {"cases_without_score": unscored, "slides": ledger.drop(columns="seconds").to_dict("records")}
    paths.write_json({**provenance, **lost}, folder / "run.json")
    return Prediction(predictions, ledger, folder, tuple(unscored))


def describe_case(bundle: Bundle, case: CaseResult) -> dict[str, Any]:
    """Return a case's row of the predictions table.

    Parameters
    ----------
    bundle : Bundle
    case : CaseResult

    Returns
    -------
    dict
    """
    manifest = bundle.manifest
    training = np.asarray(manifest.training.scores)
    return {
        "case_id": case.case_id, "split": "external", "repeat": 0, "fold": -1, "target": manifest.target,
        "arm": manifest.arm, "y_true": float("nan"), "y_pred": case.score,
        "group": "high" if case.score > manifest.training.cutoff else "low", "cutoff": manifest.training.cutoff,
        "training_percentile": 100.0 * float((training < case.score).mean()),
        "n_slides": len(case.slides), "slides_lost": len(case.lost),
        "n_tiles": int(sum(slide.kept.sum() for slide in case.slides)), "bundle": bundle.seal,
    }  # fmt: skip


def describe_run(bundle: Bundle) -> dict[str, Any]:
    """Return what made these predictions.

    Parameters
    ----------
    bundle : Bundle

    Returns
    -------
    dict
    """
    return {
        "bundle": bundle.seal, "model": bundle.manifest.provenance, "commit": read_commit(),
        "versions": list_versions(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"), "use": "research use only",
    }  # fmt: skip
