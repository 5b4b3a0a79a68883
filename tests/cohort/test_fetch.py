"""Fetching, against a file server on this machine."""

import gzip
import hashlib
import io
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers.cohort import fetch
from helpers.cohort.fetch import RemoteFile, describe_licences, fetch_cohort, read_registry
from helpers.core.errors import FetchError

COMMIT = "0" * 40


class CountingHandler(SimpleHTTPRequestHandler):
    """Serves a folder, counts requests, and answers the first `failures` of them with 503."""

    requests: list[str] = []
    failures = 0

    def do_GET(self) -> None:
        CountingHandler.requests.append(self.path)
        if len(CountingHandler.requests) <= CountingHandler.failures:
            self.send_error(503)
            return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, Path]]:
    """Base address pattern and folder of a server on loopback."""
    root = tmp_path / "served"
    root.mkdir()
    CountingHandler.requests, CountingHandler.failures = [], 0
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(CountingHandler, directory=str(root)))
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/{{repository}}/{{commit}}/{{path}}", root
    httpd.shutdown()
    httpd.server_close()


def serve(root: Path, path: str, content: bytes, local_name: str, convert: str = "") -> RemoteFile:
    target = root / "someone" / "data" / COMMIT / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return RemoteFile(local_name, digest, len(content), "someone/data", COMMIT, path, "MIT", convert)


@pytest.fixture
def registry(server, monkeypatch) -> list[RemoteFile]:
    """Three files: a plain one, one with a space in its name, one that is a zip."""
    _, root = server
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("all_clean.csv.zip", "case_id,age\n007,61\n")
    files = [
        serve(root, "tables/clinical.tsv", b"a\tb\n1\t2\n", "clinical.tsv"),
        serve(root, "Breast Cancer.csv", b"id\n1\n", "tables/breast.csv"),
        serve(root, "omics/all_clean.csv.zip", packed.getvalue(), "omics.csv.gz", "unzip_csv_to_gz"),
    ]
    monkeypatch.setattr(fetch, "read_registry", lambda cohort: files)
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
    return files


def test_nothing_is_fetched_before_the_licences_are_accepted(server, registry, tmp_path):
    with pytest.raises(FetchError) as caught:
        fetch_cohort("metabric", tmp_path / "out", base_url=server[0])
    assert "the licences of 'metabric' are not accepted yet" in str(caught.value)
    assert "someone/data (3 files, 0.0 MB): MIT" in str(caught.value)
    assert "`histobook fetch metabric --accept-licences`" in str(caught.value)
    assert CountingHandler.requests == []
    assert not (tmp_path / "out").exists()


def test_files_are_fetched_verified_and_laid_out(server, registry, tmp_path):
    out = fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    assert (out / "clinical.tsv").read_bytes() == b"a\tb\n1\t2\n"
    assert (out / "tables" / "breast.csv").read_bytes() == b"id\n1\n"
    assert gzip.decompress((out / "omics.csv.gz").read_bytes()) == b"case_id,age\n007,61\n"
    assert "MIT" in (out / "LICENCES.txt").read_text()


def test_a_second_fetch_asks_for_nothing_and_changes_nothing(server, registry, tmp_path):
    out = fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    CountingHandler.requests.clear()
    fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    assert CountingHandler.requests == []
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_interrupted_fetch_continues_where_it_stopped(server, registry, tmp_path):
    hidden = server[1] / "someone" / "data" / COMMIT / "Breast Cancer.csv"
    shutil.move(hidden, tmp_path / "kept")
    with pytest.raises(FetchError) as caught:
        fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    assert "1 of 3 files were not fetched; 2 of 3 are here and verified" in str(caught.value)
    assert "'tables/breast.csv' cannot be had from" in str(caught.value)
    shutil.move(tmp_path / "kept", hidden)
    CountingHandler.requests.clear()
    fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    assert len(CountingHandler.requests) == 1, "only the missing file is asked for"
    assert "Breast%20Cancer.csv" in CountingHandler.requests[0]


def test_an_altered_file_is_refused_and_not_kept(server, registry, tmp_path):
    (server[1] / "someone" / "data" / COMMIT / "tables" / "clinical.tsv").write_bytes(b"a\tb\n1\t3\n")
    with pytest.raises(FetchError, match=r"'clinical\.tsv' from .* has another content than pinned \(expected 8 bytes"):
        fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    assert not (tmp_path / "out" / "clinical.tsv").exists()


def test_a_local_file_that_was_altered_is_fetched_again(server, registry, tmp_path):
    out = fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    (out / "clinical.tsv").write_bytes(b"a\tb\n9\t9\n")
    fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    assert (out / "clinical.tsv").read_bytes() == b"a\tb\n1\t2\n"


def test_a_passing_fault_is_tried_again(server, registry, tmp_path):
    CountingHandler.failures = 2
    fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0], workers=1)
    assert len(CountingHandler.requests) == 5


def test_a_zip_of_two_tables_is_refused(server, registry, tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("one.csv", "a")
        archive.writestr("two.csv", "b")
    file = serve(server[1], "two.zip", packed.getvalue(), "omics.csv.gz", "unzip_csv_to_gz")
    monkeypatch.setattr(fetch, "read_registry", lambda cohort: [file])
    with pytest.raises(FetchError, match=r"'originals/two\.zip' holds 2 files, expected one table"):
        fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])


def test_an_unknown_conversion_is_refused(registry, tmp_path):
    odd = replace(registry[2], convert="rotate")
    with pytest.raises(FetchError, match="conversion 'rotate' of 'omics.csv.gz' is unknown"):
        fetch.convert_original(odd, tmp_path)


def test_an_unknown_cohort_lists_the_known_ones():
    with pytest.raises(
        FetchError, match="cohort 'coad' cannot be fetched, expected one of tcga-brca-features, metabric"
    ):
        read_registry("coad")


def test_the_registries_pin_what_the_book_promises():
    tcga, metabric = read_registry("tcga-brca-features"), read_registry("metabric")
    assert len(tcga) == 1044
    assert sum(file.bytes for file in tcga) == 29_802_211
    assert sum(file.local_name.startswith("features_hipt/pt_files/") for file in tcga) == 1038
    assert len(metabric) == 4
    for file in [*tcga, *metabric]:
        assert len(file.sha256) == 64
        assert len(file.commit) == 40
        assert file.licence
    assert "non-commercial" in describe_licences("tcga-brca-features")


def test_an_address_has_repository_commit_and_quoted_path():
    file = next(file for file in read_registry("metabric") if " " in file.path)
    assert file.get_url() == (
        "https://raw.githubusercontent.com/Christianah-C/Breast-Cancer-Survival-Analysis/"
        "8096d708a8376aa08b66808b655c49c736509ff4/Breast%20Cancer%20METABRIC.csv"
    )


def test_pinned_hashes_are_those_of_the_real_files(shared_data):
    metabric = shared_data / "metabric"
    assert all(fetch.is_whole(metabric / file.local_name, file) for file in read_registry("metabric"))
    folder = shared_data / "tcga_brca"
    here = [
        f
        for f in read_registry("tcga-brca-features")
        if "pt_files" in f.local_name and (folder / f.local_name).is_file()
    ]
    assert len(here) == 692
    assert all(fetch.is_whole(folder / file.local_name, file) for file in here)


def test_the_real_metabric_fetch_end_to_end_from_a_mirror(server, shared_data, tmp_path):
    from helpers.cohort.imports.metabric import import_metabric

    for file in read_registry("metabric"):
        target = server[1] / file.repository / file.commit / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shared_data / "metabric" / file.local_name, target)
    out = fetch_cohort("metabric", tmp_path / "out", accept_licences=True, base_url=server[0])
    assert len(import_metabric(out).cases) == 1904
