"""Draw phantom patients: latent proliferation and everything that hangs on it, as plain arrays.

The same code draws the hundred cases of a cohort and the million cases of the Monte-Carlo truth, so what is judged
and what judges cannot drift apart. Every variable has its own random stream, named by a word: adding a variable
moves no other, and the first cases of a larger cohort are the cases of a smaller one. Only uniform and normal
variates of PCG64 are drawn, no BLAS is called, and values are rounded to 6 digits before anything is derived from
them, so the tables are the same on every machine.
"""

import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from helpers.core.specs import PhantomSpec
from helpers.phantom import effects

Array = NDArray[np.float64]
Columns = dict[str, np.ndarray]
Streams = Callable[[str], np.random.Generator]
DIGITS: Final = 6
SUBTYPE_NAMES: Final = np.array([subtype.name for subtype in effects.SUBTYPES])
SITE_NAMES: Final = np.array([site.site for site in effects.SITES])


def open_streams(seed: int, *scope: str | int) -> Streams:
    """Return a function that opens the random stream of a name.

    Parameters
    ----------
    seed : int
    *scope : str or int
        Words put before every name, such as the split or a block's number.

    Returns
    -------
    callable, name -> numpy Generator (PCG64)
    """

    def open_stream(name: str) -> np.random.Generator:
        words = "/".join([*map(str, scope), name])
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(words.encode())])))

    return open_stream


def round_digits(values: np.ndarray) -> Array:
    """Round to 6 digits; minus zero becomes zero.

    Parameters
    ----------
    values : ndarray of float

    Returns
    -------
    ndarray of float64
    """
    return np.asarray(np.round(values, DIGITS) + 0.0, dtype=np.float64)


def compute_moments(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return mean and SD over all cases of a quantity whose (mean, SD) is given per subtype.

    Parameters
    ----------
    pairs : list of (mean, sd)
        In the order of `effects.SUBTYPES`.

    Returns
    -------
    mean, sd : float
    """
    weights = [subtype.frequency for subtype in effects.SUBTYPES]
    mean = sum(w * m for w, (m, _) in zip(weights, pairs, strict=True))
    variance = sum(w * (s * s + (m - mean) ** 2) for w, (m, s) in zip(weights, pairs, strict=True))
    return mean, float(variance**0.5)


def draw_cases(spec: PhantomSpec, n: int, streams: Streams, *, external: bool = False) -> Columns:
    """Draw `n` patients: site, subtype, latent, receptors, grade, TILs, age, size, nodes, stage.

    Parameters
    ----------
    spec : PhantomSpec
    n : int
    streams : callable
        From `open_streams`.
    external : bool
        True: all cases come from the external site.

    Returns
    -------
    dict of str to ndarray, (n,)
        `latent` has mean 0 and SD 1 (times 1 + site_shift_sd squared over development). `log_nodes` and `log2_size`
        are the covariates of the planted hazard.
    """
    site = np.full(n, len(effects.SITES) - 1) if external else deal_sites(n)
    subtype = _draw_subtype(n, streams)
    cases: Columns = {"site_index": site, "subtype_index": subtype}
    cases["site"], cases["subtype"] = SITE_NAMES[site], SUBTYPE_NAMES[subtype]
    cases["latent"] = _draw_latent(spec, site, subtype, streams)
    cases |= _draw_receptors(subtype, streams)
    cases |= _draw_grade(cases["latent"], streams)
    cases |= _draw_tissue(subtype, streams)
    cases |= _draw_clinical(cases["latent"], subtype, streams)
    return cases


def deal_sites(n: int) -> NDArray[np.int64]:
    """Deal development cases to sites in a fixed order, so that even a dozen cases cover all sites.

    Parameters
    ----------
    n : int

    Returns
    -------
    ndarray of int, (n,)
        Index into `effects.SITES`.
    """
    names = [site.site for site in effects.SITES]
    order = np.array([names.index(letter) for letter in effects.DEAL])
    return order[np.arange(n) % len(order)]


def _draw_subtype(n: int, streams: Streams) -> NDArray[np.int64]:
    edges = np.cumsum([subtype.frequency for subtype in effects.SUBTYPES])[:-1]
    return np.searchsorted(edges, streams("subtype").random(n), side="right")


def _pick(subtype: np.ndarray, values: list[float]) -> Array:
    return np.array(values, dtype=np.float64)[subtype]


def _draw_latent(spec: PhantomSpec, site: np.ndarray, subtype: np.ndarray, streams: Streams) -> Array:
    mean, sd = compute_moments([s.proliferation for s in effects.SUBTYPES])
    centre = _pick(subtype, [(s.proliferation[0] - mean) / sd for s in effects.SUBTYPES])
    spread = _pick(subtype, [s.proliferation[1] / sd for s in effects.SUBTYPES])
    shift = spec.site_shift_sd * np.array([s.latent_shift for s in effects.SITES])[site]
    return round_digits(centre + spread * streams("latent").standard_normal(len(subtype)) + shift)


def _draw_receptors(subtype: np.ndarray, streams: Streams) -> Columns:
    shares = {name: [getattr(s, name) for s in effects.SUBTYPES] for name in ("er", "pr", "her2", "lobular")}
    return {name: streams(name).random(len(subtype)) < _pick(subtype, share) for name, share in shares.items()}


def compute_normal_cdf(z: np.ndarray) -> Array:
    """Return the standard normal distribution function.

    Parameters
    ----------
    z : ndarray of float

    Returns
    -------
    ndarray of float64, between 0 and 1
    """
    from scipy.special import ndtr

    return np.asarray(ndtr(z), dtype=np.float64)


def _draw_grade(latent: Array, streams: Streams) -> Columns:
    """Three components on a scale 1-3 (what the slide shows), each read with error as 1, 2 or 3, and their grade."""
    drawn: Columns = {}
    for name, (correlation, first, second) in effects.GRADE_COMPONENTS.items():
        noise = streams(name).standard_normal(len(latent))
        shown = correlation * latent + np.sqrt(1.0 - correlation**2) * noise
        read = shown + effects.READER_SD * streams(f"{name}_reader").standard_normal(len(latent))
        drawn[name] = _scale_component(shown, first, second)
        scale = _scale_component(read / np.sqrt(1.0 + effects.READER_SD**2), first, second)
        drawn[f"{name}_score"] = 1 + (scale >= 1.5) + (scale >= 2.5)
    total = np.add.reduce([drawn[f"{name}_score"] for name in effects.GRADE_COMPONENTS])
    drawn["grade"] = 1 + (total >= 6) + (total >= 8)
    return drawn


def _scale_component(z: Array, first: float, second: float) -> Array:
    """Map z to 1-3 such that the stated shares lie below 1.5 and between 1.5 and 2.5."""
    return round_digits(np.interp(compute_normal_cdf(z), [0.0, first, first + second, 1.0], [1.0, 1.5, 2.5, 3.0]))


def _draw_tissue(subtype: np.ndarray, streams: Streams) -> Columns:
    n = len(subtype)
    logit = _pick(subtype, [s.til for s in effects.SUBTYPES]) + effects.TIL_LOGIT_SD * streams("til").standard_normal(n)
    mean, sd = compute_moments([(s.til, effects.TIL_LOGIT_SD) for s in effects.SUBTYPES])
    return {
        "til_level": round_digits(1.0 / (1.0 + np.exp(-logit))),
        "til_z": round_digits((logit - mean) / sd),
    }


def _draw_clinical(latent: Array, subtype: np.ndarray, streams: Streams) -> Columns:
    n = len(latent)
    age_mean, age_sd = (_pick(subtype, [s.age[part] for s in effects.SUBTYPES]) for part in (0, 1))
    r = effects.SIZE_CORRELATION
    z_size = r * latent + np.sqrt(1.0 - r * r) * streams("size").standard_normal(n)
    size = np.clip(np.rint(20.0 * 2.0 ** (effects.SIZE_LOG2_MEAN + effects.SIZE_LOG2_SD * z_size)), 3.0, 150.0)
    nodes = _draw_nodes(z_size, latent, streams)
    return {
        "age_years": np.clip(np.round(age_mean + age_sd * streams("age").standard_normal(n), 1), 25.0, 95.0),
        "tumour_size_mm": size,
        "nodes_positive": nodes,
        "log2_size": round_digits(np.log2(size / 20.0)),
        "log_nodes": round_digits(np.log1p(nodes)),
        "stage": compute_stage(size, nodes),
    }


def _draw_nodes(z_size: Array, latent: Array, streams: Streams) -> NDArray[np.int64]:
    by_size, by_latent = effects.NODES_CORRELATION
    rest = np.sqrt(1.0 - by_size**2 - by_latent**2)
    propensity = by_size * z_size + by_latent * latent + rest * streams("nodes").standard_normal(len(latent))
    mean, sd = effects.NODES_LOG
    count = 1 + np.floor(np.exp(mean + sd * streams("node_count").standard_normal(len(latent))))
    positive = compute_normal_cdf(propensity) > effects.NODES_NEGATIVE
    return np.where(positive, np.minimum(count, 40), 0).astype(np.int64)


def compute_stage(size_mm: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Return the anatomic stage from tumour size and positive nodes (AJCC, 7th edition, no metastasis).

    Parameters
    ----------
    size_mm : ndarray, (n,)
    nodes : ndarray, (n,)

    Returns
    -------
    ndarray of str, (n,)
        I, IIA, IIB, IIIA or IIIC.
    """
    t = np.digitize(size_mm, [20.0, 50.0], right=True)  # 0: T1 (<= 20 mm), 1: T2, 2: T3
    n = np.digitize(nodes, [1, 4, 10])  # 0: N0, 1: N1 (1-3), 2: N2 (4-9), 3: N3
    table = np.array([["I", "IIA", "IIIA", "IIIC"], ["IIA", "IIB", "IIIA", "IIIC"], ["IIB", "IIIA", "IIIA", "IIIC"]])
    return table[t, n]
