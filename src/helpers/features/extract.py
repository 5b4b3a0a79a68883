"""From tiles to features: one decode pass per slide serves every encoder; what is there with the same key is reused.

A feature file's key is the tile file's key (slide, tiling spec, libraries), the encoder's identity (version, weights,
precision), the whole feature spec but for what concerns the batch, and the versions of the libraries. A changed slide,
weight or threshold therefore makes new features, and nothing else does. Where a card decodes, its decoder is part of
the key too, because its pixels differ; a slide that it could not decode says so in the ledger and in its files.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from helpers.core.device import list_accelerators
from helpers.core.errors import FeatureError
from helpers.core.ledger import run_batch
from helpers.core.paths import resolve
from helpers.core.provenance import compute_key, fingerprint, list_versions
from helpers.core.specs import FeatureSpec
from helpers.features.device_decode import (
    Decoding,
    describe_host,
    fetch_tiles,
    iterate_on_device,
    name_decoder,
    pick_decoding_device,
    plan_decoding,
)
from helpers.features.encoders import Encoder, Features, TileContext, Tiles, make_encoder
from helpers.features.networks import TimmNetwork
from helpers.features.pipeline import Feeder, Throughput, open_feeder, share_cores
from helpers.features.store import write_features
from helpers.slides.audit import fit_slide_normaliser
from helpers.slides.jpegtiff import NotDirectError
from helpers.slides.reader import open_slide
from helpers.slides.stain import Stain
from helpers.slides.tilefile import TileTable, read_attribute, read_tiles
from helpers.slides.tiling import iterate_tiles, pick_shard, use_one_thread_each

if TYPE_CHECKING:
    import torch

STAGE = "extract_features"
VERSION = "2"
"""Raised whenever the same tiles and encoder would give other features: part of every key."""
LIBRARIES = (
    "histobook", "numpy", "scipy", "scikit-image", "opencv-python-headless", "openslide-python", "openslide-bin",
    "h5py", "torch", "timm",
)  # fmt: skip
BATCH_FIELDS = (
    "encoders", "weights", "precision", "compile_networks", "decode", "max_failed", "n_shown", "n_permutations",
    "n_normalised",
)  # fmt: skip
"""Fields of the spec that do not decide a slide's features, or do so through the identity of encoder or decoder."""


def make_encoders(spec: FeatureSpec, *, device: str = "auto") -> list[Encoder]:
    """Make every encoder of a spec.

    Parameters
    ----------
    spec : FeatureSpec
    device : str

    Returns
    -------
    list of Encoder

    Raises
    ------
    FeatureError
        When a name is unknown or occurs twice, weights are missing, or weights are given for no encoder of the spec;
        when a card is to decode and there is none.
    """
    pick_decoding_device(spec.decode, device)
    stray = sorted(set(spec.weights) - set(spec.encoders))
    if stray or len(set(spec.encoders)) != len(spec.encoders):
        msg = (
            f"FeatureError: encoders are {list(spec.encoders)} and weights are given for {sorted(spec.weights)}; "
            "expected each encoder once, and weights only for those. Mend the profile."
        )
        raise FeatureError(msg)
    return [
        make_encoder(
            name,
            weights=spec.weights.get(name),
            device=device,
            seed=spec.seed,
            precision=spec.precision,
            compiled=spec.compile_networks,
        )
        for name in spec.encoders
    ]


def compute_feature_key(tiles_key: str, encoder: Encoder, spec: FeatureSpec) -> str:
    """Return what identifies the features of a slide.

    Parameters
    ----------
    tiles_key : str
        Of the tile file.
    encoder : Encoder
    spec : FeatureSpec

    Returns
    -------
    str, 64 hex digits
    """
    fields = {name: value for name, value in spec.key_fields().items() if name not in BATCH_FIELDS}
    versions = {name: list_versions()[name] for name in LIBRARIES}
    decoder = [name_decoder("cuda")] if spec.decode == "cuda" else []
    return compute_key(STAGE, VERSION, tiles_key, encoder.identity, fields, versions, *decoder)


def extract_slide(
    path: str | Path,
    tiles_path: Path,
    encoders: Sequence[Encoder],
    spec: FeatureSpec,
    *,
    folder: Path,
    feeder: Feeder | None = None,
) -> tuple[str, str, str]:
    """Write `features/<encoder>/<id>.h5` for every encoder whose file is missing or of another key.

    Parameters
    ----------
    path : str or Path
        Of the slide.
    tiles_path : Path
        Of its tile file (chapter 01).
    encoders : sequence of Encoder
    spec : FeatureSpec
    folder : Path
        The chapter's.
    feeder : Feeder, optional
        Of a cohort; by default everything runs in this thread.

    Returns
    -------
    status : str
        'ok', or 'reused' where every file was there.
    key : str
        Of all files together.
    note : str
        Why the host decoded what a card was to decode; empty otherwise.

    Raises
    ------
    FeatureError
        When the slide is not the one that was tiled, or features are not finite.
    TileError, SlideError
        When tiles are missing or cannot be decoded.
    """
    table = read_tiles(tiles_path)
    keys = {encoder.name: compute_feature_key(table.attributes["key"], encoder, spec) for encoder in encoders}
    targets = {encoder.name: folder / "features" / encoder.name / f"{table.slide_id}.h5" for encoder in encoders}
    missing = [encoder for encoder in encoders if read_attribute(targets[encoder.name], "key") != keys[encoder.name]]
    path = resolve(path)
    _check_same_slide(path, table)
    if missing:
        found, decoding = encode_tiles(path, table, missing, spec, feeder=feeder)
        for encoder in missing:
            attributes = describe_features(encoder, spec, key=keys[encoder.name]) | decoding.to_attributes()
            write_features(
                targets[encoder.name], found[encoder.name], table, attributes=attributes, columns=encoder.columns
            )
    notes = {read_attribute(target, "decoder_note") or "" for target in targets.values()}
    return ("ok" if missing else "reused"), compute_key(*keys.values()), "; ".join(sorted(notes - {""}))


def _check_same_slide(path: Path, table: TileTable) -> None:
    if path.is_file() and fingerprint(path) != table.attributes["slide_fingerprint"]:
        msg = (
            f"FeatureError: slide '{table.slide_id}' ('{path.name}') is not the file that was tiled: its fingerprint "
            "changed. Run chapter 01 again."
        )
        raise FeatureError(msg)


def describe_features(encoder: Encoder, spec: FeatureSpec, *, key: str) -> dict[str, Any]:
    """Return the attributes of a feature file.

    Parameters
    ----------
    encoder : Encoder
    spec : FeatureSpec
    key : str

    Returns
    -------
    dict
    """
    return {
        **encoder.identity,
        "key": key,
        "dimension": encoder.dimension,
        "stored_as": spec.stored_as,
        "spec_hash": compute_key(spec.key_fields()),
        "versions": ", ".join(f"{name} {list_versions()[name]}" for name in LIBRARIES),
    }


def encode_tiles(
    path: Path, table: TileTable, encoders: Sequence[Encoder], spec: FeatureSpec, *, feeder: Feeder | None = None
) -> tuple[dict[str, Features], Decoding]:
    """Decode the tiles of a slide once and encode them with every encoder.

    Parameters
    ----------
    path : Path
        Of the slide.
    table : TileTable
    encoders : sequence of Encoder
    spec : FeatureSpec
    feeder : Feeder, optional
        Of a cohort; by default everything runs in this thread.

    Returns
    -------
    features : dict of str to ndarray, (n_tiles, d), float32 or float16
        By encoder, in the order of `table`.
    decoding : Decoding
    """
    if feeder is None:
        feeder = Feeder(Throughput(), decoder=pick_decoding_device(spec.decode))
    with open_slide(path, slide_id=table.slide_id, mpp=float(table.attributes["mpp_x"])) as slide:
        normalise = plan_normalisation(path, table, encoders, spec)
        decoding = plan_decoding(slide, table, feeder.decoder)
        if feeder.decoder is not None and not decoding.note:
            batches = iterate_on_device(slide, table, batch_size=spec.batch_size, device=feeder.decoder)
            try:
                return encode_batches(batches, table, encoders, spec, feeder=feeder, normalise=normalise), decoding
            except NotDirectError as error:
                decoding = describe_host(slide, note=str(error))
        on_host = iterate_tiles(slide, table, batch_size=spec.batch_size, lend=feeder.lend)
        return encode_batches(on_host, table, encoders, spec, feeder=feeder, normalise=normalise), decoding


def encode_batches(
    batches: "Iterator[Tiles] | Iterator[torch.Tensor]",
    table: TileTable,
    encoders: Sequence[Encoder],
    spec: FeatureSpec,
    *,
    feeder: Feeder,
    normalise: Callable[[Tiles], Tiles] | None = None,
) -> dict[str, Features]:
    """Encode the batches of a slide with every encoder.

    Parameters
    ----------
    batches : iterator of ndarray, (n, H, W, 3), or of Tensor, (n, 3, H, W), uint8
    table : TileTable
    encoders : sequence of Encoder
    spec : FeatureSpec
    feeder : Feeder
    normalise : callable, (n, H, W, 3) -> (n, H, W, 3), optional

    Returns
    -------
    dict of str to ndarray, (n_tiles, d), float32 or float16
    """
    context = describe_context(table)
    parts: dict[str, list[Callable[[], Features]]] = {encoder.name: [] for encoder in encoders}
    for tiles in measure_waiting(batches, feeder.throughput):
        for encoder, seen in zip(encoders, show_tiles(tiles, encoders, normalise), strict=True):
            parts[encoder.name].append(feeder.start(encoder, seen, context))
    with np.errstate(over="ignore"):  # what overflows float16 becomes infinite, which the store refuses
        found = {
            name: np.concatenate([finish().astype(spec.stored_as) for finish in blocks])
            for name, blocks in parts.items()
        }
    feeder.throughput.add(n_tiles=len(table.coords_l0))
    return found


def show_tiles(
    tiles: "Tiles | torch.Tensor", encoders: Sequence[Encoder], normalise: Callable[[Tiles], Tiles] | None
) -> "list[Tiles | torch.Tensor]":
    """Return what each encoder sees of a batch: as decoded or normalised, on the device or on the host.

    Stains are normalised on the host, and descriptors work on arrays: what lies on a device is copied for them, once.

    Parameters
    ----------
    tiles : ndarray, (n, H, W, 3), or Tensor, (n, 3, H, W), uint8
    encoders : sequence of Encoder
    normalise : callable, (n, H, W, 3) -> (n, H, W, 3), or None

    Returns
    -------
    list of ndarray or Tensor
        One per encoder; a tensor for networks only.
    """
    if isinstance(tiles, np.ndarray):
        on_host = tiles
    elif normalise is None and all(isinstance(encoder, TimmNetwork) for encoder in encoders):
        return [tiles] * len(encoders)
    else:
        on_host = fetch_tiles(tiles)
    plain = [tiles if isinstance(encoder, TimmNetwork) else on_host for encoder in encoders]
    if normalise is None:
        return plain
    normalised = normalise(on_host)
    return [seen if encoder.needs_stains else normalised for encoder, seen in zip(encoders, plain, strict=True)]


def plan_normalisation(
    path: Path, table: TileTable, encoders: Sequence[Encoder], spec: FeatureSpec
) -> Callable[[Tiles], Tiles] | None:
    """Return what is done to a slide's tiles before encoders see them.

    Parameters
    ----------
    path : Path
        Of the slide.
    table : TileTable
    encoders : sequence of Encoder
    spec : FeatureSpec

    Returns
    -------
    callable, (n, H, W, 3) -> (n, H, W, 3), or None
        None where nothing is to be normalised.
    """
    if spec.stain_normalisation == "none" or all(encoder.needs_stains for encoder in encoders):
        return None
    return fit_slide_normaliser(path, table, spec.stain_normalisation).apply


def measure_waiting(
    batches: "Iterator[Tiles] | Iterator[torch.Tensor]", throughput: Throughput
) -> "Iterator[Tiles | torch.Tensor]":
    """Pass batches on, and add up how long each was waited for.

    Parameters
    ----------
    batches : iterator of ndarray or Tensor
    throughput : Throughput
        Is added to.

    Yields
    ------
    ndarray or Tensor
    """
    while True:
        began = time.perf_counter()
        tiles: Any = next(batches, None)
        if tiles is None:
            return
        throughput.add(decode_s=time.perf_counter() - began)
        yield tiles


def describe_context(table: TileTable) -> TileContext:
    """Return what encoders may know of a slide.

    Parameters
    ----------
    table : TileTable

    Returns
    -------
    TileContext
    """
    attributes = table.attributes
    stain = Stain.from_attributes(attributes) if "stain_method" in attributes else None
    red, green, blue = attributes["background"]
    return TileContext(slide_id=table.slide_id, um_per_px=table.mpp, stain=stain, background=(red, green, blue))


def extract_cohort(
    slides: pd.DataFrame,
    spec: FeatureSpec,
    *,
    tiles_folder: Path,
    folder: Path,
    ledger: Path,
    shard: tuple[int, int] = (1, 1),
    workers: int,
    device: str = "auto",
) -> tuple[pd.DataFrame, Throughput]:
    """Extract the features of a cohort's slides in threads; each slide fails alone.

    Parameters
    ----------
    slides : DataFrame
        slide_id and path of the slides that chapter 01 tiled.
    spec : FeatureSpec
    tiles_folder : Path
        Holds `<slide_id>.h5`.
    folder : Path
        The chapter's; per-slide files of all shards lie in it.
    ledger : Path
    shard : tuple of 2 ints
    workers : int
    device : str

    Returns
    -------
    ledger : DataFrame
    throughput : Throughput

    Raises
    ------
    RunError
        When more than `spec.max_failed` slides failed, after all were tried.
    FeatureError
        As `make_encoders`, before anything is read.
    """
    encoders = make_encoders(spec, device=device)
    networks = any(isinstance(encoder, TimmNetwork) for encoder in encoders)
    devices = list_accelerators(device) if networks else []
    throughput = Throughput()
    path_of = slides.set_index("slide_id")["path"].to_dict()

    with (
        use_one_thread_each(workers),
        open_feeder(encoders, throughput, devices=devices, decoder=pick_decoding_device(spec.decode, device)) as feeder,
        share_cores(workers if networks else None) as share,
    ):

        def work(slide_id: str) -> tuple[str, str, str]:
            share()
            tiles_path = tiles_folder / f"{slide_id}.h5"
            return extract_slide(path_of[slide_id], tiles_path, encoders, spec, folder=folder, feeder=feeder)

        table = run_batch(
            pick_shard(list(path_of), shard),
            work,
            stage=STAGE,
            path=ledger,
            workers=workers,
            max_failed=spec.max_failed,
            describe="extract features",
        )
    return table, throughput
