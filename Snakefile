"""The chapters of a profile as a graph. Snakemake orders them; each chapter decides by itself whether its result stands.

    histobook book --profile phantom --cores 2                       one machine
    histobook book --profile tcga-brca --shards 16 -- --executor slurm --jobs 32    a cluster, see docs/howto/slurm.md

No result is declared here, because Snakemake deletes a declared output before its job and puts an old one back when the
job fails: a rule's output is an empty stamp, made when its chapter has finished. The stamps of the last run are removed
first, so every chapter is asked again; whether `run.json` and the files it lists still hold is for `histobook run` to
decide, which takes a second.
"""

import shutil
import sys

from helpers.book.params import find_notebook, find_spec, read_profile

PROFILE = read_profile(config.get("profile", "phantom"))
SHARDS = int(config.get("shards", 1))
THREADS = int(config.get("threads", 2))
SHARDED = {"01", "02"}  # chapters that work slide by slide
COMMAND = f"'{sys.executable}' -m helpers.book.cli"
OPTIONS = f"--profile '{PROFILE.path}' --device {config.get('device', 'auto')}"
DATA = f"--data '{config['data']}'" if config.get("data") else ""
STAMPS = PROFILE.folder / ".order"

if workflow.is_main_process:
    shutil.rmtree(STAMPS, ignore_errors=True)


def stamp(name):
    return str(STAMPS / name)


def list_upstream(number):
    above = find_spec(find_notebook(number)).upstream
    return [stamp(n) for n in above if n in PROFILE.chapters]


rule all:
    default_target: True
    input: stamp("site")


for number in PROFILE.chapters:
    parts = SHARDS if number in SHARDED else 1
    # a cut chapter runs shard by shard, then once as a whole, which reuses every slide and writes the merged ledger
    if parts > 1:
        rule:
            name: f"shard_{number}"
            input: list_upstream(number)
            output: touch(stamp(f"{number}-{{part}}-of-{parts}"))
            threads: THREADS
            params: number=number, parts=parts
            shell: f"{COMMAND} run {{params.number}} {OPTIONS} {DATA} --workers {{threads}} --shard {{wildcards.part}}/{{params.parts}}"

    rule:
        name: f"chapter_{number}"
        input:
            list_upstream(number),
            [stamp(f"{number}-{part + 1}-of-{parts}") for part in range(parts)] if parts > 1 else [],
        output: touch(stamp(number))
        threads: THREADS
        params: number=number
        shell: f"{COMMAND} run {{params.number}} {OPTIONS} {DATA} --workers {{threads}}"


rule scoreboard:
    input: [stamp(number) for number in PROFILE.chapters]
    output: touch(stamp("scoreboard"))
    params: profile=str(PROFILE.path)
    shell: f"{COMMAND} scoreboard --profile '{{params.profile}}'"


rule site:
    input: stamp("scoreboard")
    output: touch(stamp("site"))
    params: profile=str(PROFILE.path)
    shell: f"{COMMAND} site --profile '{{params.profile}}'"
