"""Other people's tables, turned into ours. One module per layout; `import_cohort` picks it by the spec."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from helpers.cohort.flow import CohortFlow
from helpers.cohort.raw import RawCohort
from helpers.core.errors import DuplicateError, SchemaError
from helpers.core.paths import shorten
from helpers.core.specs import CohortSpec


def import_cohort(spec: CohortSpec, source: Path, *, slides_dir: Path, workers: int = 2) -> RawCohort:
    """Read a raw cohort folder by the layout that the spec names.

    Parameters
    ----------
    spec : CohortSpec
        `cohort` says the layout ('phantom' and 'tables' are the book's own), `extra_slides` adds single slides.
    source : Path
        The raw folder.
    slides_dir : Path
        Where an importer writes slides that it has to make (her2st, shandiz).
    workers : int
        Threads.

    Returns
    -------
    RawCohort

    Raises
    ------
    SchemaError, DuplicateError, OutcomeError
        When the folder or a table does not pass its gate.
    """
    if not source.is_dir():
        msg = (
            f"SchemaError: cohort folder '{shorten(source)}' does not exist. Fetch or copy the cohort there, or name "
            "its folder with DATA=<folder> (make) or --data <folder> (histobook)."
        )
        raise SchemaError(msg)
    cohort = _import_layout(spec.cohort, source, slides_dir, workers)
    return add_slides(cohort, [source / name for name in spec.extra_slides])


def _import_layout(layout: str, source: Path, slides_dir: Path, workers: int) -> RawCohort:
    if layout == "metabric":
        from helpers.cohort.imports.metabric import import_metabric

        return import_metabric(source)
    if layout == "scanb":
        from helpers.cohort.imports.scanb import import_scanb

        return import_scanb(source)
    if layout == "tcga_brca_features":
        from helpers.cohort.imports.tcga_brca import import_tcga_brca

        return import_tcga_brca(source)
    if layout == "her2st":
        from helpers.cohort.imports.her2st import import_her2st

        return import_her2st(source, slides_dir=slides_dir, workers=workers)
    if layout == "shandiz":
        from helpers.cohort.imports.shandiz import import_shandiz

        return import_shandiz(source, slides_dir=slides_dir, workers=workers)
    from helpers.cohort.imports.tables import import_tables

    return import_tables(source)


def add_slides(cohort: RawCohort, paths: list[Path]) -> RawCohort:
    """Add single slide files, each as a case of its own that carries the file's name.

    Parameters
    ----------
    cohort : RawCohort
    paths : list of Path

    Returns
    -------
    RawCohort

    Raises
    ------
    SchemaError
        When a file does not exist.
    DuplicateError
        When its name is a slide or case already.
    """
    if not paths:
        return cohort
    for path in paths:
        if not path.is_file():
            msg = f"SchemaError: extra slide '{path}' does not exist. Copy it there, or take it out of `extra_slides`."
            raise SchemaError(msg)
    names = [path.stem for path in paths]
    slides = cohort.slides if cohort.slides is not None else pd.DataFrame({"slide_id": [], "case_id": []})
    taken = [name for name in names if name in {*slides["slide_id"], *cohort.cases["case_id"]} or names.count(name) > 1]
    if taken:
        msg = f"DuplicateError: extra slide '{taken[0]}' has the name of another slide or case. Rename the file."
        raise DuplicateError(msg)
    rows = pd.DataFrame({"slide_id": names, "case_id": names, "path": [shorten(path.absolute()) for path in paths]})
    flows = [_restart(flow, names) for flow in cohort.flows]
    if cohort.slides is None:
        flows.insert(1, CohortFlow("extra slides", names, kind="slide"))
    return replace(
        cohort,
        cases=pd.concat([cohort.cases, pd.DataFrame({"case_id": names})], ignore_index=True),
        slides=pd.concat([slides, rows], ignore_index=True),
        flows=flows,
    )


def _restart(flow: CohortFlow, names: list[str]) -> CohortFlow:
    """Let extra slides enter a flow at its start."""
    if flow.kind not in {"case", "slide"}:
        return flow
    flow.items = [*flow.items, *names]
    flow.n_start += len(names)
    counts = ("n_before", "n_after")
    flow.steps = [{**step, **{name: step[name] + len(names) for name in counts}} for step in flow.steps]
    flow.start += f" (and {len(names)} extra)"
    return flow
