"""A saved model: plain arrays and a JSON that says what it may be applied to, with its cut-off locked.

`bundle.json` names encoder, tiles, filters, target, cut-off and origin; `arrays.npz` holds numbers (and words) only,
nothing that runs when it is read. Both are sealed: a changed byte is refused. What does not fit is refused by name.
The networks of chapter A2 travel in the arrays; an encoder that was trained elsewhere is named, and must be at hand.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from helpers.core import paths
from helpers.core.errors import ModelError, SpecError
from helpers.core.provenance import Run, chapter_folder, compute_key, list_versions, read_run
from helpers.core.specs import EndToEndSpec, Spec, TilingSpec
from helpers.features.store import IDENTITY, FeatureBag
from helpers.features.weights import compute_sha256
from helpers.models.fold_networks import FoldNetworks, NetworksSpec, load_network_scorer
from helpers.models.inputs import TILE_FILTERS
from helpers.models.linear import LinearModel
from helpers.models.pooling import pool_tiles
from helpers.models.tumour import TumourFilter, TumourModel

FORMAT: Final = "histobook-bundle-1"
MANIFEST, ARRAYS = "bundle.json", "arrays.npz"
MAX_MPP_ERROR: Final = 0.02
FAR_SD: Final = 4.0
"""SD of the training cases beyond which a feature of a new case counts as unlike training."""
Arrays = dict[str, NDArray[Any]]


class Scorer(Protocol):
    """A fitted arm of chapter 03, or what makes scores of what the networks of chapter A2 say."""

    def predict(self, bags: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Predict cases: (n_cases,) or (n_cases, k)."""
        ...

    def score_tiles(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """Score the tiles of a bag: (n_tiles,) or (n_tiles, k). ModelError where a tile has no score."""
        ...

    def to_arrays(self) -> Arrays:
        """Return plain arrays; `arm` among them says which loader reads them."""
        ...


@dataclass(frozen=True)
class RidgeFit:
    """A ridge on pooled features.

    Parameters
    ----------
    model : LinearModel
    aggregation : str
        Of a case's tiles.
    """

    model: LinearModel
    aggregation: str = "mean"

    def predict(self, bags: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Predict cases.

        Parameters
        ----------
        bags : sequence of ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_cases, k)
        """
        return self.model.predict(np.stack([pool_tiles(bag, aggregation=self.aggregation) for bag in bags]))

    def score_tiles(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """Score tiles so that a case's prediction is the mean of the scores of its tiles.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, k)

        Raises
        ------
        ModelError
            When the aggregation is no mean.
        """
        if self.aggregation != "mean":
            msg = f"ModelError: aggregation '{self.aggregation}' gives tiles no score of their own; 'mean' does."
            raise ModelError(msg)
        return self.model.predict(tiles)

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        stored = {f"model/{name}": np.asarray(value) for name, value in vars(self.model).items()}
        return {"arm": np.array("ridge"), "aggregation": np.array(self.aggregation), **stored}


@dataclass(frozen=True)
class FoldAverage:
    """The fitted arms of all folds, averaged, for one target.

    Parameters
    ----------
    members : sequence of Scorer
    column : int
        The target, where members predict several.
    """

    members: Sequence[Scorer]
    column: int = 0

    def predict(self, bags: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Predict cases.

        Parameters
        ----------
        bags : sequence of ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_cases,)
        """
        return np.asarray(np.mean([self._pick(member.predict(bags)) for member in self.members], axis=0))

    def score_tiles(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """Score tiles.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles,)
        """
        return np.asarray(np.mean([self._pick(member.score_tiles(tiles)) for member in self.members], axis=0))

    def _pick(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if values.ndim == 1 else values[:, self.column]

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        arrays: Arrays = {"arm": np.array("folds"), "column": np.array(self.column), "n": np.array(len(self.members))}
        for number, member in enumerate(self.members):
            arrays |= {f"member{number}/{name}": value for name, value in member.to_arrays().items()}
        return arrays


def load_fitted(arrays: Mapping[str, NDArray[Any]]) -> Scorer:
    """Rebuild a fitted arm from its arrays.

    Parameters
    ----------
    arrays : mapping of str to ndarray

    Returns
    -------
    Scorer

    Raises
    ------
    ModelError
        When they are of no known arm.
    """
    kind = str(arrays["arm"]) if "arm" in arrays else "none"
    if kind == "folds":
        members = [load_fitted(_unnest(f"member{number}", arrays)) for number in range(int(arrays["n"]))]
        return FoldAverage(members, int(arrays["column"]))
    if kind == "ridge":
        return RidgeFit(LinearModel(**_unnest("model", arrays)), str(arrays["aggregation"]))
    if kind == "networks":
        return load_network_scorer(arrays)
    from helpers.models.arms import load_arm

    return load_arm(arrays)


def _unnest(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}


class TrainingSummary(Spec):
    """What the model was fitted on, and the cut-off that it locked."""

    n_cases: int = Field(ge=1, description="development cases")
    n_slides: int = Field(ge=1, description="their slides")
    scores: tuple[float, ...] = Field(min_length=1, description="out-of-fold predictions, sorted")
    cutoff: float = Field(description="between low and high, in the unit of the score")
    cutoff_origin: str = Field(description="in words")
    spearman: float = Field(description="out of fold, against the measured score")
    typical_error: float = Field(gt=0.0, description="SD of measured minus out-of-fold predicted")


class TumourSummary(Spec):
    """Whether all tiles are read, or those inside drawn tumour, or those that a classifier calls tumour."""

    how: Literal["none", "polygon", "model"] = Field("none", description="tumour_filter of chapter 03")
    classes: tuple[str, ...] = Field((), description="of outlines that are tumour")
    min_probability: float = Field(0.5, description="of the classifier")
    n_slides: int = Field(0, ge=0, description="with outlines, that taught the classifier")


class BundleManifest(Spec):
    """What a bundle may be applied to, and where it comes from."""

    format: str = FORMAT
    arm: str = Field(description="name of the model")
    target: str = Field(description="score that is predicted")
    score_method: str = Field(description="how the measured score was made of genes")
    encoder: dict[str, str] = Field(
        description="identity of the encoder, by the names of a feature file; of several side by side, 'a+b'"
    )
    encoder_seed: int = Field(0, description="of a random control's weights")
    stored_as: str = Field("float32", description="precision of the features")
    dimension: int = Field(ge=1, description="features per tile")
    feature_names: tuple[str, ...] = Field((), description="names of the features, where they have any")
    tiling: dict[str, Any] = Field(description="spec of chapter 01, without its paths")
    filters: dict[str, float] = Field(description="which tiles are read, options of select_tiles")
    networks: NetworksSpec | None = Field(None, description="how the encoder is built whose weights the bundle holds")
    tumour: TumourSummary = TumourSummary()
    training: TrainingSummary
    provenance: dict[str, Any] = Field(description="run, commit, keys of inputs, versions")
    arrays_sha256: str = Field("", description="of arrays.npz")

    @property
    def encoder_names(self) -> list[str]:
        """The encoders whose features stand side by side; one, as a rule."""
        return self.encoder["encoder"].split("+")

    @property
    def tiling_spec(self) -> TilingSpec:
        """The spec by which new slides are tiled: a slide without resolution fails, whatever training allowed."""
        return TilingSpec.from_values({**self.tiling, "fallback_mpp": None, "max_failed": 0})


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model that was read back.

    Attributes
    ----------
    manifest : BundleManifest
    scorer : Scorer
    reference : DataFrame or None
        mean and sd of the training cases' pooled features, one row per feature.
    seal : str
        SHA-256 of manifest and arrays: which model this is.
    weights : dict of str to ndarray
        Of the networks that make the features; empty where they are those of an encoder trained elsewhere.
    tumour : TumourModel or None
        The classifier that chooses tiles, where one does.
    """

    manifest: BundleManifest
    scorer: Scorer
    reference: pd.DataFrame | None
    seal: str
    weights: Arrays = field(default_factory=dict, repr=False)
    tumour: TumourModel | None = None


def collect_manifest(
    run: Run, *, bag: FeatureBag, arm: str, target: str, score_method: str, filters: Mapping[str, float],
    predictions: pd.DataFrame, n_slides: int, cutoff: float, tumour: TumourFilter | None = None,
) -> BundleManifest:  # fmt: skip
    """Put together what chapter 03 knows about its declared model.

    Parameters
    ----------
    run : Run
        Of chapter 03; chapters 01 and 02 of the same profile say how tiles and features were made.
    bag : FeatureBag
        Features of any training slide, written by chapter 02.
    arm, target, score_method : str
    filters : mapping of str to float
        Options of `select_tiles`.
    predictions : DataFrame
        Out-of-fold predictions of the development cases, one row per case: y_true, y_pred.
    n_slides : int
        Of those cases.
    cutoff : float
        From development cases.
    tumour : TumourFilter, optional
        That chose among the tiles.

    Returns
    -------
    BundleManifest
        Without the hash of the arrays, which `write_bundle` adds.

    Raises
    ------
    ModelError
        When the features do not say which encoder made them, or chapter 01 or 02 did not run in this profile.
    """
    missing = [name for name in IDENTITY if name not in bag.attributes]
    if missing:
        msg = f"ModelError: the features state no {', '.join(missing)}; only those of chapter 02 can be bundled."
        raise ModelError(msg)
    made = _read_record(run, "02")["spec"]
    return _build_manifest(
        run, chapters=("01", "02"), encoder=bag.attributes, predictions=predictions, n_slides=n_slides, cutoff=cutoff,
        arm=arm, target=target, score_method=score_method, filters=dict(filters), encoder_seed=made["seed"],
        stored_as=made["stored_as"], dimension=bag.features.shape[1], feature_names=bag.columns,
        tumour=_describe_tumour(tumour),
    )  # fmt: skip


def collect_network_manifest(
    run: Run, networks: FoldNetworks, spec: EndToEndSpec, *, predictions: pd.DataFrame, n_slides: int, cutoff: float
) -> BundleManifest:
    """Put together what chapter A2 knows about its networks.

    Parameters
    ----------
    run : Run
        Of chapter A2; chapter 01 of the same profile says how tiles were made.
    networks : FoldNetworks
        On the device, and in the precision, that predicted.
    spec : EndToEndSpec
        Its primary target is the bundle's.
    predictions : DataFrame
        Out-of-fold predictions of the development cases, one row per case: y_true, y_pred.
    n_slides : int
        Of those cases.
    cutoff : float
        From development cases.

    Returns
    -------
    BundleManifest
        Without the hash of the arrays, which `write_bundle` adds.

    Raises
    ------
    ModelError
        When chapter 01 did not run in this profile.
    """
    return _build_manifest(
        run, chapters=("01",), encoder=networks.identity, predictions=predictions, n_slides=n_slides, cutoff=cutoff,
        arm=f"{networks.name}_{spec.aggregation}", target=spec.primary_target, score_method=spec.score_method,
        filters=spec.model_dump(include=set(TILE_FILTERS)), dimension=networks.dimension,
        feature_names=networks.columns, networks=networks.spec,
    )  # fmt: skip


def _build_manifest(
    run: Run, *, chapters: Sequence[str], encoder: Mapping[str, Any], predictions: pd.DataFrame, n_slides: int,
    cutoff: float, **fields: Any,
) -> BundleManifest:  # fmt: skip
    """Add to what a chapter states itself: tiles, encoder, cut-off, and where the model comes from."""
    records = {number: _read_record(run, number) for number in chapters}
    tiling = {
        name: records["01"]["spec"][name] for name in TilingSpec.model_fields if name not in TilingSpec.path_fields()
    }
    error = (predictions["y_true"] - predictions["y_pred"]).std(ddof=1)
    return BundleManifest(
        **fields, tiling=tiling, encoder={name: str(encoder[name]) for name in IDENTITY},
        training=TrainingSummary(
            n_cases=len(predictions), n_slides=n_slides, scores=tuple(np.sort(predictions["y_pred"]).round(6).tolist()),
            cutoff=cutoff, cutoff_origin="median of the out-of-fold predictions of the training cases",
            spearman=float(predictions["y_true"].corr(predictions["y_pred"], "spearman")), typical_error=float(error),
        ),
        provenance={
            "run": run.id, "commit": run.commit, "profile": run.profile_dir.name, "key": run.key,
            "chapter_keys": {number: record["key"] for number, record in records.items()},
            "predictions_sha256": compute_key(predictions[["case_id", "y_true", "y_pred"]].round(9).values.tolist()),
            "versions": list_versions(),
        },
    )  # fmt: skip


def _describe_tumour(keep: TumourFilter | None) -> TumourSummary:
    if keep is None:
        return TumourSummary()
    how: Literal["polygon", "model"] = "polygon" if keep.model is None else "model"
    taught_by = keep.model.n_slides if keep.model is not None else 0
    return TumourSummary(how=how, classes=tuple(keep.classes), min_probability=keep.min_probability, n_slides=taught_by)


def _read_record(run: Run, number: str) -> dict[str, Any]:
    folder = chapter_folder(run.profile_dir, number)
    record = read_run(folder) if folder else None
    if record is None:
        msg = f"ModelError: chapter {number} never ran for '{run.profile_dir.name}', so nobody knows how to repeat it."
        raise ModelError(msg)
    return record


def write_bundle(
    folder: str | Path, scorer: Scorer, manifest: BundleManifest, *, reference: pd.DataFrame | None = None,
    weights: Arrays | None = None, tumour: TumourModel | None = None,
) -> list[Path]:  # fmt: skip
    """Write a bundle: the same model gives the same bytes.

    Parameters
    ----------
    folder : str or Path
    scorer : Scorer
    manifest : BundleManifest
    reference : DataFrame, (n_cases, D), optional
        Pooled features of the training cases; their mean and SD are kept, to say which new case is unlike them.
    weights : dict of str to ndarray, optional
        Of the networks that the manifest describes.
    tumour : TumourModel, optional
        The classifier that chose among the tiles.

    Returns
    -------
    list of Path
        The two files.
    """
    folder = paths.resolve(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"model/{name}": value for name, value in scorer.to_arrays().items()}
    if reference is not None:
        arrays |= {"reference/mean": reference.mean().to_numpy(float), "reference/sd": reference.std().to_numpy(float)}
    arrays |= {f"weights/{name}": value for name, value in (weights or {}).items()}
    if tumour is not None:
        arrays |= {f"tumour/{name}": np.asarray(value) for name, value in vars(tumour).items()}
    with paths.atomic_write(folder / ARRAYS) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    found = compute_sha256(folder / ARRAYS)  # all of it: networks may be larger than `fingerprint` samples
    sealed = manifest.model_copy(update={"arrays_sha256": found}).model_dump(mode="json")
    paths.write_json({**sealed, "seal": compute_key(sealed)}, folder / MANIFEST)
    return [folder / MANIFEST, folder / ARRAYS]


def read_bundle(folder: str | Path) -> Bundle:
    """Read a bundle and check its seals.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Bundle

    Raises
    ------
    ModelError
        When a file is missing, was changed, or is of another format.
    """
    folder = paths.resolve(folder)
    missing = [name for name in (MANIFEST, ARRAYS) if not (folder / name).is_file()]
    if missing:
        msg = (
            f"ModelError: bundle '{folder.name}' lacks {', '.join(missing)}. Give the folder `bundle` of chapter 03 or "
            "A2."
        )
        raise ModelError(msg)
    content = _read_manifest(folder)
    seal = content.pop("seal", "none")
    stored = (folder / ARRAYS).read_bytes()
    found = hashlib.sha256(stored).hexdigest()
    if seal != compute_key(content) or found != content.get("arrays_sha256"):
        which = MANIFEST if seal != compute_key(content) else ARRAYS
        msg = (
            f"ModelError: '{which}' of bundle '{folder.name}' is not the file that was written: it was changed or "
            "damaged, and nothing is predicted with it. Copy the bundle again, or write it anew."
        )
        raise ModelError(msg)
    try:
        manifest = BundleManifest.from_values(content)
    except SpecError as error:
        msg = f"ModelError: bundle '{folder.name}' is not of this version of histobook. {error}"
        raise ModelError(msg) from None
    arrays = _read_arrays(stored)
    reference = pd.DataFrame(_unnest("reference", arrays)) if "reference/mean" in arrays else None
    scorer = load_fitted(_unnest("model", arrays))
    return Bundle(
        manifest=manifest, scorer=scorer, reference=reference, seal=seal, weights=_unnest("weights", arrays),
        tumour=_load_tumour(arrays),
    )  # fmt: skip


def build_networks(bundle: Bundle, *, device: str = "auto") -> FoldNetworks:
    """Build the networks of a bundle of chapter A2, in the precision in which they predicted there.

    Parameters
    ----------
    bundle : Bundle
    device : str

    Returns
    -------
    FoldNetworks

    Raises
    ------
    ModelError
        When the bundle holds none, or they are not those that it names.
    """
    from helpers.core.device import pick_device

    stated = bundle.manifest.encoder
    if bundle.manifest.networks is None:
        msg = f"ModelError: the bundle holds no networks; its features are those of '{stated['encoder']}'. Make those."
        raise ModelError(msg)
    built = FoldNetworks(
        bundle.manifest.networks, bundle.weights, device=pick_device(device), precision=stated["precision"]
    )
    check_encoder(bundle.manifest, built.identity, item="the ensemble of the bundle, built on this machine,")
    return built


def _load_tumour(arrays: Arrays) -> TumourModel | None:
    stored = _unnest("tumour", arrays)
    if not stored:
        return None
    intercept, n_slides = float(stored.pop("intercept")), int(stored.pop("n_slides"))
    return TumourModel(**stored, intercept=intercept, n_slides=n_slides)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        content = paths.read_json(folder / MANIFEST)
    except ValueError as error:
        msg = f"ModelError: '{MANIFEST}' of bundle '{folder.name}' is not JSON ({error}). Copy the bundle again."
        raise ModelError(msg) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        msg = f"ModelError: bundle '{folder.name}' is of format {found!r}, expected {FORMAT!r}. Write it anew."
        raise ModelError(msg)
    return content


def _read_arrays(content: bytes) -> Arrays:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, zipfile.BadZipFile) as error:
        msg = f"ModelError: '{ARRAYS}' holds what is no plain array ({error}); pickled code is never run."
        raise ModelError(msg) from None


def check_encoder(manifest: BundleManifest, identity: Mapping[str, Any], *, item: str) -> None:
    """Refuse features of another encoder, other weights or another precision than the model was trained on.

    Parameters
    ----------
    manifest : BundleManifest
    identity : mapping
        Of an encoder, or attributes of a feature file.
    item : str
        What is checked, for the message.

    Raises
    ------
    ModelError
        Names what differs, as found and as expected.
    """
    for name in IDENTITY:
        found, expected = identity.get(name), manifest.encoder[name]
        if str(found) != expected:
            msg = (
                f"ModelError: {item} has {name} '{_cut(found)}', the model was trained with '{_cut(expected)}'. "
                "Give the encoder (and weights) of the bundle; a score from other features means nothing."
            )
            raise ModelError(msg)


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 70 else f"{text[:67]}…"


def check_features(manifest: BundleManifest, bag: FeatureBag, *, item: str) -> None:
    """Refuse features that are not what the model was trained on: encoder, resolution, size of tiles, columns.

    Parameters
    ----------
    manifest : BundleManifest
    bag : FeatureBag
    item : str

    Raises
    ------
    ModelError
        Names what differs, as found and as expected.
    """
    check_encoder(manifest, bag.attributes, item=item)
    spec = manifest.tiling_spec
    mpp, tile_px = bag.attributes.get("mpp_effective"), bag.attributes.get("patch_size")
    if mpp is None or abs(float(mpp) / spec.mpp - 1) > MAX_MPP_ERROR or int(tile_px or 0) != spec.tile_px:
        msg = (
            f"ModelError: {item} has tiles of {tile_px} px at {mpp} um per px, the model was trained on "
            f"{spec.tile_px} px at {spec.mpp:g} um per px. Tile it at that resolution."
        )
        raise ModelError(msg)
    absent = [name for name in manifest.feature_names if name not in bag.columns]
    if (
        absent
        or bag.features.shape[1] != manifest.dimension
        or (manifest.feature_names and bag.columns != manifest.feature_names)
    ):
        msg = (
            f"ModelError: {item} has {bag.features.shape[1]} features, the model reads {manifest.dimension}; "
            f"{len(absent)} are missing ({', '.join(absent[:3]) or 'none by name'}). Extract it with its encoder again."
        )
        raise ModelError(msg)


def count_far_features(bundle: Bundle, tiles: NDArray[Any]) -> tuple[int, int] | None:
    """Count the features whose mean over the tiles lies far from all that the model was trained on.

    Parameters
    ----------
    bundle : Bundle
    tiles : ndarray, (n_tiles, d)

    Returns
    -------
    tuple of 2 ints or None
        How many lie more than 4 SD of the training cases away, and of how many; None where the bundle does not know.
    """
    if bundle.reference is None or len(bundle.reference) != tiles.shape[1]:
        return None
    spread = bundle.reference["sd"].to_numpy()
    away = np.abs(tiles.mean(axis=0) - bundle.reference["mean"].to_numpy()) > FAR_SD * spread
    return int((away & (spread > 0)).sum()), int((spread > 0).sum())
