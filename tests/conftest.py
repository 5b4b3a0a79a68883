"""What every test may use: the real data where it is at hand, and markers that say why they skip."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_VARIABLE = "HISTOBOOK_SHARED"
NETWORK_VARIABLE = "HISTOBOOK_NETWORK"


def find_shared() -> Path:
    named = os.environ.get(SHARED_VARIABLE)
    return Path(named) if named else REPOSITORY.parent / "shared" / "data"


def has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses real data, and skip, saying why, what this machine cannot run."""
    accelerator: bool | None = None
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")
        if item.get_closest_marker("network") and not os.environ.get(NETWORK_VARIABLE):
            item.add_marker(pytest.mark.skip(reason=f"needs the internet: set {NETWORK_VARIABLE}=1"))
        if item.get_closest_marker("gpu"):
            accelerator = has_accelerator() if accelerator is None else accelerator
            if not accelerator:
                item.add_marker(pytest.mark.skip(reason="needs an accelerator (cuda or mps), none found"))
        if shares_fixture(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(REPOSITORY).as_posix()))


def shares_fixture(item: pytest.Item) -> bool:
    """Say whether a test uses what its module makes once; workers that share such a module would each make it."""
    known = getattr(item, "_fixtureinfo", None)
    chosen = known.name2fixturedefs.values() if known else ()
    return any(definitions[-1].scope == "module" for definitions in chosen)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; the test skips where it is absent."""
    folder = find_shared()
    if not folder.is_dir():
        pytest.skip(
            f"real data absent: no folder ../shared/data beside the repository, and {SHARED_VARIABLE} is not set"
        )
    return folder


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close what a test drew, where it drew anything."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
