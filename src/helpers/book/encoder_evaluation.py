"""What the embedded encoders are worth, measured once and written beside them: `data/encoders/evaluation.json`.

    python -m helpers.book.encoder_evaluation --profile phantom --her2st ../shared/data/her2st \
        --monuseg ../shared/data/monuseg_breast

needs chapters 00, 01 and 02 of the profile; the real data are optional. Development cases alone may decide anything
about an encoder; the external cases are looked at afterwards.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.cohort.genes import widen_expression
from helpers.core import paths
from helpers.core.errors import RunError
from helpers.core.provenance import fingerprint
from helpers.features.encoders import TileContext, make_encoder
from helpers.features.store import FeatureBag
from helpers.models.embedded import RECORD, WEIGHTS, encode_tiles, make_random_network, read_encoder
from helpers.models.encoder_probes import (
    MONUSEG_LABEL,
    MONUSEG_TILE_PX,
    ProbeSet,
    draw_phantom_probe,
    probe_labels,
    read_her2st_probe,
    read_monuseg_probe,
    summarise_probes,
    transfer_probe,
)
from helpers.models.inputs import find_feature_files, make_measure, make_reader, select_tiles
from helpers.models.linear import predict_study
from helpers.models.pooling import pool_cases
from helpers.phantom.pretraining import MPP
from helpers.slides.reader import open_slide
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import read_tile
from helpers.stats.correlation import compute_agreement

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
EMBEDDED: Final = ("phantom-s", "phantom-s-morphology")
RANDOM: Final = "random ResNet-50"
EVALUATION: Final = "evaluation.json"
CARD: Final = "README.md"
MARK: Final = "<!-- results -->"
"""Stands in a card before and after the table of results."""
TARGETS: Final = ("prolif11", "MKI67")
N_BOOT: Final = 1000


def list_encoders(encoders_dir: str | Path, *, seed: int = 0) -> dict[str, Encode]:
    """Return the embedded encoders and their controls, ready to run on tiles at their own size.

    Parameters
    ----------
    encoders_dir : str or Path
    seed : int
        Of the random network.

    Returns
    -------
    dict of str to callable
        (n, H, W, 3) uint8 → (n, d) float32.
    """
    networks = {name: read_encoder(paths.resolve(encoders_dir) / name) for name in EMBEDDED}
    networks[RANDOM] = make_random_network("resnet50", seed=seed)
    colour, context = make_encoder("mean_colour"), TileContext(slide_id="probe", um_per_px=0.5, stain=None)
    encoders: dict[str, Encode] = {name: _bind(network) for name, network in networks.items()}
    return encoders | {"mean_colour": lambda tiles: colour.encode(tiles, context)}


def _bind(network: Any) -> Encode:
    return lambda tiles: encode_tiles(network, tiles)


def probe_encoders(probe: ProbeSet, encoders: dict[str, Encode], *, seed: int, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Run every encoder on a probe set and judge its linear probes.

    Parameters
    ----------
    probe : ProbeSet
    encoders : dict of str to callable
    seed : int
        Of the bootstrap, the same for every encoder.
    n_boot : int

    Returns
    -------
    DataFrame
        From `summarise_probes`.
    """
    tables = [
        probe_labels(encode(probe.tiles), probe, rng=np.random.default_rng(seed), n_boot=n_boot).assign(encoder=name)
        for name, encode in encoders.items()
    ]
    return summarise_probes(tables)


def evaluate_cohort(
    profile_dir: Path, encoders: dict[str, Encode], *, few: dict[str, int] | None = None, n_boot: int = N_BOOT
) -> pd.DataFrame:
    """Predict the proliferation score of a phantom cohort from each encoder's mean features, as chapter 03 does.

    Parameters
    ----------
    profile_dir : Path
        Results with chapters 00, 01 and 02; descriptors that chapter 02 stored are judged beside.
    encoders : dict of str to callable
    few : dict of str to int, optional
        Tiles per slide of encoders that are too slow for all.
    n_boot : int

    Returns
    -------
    DataFrame
        encoder, split, target, spearman, ci_low, ci_high, ceiling, ratio, n.

    Raises
    ------
    RunError
        When a chapter is missing.
    """
    chapters = {number: _find_chapter(profile_dir, number) for number in ("00", "01", "02")}
    slides = pd.read_parquet(chapters["00"] / "cohort" / "slides.parquet")
    tiled = [(chapters["01"] / "tiles" / f"{name}.h5").is_file() for name in slides["slide_id"]]
    slides = slides[tiled].reset_index(drop=True)
    tables = encode_cases(slides, chapters["01"] / "tiles", encoders, few=few or {})
    for folder in sorted((chapters["02"] / "features").iterdir()):
        if folder.name not in encoders or folder.name == "mean_colour":
            files = find_feature_files(slides[["slide_id", "case_id"]], encoder_dir=folder)
            tables[folder.name] = pool_cases(files, make_reader(files))
    return judge_cases(tables, chapters["00"], n_boot=n_boot)


def _find_chapter(profile_dir: Path, number: str) -> Path:
    found = sorted(profile_dir.glob(f"{number}_*"))
    if not found:
        msg = f"RunError: '{profile_dir.name}' lacks chapter {number}. Run: histobook run {number} --profile phantom."
        raise RunError(msg)
    return found[0]


def encode_cases(
    slides: pd.DataFrame, tiles_dir: Path, encoders: dict[str, Encode], *, few: dict[str, int]
) -> dict[str, pd.DataFrame]:
    """Encode the tiles that pass chapter 03's filters, and average them per case.

    Parameters
    ----------
    slides : DataFrame
        slide_id, case_id, path.
    tiles_dir : Path
    encoders : dict of str to callable
    few : dict of str to int
        At most so many tiles per slide, spread evenly.

    Returns
    -------
    dict of str to DataFrame, (n_cases, d)
    """
    bags: dict[str, dict[str, NDArray]] = {name: {} for name in encoders}
    for row in slides.itertuples():
        table = read_tiles(tiles_dir / f"{row.slide_id}.h5")
        bag = FeatureBag(
            features=np.zeros((len(table.qc), 1), np.float32),
            coords_l0=table.coords_l0,
            qc=table.qc,
            attributes={},
            dialect="histobook",
        )
        kept = np.flatnonzero(select_tiles(bag))
        with open_slide(paths.resolve(str(row.path)), slide_id=str(row.slide_id), mpp=table.mpp) as slide:
            tiles = np.stack([read_tile(slide, table, int(index)) for index in kept])
        for name, encode in encoders.items():
            chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), few.get(name, len(tiles)))).astype(int))
            bags[name][str(row.slide_id)] = encode(tiles[chosen])
    return {name: pool_cases(slides, bags[name].__getitem__) for name in encoders}


def judge_cases(tables: dict[str, pd.DataFrame], cohort_run: Path, *, n_boot: int) -> pd.DataFrame:
    """Fit chapter 03's ridge on each table of case features and compare with the measured scores.

    Parameters
    ----------
    tables : dict of str to DataFrame, (n_cases, d)
    cohort_run : Path
        Results of chapter 00.
    n_boot : int

    Returns
    -------
    DataFrame
        As `evaluate_cohort`.
    """
    cases = pd.read_parquet(cohort_run / "cohort" / "cases.parquet")
    expression = widen_expression(pd.read_parquet(cohort_run / "cohort" / "expression.parquet"))
    splits, site = pd.read_csv(cohort_run / "splits.csv"), cases.set_index("case_id")["site"]
    measure = make_measure(expression, targets=TARGETS, score_method="mean_log2")
    ceiling = read_ceiling(cohort_run)
    rows = []
    for name, features in tables.items():
        predictions, _ = predict_study(features, measure, splits, arm=name, groups=site)
        means = predictions.groupby(["split", "target", "case_id"])[["y_true", "y_pred"]].mean().reset_index()
        for (split, target), part in means.groupby(["split", "target"]):
            found = compute_agreement(part["y_true"], part["y_pred"], n_boot=n_boot, rng=np.random.default_rng(0))
            rho = found.set_index("quantity").loc["spearman"]
            best = ceiling[str(target)]["spearman"]
            rows.append({
                "encoder": name, "split": split, "target": target, "spearman": rho["value"], "ci_low": rho["ci_low"],
                "ci_high": rho["ci_high"], "ceiling": best, "ratio": rho["value"] / best, "n": int(rho["n"]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def read_real_probes(her2st: Path | None, monuseg: Path | None, *, seed: int) -> list[ProbeSet]:
    """Read the probe sets of real tissue that are at hand.

    Parameters
    ----------
    her2st, monuseg : Path, optional
        Folders of the data.
    seed : int
        Of the drawn slides on which a probe is fitted that then counts nuclei in MoNuSeg.

    Returns
    -------
    list of ProbeSet
    """
    probes = [] if her2st is None else [read_her2st_probe(her2st)]
    if monuseg is not None:
        real = read_monuseg_probe(monuseg)
        drawn = draw_phantom_probe(n_cases=18, n_external=0, seed=seed, slide_um=500.0, tile_px=MONUSEG_TILE_PX)
        nuclei = drawn.labels["nuclear_density"].to_numpy(float) * (MONUSEG_TILE_PX * MPP / 1000.0) ** 2
        probes += [real, transfer_probe(drawn, real, nuclei, label=MONUSEG_LABEL)]
    return probes


def read_ceiling(cohort_run: Path) -> dict[str, Any]:
    """Read what a perfect image score would reach, from the truth beside the phantom's slides.

    Parameters
    ----------
    cohort_run : Path
        Results of chapter 00.

    Returns
    -------
    dict
        By target: spearman, pearson.

    Raises
    ------
    RunError
        When the cohort has no planted truth.
    """
    slides = pd.read_parquet(cohort_run / "cohort" / "slides.parquet")
    file = paths.resolve(str(slides["path"].iloc[0])).parents[1] / "truth" / "estimands.json"
    if not file.is_file():
        msg = f"RunError: no planted truth at '{paths.shorten(file)}'. Only a phantom cohort has a noise ceiling."
        raise RunError(msg)
    return dict(paths.read_json(file)["ceiling"])


def main(arguments: list[str] | None = None) -> None:
    """Measure everything and write the evaluation beside the encoders.

    Parameters
    ----------
    arguments : list of str, optional
        Of the command line.
    """
    parser = argparse.ArgumentParser(description="judge the embedded encoders")
    parser.add_argument("--encoders", default="data/encoders")
    parser.add_argument("--profile-dir", default="results/phantom")
    parser.add_argument("--her2st", type=Path)
    parser.add_argument("--monuseg", type=Path)
    parser.add_argument("--seed", type=int, default=90003)
    given = parser.parse_args(arguments)
    folder = paths.resolve(given.encoders)
    encoders = list_encoders(folder)
    report: dict[str, Any] = {
        "weights_sha256": {name: fingerprint(folder / name / WEIGHTS) for name in EMBEDDED},
        "training": {name: fingerprint(folder / name / RECORD) for name in EMBEDDED},
        "seed": given.seed,
        "n_boot": N_BOOT,
    }
    few = {RANDOM: 12}
    report["tiles_per_slide"] = few
    report["cohort"] = _to_rows(evaluate_cohort(paths.resolve(given.profile_dir), encoders, few=few))
    probes = read_real_probes(given.her2st, given.monuseg, seed=given.seed)
    report["probes"] = [row for probe in probes for row in _to_rows(probe_encoders(probe, encoders, seed=given.seed))]
    paths.write_json(report, folder / EVALUATION)
    for name in EMBEDDED:
        update_card(folder / name / CARD, report)


def update_card(card: Path, report: dict[str, Any]) -> None:
    """Put the measured numbers into a model card, between its two marks.

    Parameters
    ----------
    card : Path
        README.md of an encoder.
    report : dict
        Content of evaluation.json.

    Raises
    ------
    RunError
        When the card lacks the marks.
    """
    text = card.read_text(encoding="utf-8")
    if text.count(MARK) != 2:
        msg = f"RunError: '{card.name}' holds {text.count(MARK)} lines '{MARK}', expected 2 around the table. Add them."
        raise RunError(msg)
    before, _, after = text.split(MARK)
    paths.write_text(f"{before}{MARK}\n{format_results(report)}{MARK}{after}", card)


def format_results(report: dict[str, Any]) -> str:
    """Return the evaluation as a Markdown table: Spearman with interval, one column per encoder.

    Parameters
    ----------
    report : dict

    Returns
    -------
    str
    """
    names = {"development": "phantom, out of fold", "external": "phantom, external site"}
    cohort = [{**row, "row": f"{row['target']}, {names[row['split']]}"} for row in report["cohort"]]
    probes = [
        {**row, "row": f"{row['probe_set']}: {row['label']}", "spearman": row["value"]}
        for row in report["probes"]
        if row["quantity"] == "spearman"
    ]
    cells = {
        (row["row"], row["encoder"]): f"{row['spearman']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"
        for row in [*cohort, *probes]
    }
    counts = {row["row"]: row["n"] for row in [*cohort, *probes]}
    encoders = list(dict.fromkeys(row["encoder"] for row in [*probes, *cohort]))
    lines = [["Spearman (95 % interval)", "n", *encoders], ["---"] * (2 + len(encoders))]
    lines += [[row, str(n), *[cells.get((row, name), "") for name in encoders]] for row, n in counts.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _to_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in table.to_dict("records")]


if __name__ == "__main__":
    main()
