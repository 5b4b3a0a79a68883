"""Weights: found where they were put, read without running code, fetched once with their source recorded."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from helpers.core.errors import FeatureError, FetchError
from helpers.features import weights
from helpers.features.registry import REGISTRY
from helpers.features.weights import fetch_weights, find_weights, read_weights

ENTRY = REGISTRY["resnet18"]
COMMITS = {"main": "a" * 40, "a" * 40: "a" * 40, "b" * 40: "b" * 40}
BODIES = {"a" * 40: save({"w": torch.ones(3)}), "b" * 40: save({"w": torch.zeros(3)})}


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root that holds nothing yet."""
    root = tmp_path / "encoders"
    root.mkdir()
    monkeypatch.setenv(weights.ROOT_VARIABLE, str(root))
    return root


def test_the_profile_outranks_the_folders(roots: Path, tmp_path: Path) -> None:
    (roots / "resnet18").mkdir()
    save_file({"w": torch.ones(1)}, roots / "resnet18" / "model.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "own.safetensors")
    assert find_weights(ENTRY) == roots / "resnet18" / "model.safetensors"
    assert find_weights(ENTRY, tmp_path / "own.safetensors") == tmp_path / "own.safetensors"
    assert find_weights(ENTRY, roots / "resnet18") == roots / "resnet18" / "model.safetensors", "a folder will do"


def test_missing_weights_say_what_to_fetch_and_where_to_put_it(roots: Path) -> None:
    with pytest.raises(FeatureError) as caught:
        find_weights(REGISTRY["uni2_h"])
    for part in (
        "'uni2_h'",
        str(roots / "uni2_h"),
        "accept the terms",
        "fetch uni2_h --to",
        "MahmoodLab/UNI2-h",
        "CC-BY-NC-ND",
    ):
        assert part in str(caught.value)


def test_a_folder_without_one_file_of_weights_is_refused(roots: Path) -> None:
    (roots / "resnet18").mkdir()
    with pytest.raises(FeatureError, match=r"holds 0 files of weights \(none\), expected one"):
        find_weights(ENTRY)
    for name in ("a.safetensors", "b.pt"):
        (roots / "resnet18" / name).write_bytes(b"")
    with pytest.raises(FeatureError, match=r"holds 2 files of weights \(a.safetensors, b.pt\)"):
        find_weights(ENTRY)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pt"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(FeatureError, match=rf"weights '{name}' of 'resnet18' cannot be read as tensors"):
            read_weights(tmp_path / name, "resnet18")
    with pytest.raises(FeatureError, match=r"weights of 'resnet18' are not at '.*gone\.safetensors'"):
        find_weights(ENTRY, tmp_path / "gone.safetensors")


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit('the file ran code')",))

    torch.save({"w": Trap()}, tmp_path / "w.pt")
    with pytest.raises(FeatureError, match="cannot be read as tensors"):
        read_weights(tmp_path / "w.pt", "resnet18")


class Hub(BaseHTTPRequestHandler):
    """What the hub answers for one public file at two commits, and for a gated one."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repository == "MahmoodLab/UNI":
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to this model is restricted.")
            self.end_headers()
            return
        commit = COMMITS.get(revision)
        if repository != ENTRY.hub or name != ENTRY.filename or commit is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return
        data = BODIES[commit]
        self.send_response(200)
        for key, value in {
            "X-Repo-Commit": commit,
            "ETag": f'"{commit[:8]}"',
            "Content-Length": str(len(data)),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub on this machine."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    yield address
    server.shutdown()
    server.server_close()


def test_fetched_weights_carry_their_source_and_stay_at_their_commit(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch_weights(ENTRY, tmp_path / "to", token=False)
    source = json.loads((tmp_path / "to" / "resnet18" / "source.json").read_text())
    assert path.read_bytes() == BODIES["a" * 40]
    assert (source["repository"], source["revision"], source["licence"]) == (ENTRY.hub, "a" * 40, ENTRY.licence)
    monkeypatch.setitem(COMMITS, "main", "b" * 40)
    assert fetch_weights(ENTRY, tmp_path / "to", token=False).read_bytes() == BODIES["a" * 40], "a newer one slipped in"
    fetch_weights(ENTRY, tmp_path / "to", revision="b" * 40, token=False)
    assert path.read_bytes() == BODIES["b" * 40]
    assert (
        read_weights(path, "resnet18")[1] == json.loads(path.with_name("source.json").read_text())["sha256"][path.name]
    )


def test_an_exchanged_file_is_noticed(hub: str, tmp_path: Path) -> None:
    path = fetch_weights(ENTRY, tmp_path / "to", token=False)
    path.write_bytes(BODIES["b" * 40])
    with pytest.raises(FeatureError, match=r"was exchanged or damaged: fetch it again"):
        read_weights(path, "resnet18")


def test_a_gate_is_explained(hub: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"'uni' .*the hub refuses \(status 403\): accept the terms"):
        fetch_weights(REGISTRY["uni"], tmp_path, token=False)
    assert not list(tmp_path.rglob("*.bin")), "something was left behind"


def test_offline_is_honoured(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match=r"HF_HUB_OFFLINE unset"):
        fetch_weights(ENTRY, tmp_path / "to", token=False)


def test_what_has_no_weights_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"'stain_texture' \(descriptor\) has no weights to fetch"):
        fetch_weights(REGISTRY["stain_texture"], tmp_path)
