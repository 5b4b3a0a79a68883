"""A toy book of two chapters, small enough to execute in a test."""

from pathlib import Path
from typing import ClassVar, Optional

import pytest
from pydantic import Field

from helpers.core import specs
from helpers.core.specs import PathStr, Spec

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # {title}

# %% tags=["parameters"]
from typing import Optional
profile_dir: str = "results/toy"      # run parameter
run_name: str = "interactive"
shard: str = "1/1"
workers: int = 2
device: str = "auto"
"""

FIRST = (
    HEADER.format(title="Count the cases")
    + """\
n_cases: int = 4                      # how many
case_id: str = "007"
table: Optional[str] = None           # a file

# %%
from typing import ClassVar
from helpers.core import provenance
from helpers.core.specs import PathStr, Spec
class CountSpec(Spec):
    chapter: ClassVar[str] = "00_count_cases"
    n_cases: int
    case_id: str
    table: Optional[PathStr]
spec = CountSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Divide the cases
# Zero cases cannot be divided.

# %%
share = 1 / n_cases
run.path("share.txt").write_text(f"{case_id} {share}")
run.score(id="00/share/cases/development", quantity="share", value=share, kind="planted", reference=0.25, n=n_cases)

# %%
run.finish()
"""
)

SECOND = (
    HEADER.format(title="Read the share")
    + """\
factor: float = 2.0

# %%
from typing import ClassVar
from helpers.core import provenance
from helpers.core.specs import Spec
class ReadSpec(Spec):
    chapter: ClassVar[str] = "01_read_share"
    upstream: ClassVar[tuple[str, ...]] = ("00",)
    factor: float
spec = ReadSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %%
share = float((run.upstream("00") / "share.txt").read_text().split()[1])
run.path("product.txt").write_text(str(factor * share))
run.finish()
"""
)

PROFILE = """\
profile: toy
shared: {n_cases: 5}
chapters:
  "00": {case_id: "007"}
  "01": {}
"""


class CountSpec(Spec):
    chapter: ClassVar[str] = "00_count_cases"
    n_cases: int = Field(4, ge=0)
    case_id: str = "007"
    table: Optional[PathStr] = None


class ReadSpec(Spec):
    chapter: ClassVar[str] = "01_read_share"
    upstream: ClassVar[tuple[str, ...]] = ("00",)
    factor: float = 2.0


@pytest.fixture
def toy_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a book of two chapters and one profile."""
    for name, text in {"00_count_cases": FIRST, "01_read_share": SECOND}.items():
        write_chapter(tmp_path, name, text)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "toy.yaml").write_text(PROFILE)
    monkeypatch.setenv("HISTOBOOK_ROOT", str(tmp_path))
    monkeypatch.setattr(specs, "CountSpec", CountSpec, raising=False)
    monkeypatch.setattr(specs, "ReadSpec", ReadSpec, raising=False)
    return tmp_path


def write_chapter(root: Path, name: str, text: str) -> Path:
    path = root / "notebooks" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path
