# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · Compare with what is known
#
# **What you'll do.** Put every number that the chapters before announced on one board, beside the number it must answer to.
# Planted truth comes first, because a method that cannot recover what we planted has no business with a patient.
# Published numbers come second, and they are another cohort's: agreement is encouraging, difference is a question.
#
# **What you'll need.** At least one finished chapter of this profile; ten seconds on any machine.
#
# **Inputs → outputs.** `scores.json` of every chapter → `scoreboard.json` of the profile, one figure and one table per kind of comparison.
#
# **Sources.** Each row names its own; the published ones are kept in `data/published.yaml` with DOI and a tag that says how sure we are.

# %% tags=["parameters"]
profile_dir: str = "results/phantom"       # run parameter: results of which profile
run_name: str = "interactive"              # run parameter: the book's own runs are called book
shard: str = "1/1"                         # run parameter: this chapter has no shards
workers: int = 2                           # run parameter: threads
device: str = "auto"                       # run parameter: not used here
kinds: list = ["planted", "published", "baseline", "control"]
max_rows: int = 40                         # rows per figure, the rest stands in the tables

# %%
from helpers.core import provenance
from helpers.core.specs import ScoreboardSpec

spec = ScoreboardSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Which chapters spoke
#
# A chapter that failed, or never ran, is absent from the board rather than represented by an older result.
# So we first look at who is here, with the key of each run.

# %%
import pandas as pd

above = {number: provenance.chapter_folder(profile_dir, number) for number in spec.upstream}
records = {number: provenance.read_run(folder) for number, folder in above.items() if folder}
finished = [number for number, record in records.items() if record and record["status"] == "finished"]
for number in finished:
    run.upstream(number)
pd.DataFrame(
    [{"chapter": records[n]["chapter"], "key": records[n]["key"][:12], "losses": len(records[n]["losses"]),
      "substitutions": len(records[n]["substitutions"]), "deviations": len(records[n]["deviations"])} for n in finished]
)

# %% [markdown]
# *Losses* are cases and slides that are not in a result, *substitutions* are things that stood in for others because a parameter asked for it,
# *deviations* are departures from the analysis plan that was registered before anything was fitted.
# A zero in the last column is what makes the primary analysis primary.

# %% tags=["checks"]
deviating = {n: records[n]["deviations"] for n in finished if records[n]["deviations"]}
assert not deviating, f"chapters depart from the registered plan: {deviating}"

# %% [markdown]
# ## The board
#
# Every row has an id, `chapter/quantity/target-or-arm/split`, a value, mostly an interval, and something that it is compared with.
# `holds` is a verdict only where the chapter stated, in advance, what would count as one.

# %%
from helpers.book.scoreboard import collect_scores, summarise_scores, write_scoreboard

board = collect_scores(profile_dir)
run.add_outputs([write_scoreboard(profile_dir)])
summarise_scores(board)

# %% [markdown]
# Read the column *open* as honestly as the other two: most rows are measurements without a verdict.
# With many verdicts, some fail by chance: of 20 planted quantities, each judged by its own 95 % interval, one is expected outside.
# So a single failure is a reason to look; a pattern of failures is a reason to stop.

# %% tags=["checks"]
assert board["id"].is_unique, "a quantity stands twice on the board"
assert (board["source"] != "").all(), f"rows without a source: {board.loc[board['source'] == '', 'id'].tolist()}"
assert board["value"].notna().all(), f"rows without a value: {board.loc[board['value'].isna(), 'id'].tolist()}"

# %% [markdown]
# ## How to read the figures
#
# The dot and its line are this run with its 95 % interval.
# The open diamond is the reference, the grey band the reference's own interval or the range that was declared to count as agreement.
# Correlations and errors share a linear axis; hazard ratios have their own, logarithmic, with a line at one.

# %%
from helpers.book.scoreboard import find_axis
from helpers.figures.scoreboard import new_comparison, plot_comparison

board["axis"] = find_axis(board)
pd.crosstab(board["kind"], board["axis"])

# %% [markdown]
# Rows of the axis *other* (counts, months, seconds) have nothing in common to be drawn on; they stand in the table at the end.

# %%
LABELS = {"bounded": "correlation, or another measure between −1 and 1", "ratio": "hazard ratio, log axis"}


def draw(kind):
    """Draw one kind of comparison, one figure per axis."""
    for axis, label in LABELS.items():
        rows = board[(board["kind"] == kind) & (board["axis"] == axis)]
        if rows.empty or kind not in spec.kinds:
            continue
        shown = rows.head(spec.max_rows)
        fig, ax, beside = new_comparison(len(shown))
        plot_comparison(shown, ax=ax, beside=beside, log=axis == "ratio", label=label)
        run.save_figure(fig, f"{kind}_{axis}", table=shown)
        if len(rows) > len(shown):
            print(f"{len(rows) - len(shown)} more rows of {kind} stand in the table at the end")


# %% [markdown]
# ## Planted: does the method recover what we put in?
#
# Only phantom profiles have these rows.
# The reference is the value *of the same estimand*: a score measured with noise has a smaller hazard ratio than the thing it measures, by construction,
# so the planted hazard ratio of the latent proliferation would be the wrong yardstick for a score predicted from images.

# %%
draw("planted")

# %% [markdown]
# ## Published: does this run look like the literature?
#
# The published values come from other patients, other scanners and partly other endpoints, and their intervals are theirs.
# A run on the phantom beside a published value says that the phantom is neither too easy nor too hard, and nothing about patients.

# %%
draw("published")

# %% [markdown]
# ## Baselines and controls: is it the method, or something simpler?
#
# A baseline is what a plain method reached on exactly these data; a control is an arm that should do worse, because it was given less.
# When a control comes close, the method's own number loses its meaning.

# %%
draw("baseline")

# %%
draw("control")

# %% [markdown]
# ## Everything, as a table

# %%
shown = ["id", "kind", "value", "ci_low", "ci_high", "n", "n_events", "reference", "reference_low", "reference_high", "holds"]
run.save_table(board.drop(columns="axis"), "scoreboard")
board[shown].style.format(precision=3, na_rep="–").hide(axis="index")

# %%
failures = board.loc[board["holds"].eq(False), ["id", "value", "reference", "reference_low", "reference_high", "source"]]
print("every verdict holds" if failures.empty else f"{len(failures)} verdicts do not hold:")
failures.style.format(precision=3, na_rep="–").hide(axis="index")

# %%
run.note(rows=len(board), verdicts_failed=len(failures))
run.finish()

# %% [markdown]
# ## What we found
#
# The board above is the answer of this profile; the sentences that interpret it stand in the chapters that produced the rows.
#
# **What would change it.** Another seed moves the planted rows within their intervals; `make validate` repeats them over at least ten seeds and reports means, none picked.
#
# **Next.** Change `config/phantom.yaml` for a profile of a real cohort, and read the same board again.
#
# **References.** The `source` column of the table; `data/published.yaml`.
