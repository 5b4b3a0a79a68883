"""Fetch public cohorts: pinned commits, sizes and SHA-256, licences accepted first, resumable.

The registries in `data/` name every original file: where it lies, at which commit, how many bytes, which SHA-256 and
under which licence. A file that is here with the right content is not fetched again, so an interrupted fetch
continues; a file whose content differs is never used.
"""

import gzip
import logging
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pandas as pd

from helpers.cohort.textfiles import read_text_table
from helpers.core.errors import FetchError
from helpers.core.paths import atomic_write, cohorts_dir, data_dir, shorten, write_table, write_text
from helpers.core.progress import track
from helpers.core.provenance import fingerprint

BASE_URL: Final = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
"""Where an original lies. A mirror may use any pattern of these three fields and `{local_name}`."""
REGISTRIES: Final = {
    "tcga-brca-features": "registry_tcga_brca_features.tsv",
    "metabric": "registry_metabric.tsv",
}
ORIGINALS = "originals"
ATTEMPTS = 3
TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 2**16
PAUSE_SECONDS = 1.0  # before the second attempt; twice as long before the third


@dataclass(frozen=True)
class RemoteFile:
    """One pinned file.

    Parameters
    ----------
    local_name : str
        Where the cohort's importer looks for it, relative to the cohort folder.
    sha256 : str
        Of the original.
    bytes : int
        Size of the original.
    repository, commit, path : str
        Where the original lies.
    licence : str
    convert : str
        '' where the original is used as it is, 'unzip_csv_to_gz' where its one member is packed again.
    """

    local_name: str
    sha256: str
    bytes: int
    repository: str
    commit: str
    path: str
    licence: str
    convert: str

    @property
    def original_name(self) -> str:
        """Where the original is kept, relative to the cohort folder."""
        return f"{ORIGINALS}/{Path(self.path).name}" if self.convert else self.local_name

    def get_url(self, base_url: str = BASE_URL) -> str:
        """Return the address of the original.

        Parameters
        ----------
        base_url : str
            Pattern, see `BASE_URL`.

        Returns
        -------
        str
        """
        return base_url.format(
            repository=self.repository, commit=self.commit, path=quote(self.path), local_name=quote(self.local_name)
        )


def read_registry(cohort: str) -> list[RemoteFile]:
    """Read the pinned files of a cohort.

    Parameters
    ----------
    cohort : str
        One of `REGISTRIES`.

    Returns
    -------
    list of RemoteFile

    Raises
    ------
    FetchError
        When the cohort has no registry.
    """
    if cohort not in REGISTRIES:
        msg = f"FetchError: cohort '{cohort}' cannot be fetched, expected one of {', '.join(REGISTRIES)}."
        raise FetchError(f"{msg} Other cohorts are brought as a folder: set `data` of the profile.")
    table = read_text_table(data_dir() / REGISTRIES[cohort], separator="\t")
    table["convert"] = table["convert"].fillna("")
    return [RemoteFile(**{**row, "bytes": int(row["bytes"])}) for row in table.to_dict("records")]


def describe_licences(cohort: str) -> str:
    """Say what would be fetched, from whom, and under which licences.

    Parameters
    ----------
    cohort : str
        One of `REGISTRIES`.

    Returns
    -------
    str
        One line per source.
    """
    files = pd.DataFrame([vars(file) for file in read_registry(cohort)])
    lines = [f"{cohort}: {len(files):,} public files, {files['bytes'].sum() / 1e6:.1f} MB"]
    for (repository, licence), group in files.groupby(["repository", "licence"], sort=False):
        lines.append(f"  {repository} ({len(group):,} files, {group['bytes'].sum() / 1e6:.1f} MB): {licence}")
    return "\n".join(lines)


def fetch_cohort(
    cohort: str,
    destination: str | Path | None = None,
    *,
    accept_licences: bool = False,
    base_url: str = BASE_URL,
    workers: int = 8,
) -> Path:
    """Fetch a cohort's originals, verify each, and lay them out as its importer expects.

    Parameters
    ----------
    cohort : str
        One of `REGISTRIES`.
    destination : str or Path, optional
        Folder to fill; `data/cohorts/<cohort>` otherwise.
    accept_licences : bool
        Must be True: the licences (`describe_licences`) are the user's to accept, several forbid commercial use.
    base_url : str
        Pattern of the addresses, for a mirror.
    workers : int
        Downloads at the same time.

    Returns
    -------
    Path
        The cohort folder.

    Raises
    ------
    FetchError
        When the licences are not accepted, or a file cannot be had, is incomplete or has another content.
    """
    if not accept_licences:
        msg = (
            f"FetchError: the licences of '{cohort}' are not accepted yet.\n{describe_licences(cohort)}\n"
            f"Read them at their sources, then run `histobook fetch {cohort} --accept-licences`."
        )
        raise FetchError(msg)
    folder = Path(destination) if destination is not None else cohorts_dir() / cohort
    files = read_registry(cohort)
    missing = [file for file in files if not is_whole(folder / file.original_name, file)]
    print(f"{cohort}: {len(files) - len(missing):,} of {len(files):,} files are here and verified")
    failures = _fetch_all(missing, folder, base_url, workers)
    if failures:
        raise FetchError(_describe_failures(failures, n_missing=len(missing), n_files=len(files), cohort=cohort))
    for file in files:
        convert_original(file, folder)
    write_text(f"Accepted before fetching:\n{describe_licences(cohort)}\n", folder / "LICENCES.txt")
    write_table(pd.DataFrame([vars(file) for file in files]), folder / "FETCHED.csv")
    print(f"{cohort}: complete in {shorten(folder.absolute())}")
    return folder


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Say whether a file is here with the pinned size and content.

    Parameters
    ----------
    path : Path
    file : RemoteFile

    Returns
    -------
    bool
    """
    return path.is_file() and path.stat().st_size == file.bytes and fingerprint(path) == file.sha256


def _fetch_all(files: list[RemoteFile], folder: Path, base_url: str, workers: int) -> list[str]:
    """Fetch what is missing; return one line per failure. One failure does not stop the others."""

    def fetch(file: RemoteFile) -> str:
        try:
            fetch_file(file, folder, base_url=base_url)
        except FetchError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        done = pool.map(fetch, files)
        return [text for text in track(done, total=len(files), describe="Fetch files") if text]


def fetch_file(file: RemoteFile, folder: Path, *, base_url: str = BASE_URL) -> Path:
    """Fetch one file and verify it; an altered or cut one is not kept.

    Parameters
    ----------
    file : RemoteFile
    folder : Path
        Cohort folder.
    base_url : str

    Returns
    -------
    Path
        Of the original.

    Raises
    ------
    FetchError
        Names the file, its address and what was found.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    target, url = folder / file.original_name, file.get_url(base_url)
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * PAUSE_SECONDS)
        try:
            pooch.retrieve(
                url, known_hash=f"sha256:{file.sha256}", fname=target.name, path=target.parent, downloader=_download
            )
            return target
        except (requests.RequestException, OSError) as error:
            msg = (
                f"FetchError: '{file.local_name}' cannot be had from {url} ({error}). Check the connection; try again."
            )
            problem: Exception = error
            if _is_final(error):
                break
        except ValueError as error:  # pooch: the content is not what was pinned
            msg = (
                f"FetchError: '{file.local_name}' from {url} has another content than pinned (expected {file.bytes:,} "
                f"bytes, SHA-256 {file.sha256[:12]}…). Nothing was kept; try again, or report it."
            )
            problem = error
    raise FetchError(msg) from problem


def _download(url: str, output_file: str, _pooch: object) -> None:
    """Stream one address into a file; pooch checks its content and moves it into place."""
    import requests

    with requests.get(url, stream=True, timeout=TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        with Path(output_file).open("wb") as file:
            file.writelines(response.iter_content(CHUNK_BYTES))


def _is_final(error: Exception) -> bool:
    """Say whether trying again is useless: a 404 stays a 404."""
    response = getattr(error, "response", None)
    return response is not None and 400 <= response.status_code < 500 and response.status_code != 429


def _describe_failures(failures: list[str], *, n_missing: int, n_files: int, cohort: str) -> str:
    shown = "\n".join(f"  {text}" for text in failures[:5])
    more = f"\n  and {len(failures) - 5} more" if len(failures) > 5 else ""
    here = n_files - len(failures)
    return (
        f"FetchError: {len(failures)} of {n_missing} files were not fetched; {here} of {n_files} are here and "
        "verified.\n"
        f"{shown}{more}\nRun the same command again: it continues where it stopped (`histobook fetch {cohort}`)."
    )


def convert_original(file: RemoteFile, folder: Path) -> Path:
    """Bring an original into the form that the importer reads; most are used as they are.

    Parameters
    ----------
    file : RemoteFile
    folder : Path
        Cohort folder, which holds the verified original.

    Returns
    -------
    Path
        The file under its local name.

    Raises
    ------
    FetchError
        When the conversion is unknown, or the archive does not hold exactly one table.
    """
    target = folder / file.local_name
    if not file.convert:
        return target
    if file.convert != "unzip_csv_to_gz":
        msg = f"FetchError: conversion '{file.convert}' of '{file.local_name}' is unknown. Update histobook."
        raise FetchError(msg)
    with zipfile.ZipFile(folder / file.original_name) as archive:
        members = [name for name in archive.namelist() if not name.startswith("__MACOSX") and not name.endswith("/")]
        if len(members) != 1:
            msg = f"FetchError: '{file.original_name}' holds {len(members)} files, expected one table. Report it."
            raise FetchError(msg)
        content = archive.read(members[0])
    with atomic_write(target) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0))
    return target
