"""Weights of encoders: where they lie, how they are read, how they are fetched on a machine with internet.

A weights folder is `<root>/<encoder>/` with the file of weights and `source.json` (repository, commit, SHA-256). Roots
are searched in this order: the path the profile gives, `$HISTOBOOK_ENCODERS`, `data/encoders`. Nothing is downloaded
while a chapter runs; `histobook encoders fetch` does it, once, and the folder can be carried to a machine without
internet.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from helpers.core.errors import FeatureError, FetchError
from helpers.core.paths import atomic_write, repo_root, resolve
from helpers.features.registry import REGISTRY, EncoderEntry, describe_entry

if TYPE_CHECKING:
    import torch

ROOT_VARIABLE: Final = "HISTOBOOK_ENCODERS"
SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".pth")
SOURCE_FILE: Final = "source.json"


def list_roots() -> list[Path]:
    """Return the folders in which encoders' folders are looked for.

    Returns
    -------
    list of Path
    """
    chosen = os.environ.get(ROOT_VARIABLE)
    return [*([Path(chosen)] if chosen else []), repo_root() / "data" / "encoders"]


def find_weights(entry: EncoderEntry, path: str | Path | None = None) -> Path:
    """Find the weights of an encoder.

    Parameters
    ----------
    entry : EncoderEntry
    path : str or Path, optional
        A file, or a folder with one; the profile's choice. Without it the roots are searched.

    Returns
    -------
    Path

    Raises
    ------
    FeatureError
        When they lie nowhere: what to fetch, on which machine, and where to put it.
    """
    if path is not None:
        chosen = resolve(path)
        if not chosen.exists():
            msg = (
                f"FeatureError: the weights of '{entry.name}' are not at '{chosen}'. Put them there, or mend the path."
            )
            raise FeatureError(msg)
        return chosen if chosen.is_file() else pick_file(chosen, entry.name)
    for root in list_roots():
        if (root / entry.name).is_dir():
            return pick_file(root / entry.name, entry.name)
    raise FeatureError(describe_missing(entry))


def pick_file(folder: Path, name: str) -> Path:
    """Return the one file of weights in a folder.

    Parameters
    ----------
    folder : Path
    name : str
        Of the encoder, for the message.

    Returns
    -------
    Path

    Raises
    ------
    FeatureError
        When there is none, or several.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        msg = (
            f"FeatureError: the folder of '{name}' ('{folder}') holds {len(files)} files of weights ({found}), "
            f"expected one ({', '.join(SUFFIXES)}). Name the file in the profile (weights: {{{name}: path}}), or fetch "
            "it again."
        )
        raise FeatureError(msg)
    return files[0]


def describe_missing(entry: EncoderEntry) -> str:
    """Say what to fetch and where to put it.

    Parameters
    ----------
    entry : EncoderEntry

    Returns
    -------
    str
        A message that begins with 'FeatureError:'.
    """
    roots = " or ".join(f"'{root / entry.name}'" for root in list_roots())
    gate = f" ({entry.gate})" if entry.gate else ""
    how = (
        f"On a machine with internet{gate}: histobook encoders fetch {entry.name} --to FOLDER, which gets "
        f"{entry.filename} of {entry.hub} [{entry.licence}]. Then put FOLDER/{entry.name} there, or name the file in "
        f"the profile: weights: {{{entry.name}: path/to/{entry.filename}}}."
    )
    return (
        f"FeatureError: encoder '{entry.name}' needs weights and none lie at {roots}; it never runs on random weights. "
        f"{how}"
    )


def describe_all() -> str:
    """Return the registry as text: a paragraph per encoder, with where its weights lie on this machine.

    Returns
    -------
    str
    """
    return "\n".join(_describe_one(entry) for entry in REGISTRY.values())


def _describe_one(entry: EncoderEntry) -> str:
    facts = describe_entry(entry)
    lines = [f"{entry.name:18}{entry.kind}, {entry.dimension} numbers: {entry.about}"]
    if entry.architecture:
        lines.append(f"input {facts['input']}, {facts['mpp']} um/px; {facts['pooling']}; {entry.architecture}")
    if entry.needs_weights:
        here = any((root / entry.name).is_dir() for root in list_roots())
        lines.append(f"weights {facts['weights']}: {'here' if here else 'not here'}; {entry.licence}")
    if entry.gate:
        lines.append(f"gate: {entry.gate}")
    return f"\n{'':18}".join(lines)


def read_weights(path: Path, name: str) -> "tuple[dict[str, torch.Tensor], str]":
    """Read tensors and nothing else: no pickled code is run.

    Parameters
    ----------
    path : Path
        `.safetensors`, or a torch file of plain tensors.
    name : str
        Of the encoder, for the message.

    Returns
    -------
    state : dict of str to Tensor
    sha256 : str
        Of the file.

    Raises
    ------
    FeatureError
        When it cannot be read as tensors, or is not the file that was fetched.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        plain = path.suffix != ".safetensors"
        state: Any = torch.load(path, map_location="cpu", weights_only=True) if plain else load_file(path)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:160]
        msg = f"FeatureError: weights '{path.name}' of '{name}' cannot be read as tensors: {reason}. Fetch them again."
        raise FeatureError(msg) from None
    sha = compute_sha256(path)
    _check_recorded(path, name, sha)
    return cast("dict[str, torch.Tensor]", state.get("state_dict", state)), sha


def _check_recorded(path: Path, name: str, sha: str) -> None:
    recorded = path.with_name(SOURCE_FILE)
    if not recorded.is_file():
        return
    expected = json.loads(recorded.read_text(encoding="utf-8")).get("sha256", {}).get(path.name)
    if expected is not None and expected != sha:
        msg = (
            f"FeatureError: weights '{path.name}' of '{name}' have SHA-256 {sha[:12]}…, {SOURCE_FILE} beside them "
            f"records {expected[:12]}…. The file was exchanged or damaged: fetch it again."
        )
        raise FeatureError(msg)


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str, 64 hex digits
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_weights(entry: EncoderEntry, to: Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Fetch the usual weights of an encoder from the Hugging Face hub into `<to>/<encoder>/`, and record their source.

    What was fetched before is kept to: without `revision`, a folder with a `source.json` gets the commit that stands
    there, never a newer one.

    Parameters
    ----------
    entry : EncoderEntry
    to : Path
    revision : str, optional
        Commit, tag or branch.
    token : str, optional
        Of the hub; by default what `hf auth login` or `HF_TOKEN` left.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    FetchError
        When the encoder has no weights to fetch, the hub is off or not reached, or its terms were not accepted.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if not entry.hub:
        msg = f"FetchError: encoder '{entry.name}' ({entry.kind}) has no weights to fetch. It runs as it is."
        raise FetchError(msg)
    folder = to / entry.name
    wanted = revision or _read_commit(folder)
    try:
        cached = hf_hub_download(entry.hub, entry.filename, revision=wanted, token=token)
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise FetchError(_describe_refusal(entry, error)) from None
    return _keep(Path(cached), folder, entry)


def _read_commit(folder: Path) -> str | None:
    recorded = folder / SOURCE_FILE
    return json.loads(recorded.read_text(encoding="utf-8"))["revision"] if recorded.is_file() else None


def _keep(cached: Path, folder: Path, entry: EncoderEntry) -> Path:
    """Copy a fetched file into its folder, then write where it is from: the record is last, and says it is whole."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / entry.filename
    with atomic_write(target) as temporary:
        shutil.copyfile(cached, temporary)
    source = {
        "repository": entry.hub,
        "revision": cached.parent.name,  # the hub's cache names a snapshot by its commit
        "licence": entry.licence,
        "sha256": {entry.filename: compute_sha256(target)},
    }
    with atomic_write(folder / SOURCE_FILE) as temporary:
        temporary.write_text(json.dumps(source, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return target


def _describe_refusal(entry: EncoderEntry, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        what = f"the hub refuses (status {status}): {entry.gate or 'a token is needed'}"
    elif status == 404:
        what = f"the hub has no '{entry.filename}' of that revision"
    else:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return (
        f"FetchError: weights of '{entry.name}' ({entry.filename} of {entry.hub}): {what}. Run this on a machine with "
        "internet, with HF_HUB_OFFLINE unset, and carry the folder over."
    )
