"""`histobook`: the book from a terminal. Every command imports what it needs when it is called, so help is instant."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from helpers.core.errors import HistobookError

app = typer.Typer(
    name="histobook",
    help="A Jupyter analysis book for computational pathology, calibrated on a phantom.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ProfileOption = Annotated[str, typer.Option("--profile", "-P", help="Name or path of a file of config/.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Raw cohort folder, in place of the one the profile names.")
]
WorkersOption = Annotated[int, typer.Option("--workers", "-w", min=1, help="Threads inside a chapter.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]


@app.command()
def run(
    chapter: Annotated[str, typer.Argument(help="Number, name or path: 03 or notebooks/03_predict_proliferation.py.")],
    profile: ProfileOption = "phantom",
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Write beside the book's own results, to <NN>@<name>.")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value, any number of times.")
    ] = None,
    data: DataOption = None,
    shard: Annotated[str, typer.Option("--shard", help="k/n: the k-th of n parts of the slides.")] = "1/1",
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Run it even when nothing changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, stop.")] = False,
) -> None:
    """Run one chapter for a profile, unless its result stands.

    Parameters are checked before a kernel starts. The executed notebook is kept, also on failure.
    """
    from helpers.book.runner import describe_job, plan_job, run_job

    overrides = parse_pairs(parameter or [])
    run_name = name or ("interactive" if overrides else "book")
    job = plan_job(
        chapter, profile, overrides=overrides, run_name=run_name, data=data, shard=shard, workers=workers, device=device
    )
    if dry_run:
        print(describe_job(job))
    else:
        run_job(job, force=force)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def book(
    context: typer.Context,
    profile: ProfileOption = "phantom",
    data: DataOption = None,
    cores: Annotated[
        int, typer.Option("--cores", "-c", min=1, help="Cores of this machine, or of each job that Snakemake submits.")
    ] = 2,
    device: DeviceOption = "auto",
    shards: Annotated[int, typer.Option("--shards", min=1, help="Parts into which the slides are cut.")] = 1,
    until: Annotated[str | None, typer.Option("--until", help="Stop after this chapter, e.g. 03.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which chapters would run, and why.")] = False,
) -> None:
    """Run the chapters that a profile lists, then its scoreboard and its site.

    Snakemake orders; each chapter decides by itself whether its result stands. Options after `--` go to Snakemake.
    """
    from helpers.book.workflow import describe_book, order_book

    if dry_run:
        print(describe_book(profile, data=data))
    else:
        order_book(
            profile, data=data, cores=cores, device=device, shards=shards, until=until, options=tuple(context.args)
        )


@app.command()
def scoreboard(profile: ProfileOption = "phantom") -> None:
    """Put the scores of a profile's finished chapters into results/<profile>/scoreboard.json."""
    from helpers.book.params import read_profile
    from helpers.book.scoreboard import collect_scores, summarise_scores, write_scoreboard
    from helpers.core import paths

    folder = read_profile(profile).folder
    print(paths.shorten(write_scoreboard(folder)))
    print(summarise_scores(collect_scores(folder)).to_string(index=False))


@app.command()
def site(
    profile: ProfileOption = "phantom",
    out: Annotated[Path | None, typer.Option("--out", help="Folder; results/<profile>/site by default.")] = None,
) -> None:
    """Build the site of a profile from the chapters it ran: executed notebooks, scoreboard, API, how-to."""
    from helpers.book.params import read_profile
    from helpers.book.site import build_site
    from helpers.core import paths

    print(paths.shorten(build_site(read_profile(profile).folder, out=out)))


@app.command()
def gallery(profile: ProfileOption = "phantom") -> None:
    """Copy the figures that README shows from a profile's results into docs/_static/gallery, as small PNGs."""
    from helpers.book.params import read_profile
    from helpers.book.site import copy_gallery
    from helpers.core import paths

    for path in copy_gallery(read_profile(profile).folder):
        print(paths.shorten(path))


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder of the new raw cohort.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value of PhantomSpec, e.g. n_cases=20.")
    ] = None,
    workers: WorkersOption = 2,
) -> None:
    """Render a phantom cohort: slides, tables and the planted truth."""
    import yaml

    from helpers.core.specs import PhantomSpec
    from helpers.phantom.generate import generate_cohort

    values = {name: yaml.safe_load(value) for name, value in parse_pairs(parameter or []).items()}
    print(generate_cohort(PhantomSpec.from_values(values), out.resolve(), workers=workers))


@app.command()
def fetch(
    cohort: Annotated[str, typer.Argument(help="tcga-brca-features or metabric.")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder; data/cohorts/<cohort> by default.")] = None,
    accept_licences: Annotated[
        bool, typer.Option("--accept-licences", help="You have read the licences and accept them.")
    ] = False,
    mirror: Annotated[str | None, typer.Option("--mirror", help="Pattern of addresses, in place of the usual.")] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Downloads at the same time.")] = 8,
) -> None:
    """Download a public cohort: pinned commits, checked sizes and SHA-256. Interrupted? Run it again."""
    from helpers.cohort.fetch import BASE_URL, describe_licences, fetch_cohort

    if not accept_licences and sys.stdin.isatty():
        print(describe_licences(cohort))
        accept_licences = typer.confirm("Do you accept these licences?")
    fetch_cohort(cohort, to, accept_licences=accept_licences, base_url=mirror or BASE_URL, workers=workers)


@app.command()
def doctor(folder: Annotated[Path, typer.Argument(help="Raw cohort folder.")]) -> None:
    """List every problem of a raw cohort's tables at once, each with its remedy."""
    from helpers.cohort.doctor import describe_folder

    text = describe_folder(folder)
    print(text)
    raise typer.Exit(code=0 if text.endswith("\n0 problems found") else 1)


encoders_app = typer.Typer(help="List the encoders, or fetch the weights of one.", invoke_without_command=True)
app.add_typer(encoders_app, name="encoders")


@encoders_app.callback()
def encoders(context: typer.Context) -> None:
    """List the encoders: what each sees, wants and costs, and whether its weights lie on this machine."""
    if context.invoked_subcommand is None:
        from helpers.features.weights import describe_all

        print(describe_all())


@encoders_app.command("fetch")
def fetch_encoder(
    name: Annotated[str, typer.Argument(help="Of the table that `histobook encoders` prints.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder of encoders; data/encoders by default. Carry it where you like.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch of the hub.")] = None,
) -> None:
    """Fetch the weights of an encoder from the Hugging Face hub, and record commit and SHA-256 beside them."""
    from helpers.core import paths
    from helpers.features.encoders import find_entry
    from helpers.features.weights import fetch_weights, list_roots

    print(paths.shorten(fetch_weights(find_entry(name), to or list_roots()[0], revision=revision)))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Folder of feature files of one encoder, or one file; any dialect.")],
    to: Annotated[str, typer.Option("--to", help="clam, stamp, trident, survpath or histobook.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new files.")],
    mpp: Annotated[
        float | None, typer.Option("--mpp", min=0.01, max=100, help="um per px of level 0, where files state none.")
    ] = None,
    slides: Annotated[
        Path | None, typer.Option("--slides", help="slides.csv; its column mpp gives each slide's resolution.")
    ] = None,
    patches: Annotated[
        Path | None, typer.Option("--patches", help="Folder of CLAM's or TRIDENT's coordinates.")
    ] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", help="Name of the encoder to write.")] = None,
    cases: Annotated[Path | None, typer.Option("--cases", help="survpath: cases.csv.")] = None,
    expression: Annotated[Path | None, typer.Option("--expression", help="survpath: expression.parquet.")] = None,
    signatures: Annotated[
        Path | None, typer.Option("--signatures", help="survpath: one column of genes per signature.")
    ] = None,
    splits: Annotated[Path | None, typer.Option("--splits", help="survpath: splits.csv.")] = None,
    study: Annotated[str, typer.Option("--study", help="survpath: name of the study in file names.")] = "study",
    workers: WorkersOption = 2,
) -> None:
    """Write feature files in another tool's form; each slide fails alone, and nothing is overwritten."""
    from helpers.features.survpath import convert_cohort

    tables = {"cases": cases, "expression": expression, "signatures": signatures, "splits": splits}
    options = {"encoder": encoder, "patches": patches, "workers": workers}
    print(convert_cohort(source, to=to, out=out, mpp=mpp, slides=slides, study=study, tables=tables, **options))


@app.command()
def predict(
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="Folder of a saved model, from chapter 03.")],
    slides: Annotated[
        Path, typer.Option("--slides", "-s", help="slides.csv: slide_id, case_id, path and, if known, mpp.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of tables, maps and reports.")],
    weights: Annotated[Path | None, typer.Option("--weights", help="Weights of the encoder, where not found.")] = None,
    features: Annotated[
        Path | None, typer.Option("--features", help="Folder of <slide_id>.h5 by chapter 02; else extracted here.")
    ] = None,
    outlines: Annotated[
        Path | None, typer.Option("--outlines", help="Folder of <slide_id>.geojson, where the model reads outlines.")
    ] = None,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
) -> None:
    """Score new slides with a saved model: predictions, tile maps, a page per case. Research use only.

    Each slide fails alone, with its reason in ledger.parquet; what does not fit the model is refused.
    """
    from helpers.book.predict import predict_slides

    found = predict_slides(
        bundle, slides, out, device=device, workers=workers, weights=weights, features_dir=features,
        outlines_dir=outlines,
    )  # fmt: skip
    print(found.describe())


@app.command()
def validate(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many phantom cohorts, of consecutive seeds.")] = 10,
    cohorts: Annotated[
        int,
        typer.Option("--cohorts", min=0, help="Instead: coverage and level over so many table-only cohorts per size."),
    ] = 0,
    workers: WorkersOption = 2,
) -> None:
    """Compare planted with estimated values over many phantom cohorts; means and intervals, none picked."""
    if cohorts:
        from helpers.book.coverage import validate_coverage

        validate_coverage(n_cohorts=cohorts, workers=workers)
        return
    from helpers.book.validate import validate_phantom

    validate_phantom(n_seeds=seeds, workers=workers)


@app.command()
def bench(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="startup, slides, gigapixel, features, peers, survival, arms, expression, fusion."),
    ] = None,
) -> None:
    """Measure speed on this machine: results/bench/bench.json."""
    from helpers.book.bench import print_rows, run_benchmarks

    print_rows(run_benchmarks(only=tuple(only or ())))


def parse_pairs(pairs: list[str]) -> dict[str, str]:
    """Read `name=value` arguments.

    Parameters
    ----------
    pairs : list of str

    Returns
    -------
    dict of str to str

    Raises
    ------
    SpecError
        When one has no '=', or a name comes twice.
    """
    from helpers.core.errors import SpecError

    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier() or name in found:
            msg = f"SpecError: '{pair}' is not a new 'name=value'. Write -p n_cases=20, each name once."
            raise SpecError(msg)
        found[name] = value
    return found


def join_pairs(arguments: list[str]) -> list[str]:
    """Turn papermill's `-p name value` into `-p name=value`.

    Parameters
    ----------
    arguments : list of str

    Returns
    -------
    list of str
    """
    joined: list[str] = []
    for argument in arguments:
        is_value = len(joined) >= 2 and joined[-2] in {"-p", "--parameter"} and joined[-1].isidentifier()
        if is_value:
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return joined


def main() -> None:
    """Run a command; an error that histobook raises on purpose is one message, not a traceback."""
    try:
        app(args=join_pairs(sys.argv[1:]))
    except HistobookError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        print("stopped; what is finished stays, run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
