"""What each way of learning adds, on a competition folder with the truth of (some of) its test soundscapes.

    python tests/bench/ladder.py --data DATA --work FOLDER [--past FOLDER] [--seeds 3] [--rounds 3]

For each seed: supervised; the same after pretraining on other species, where --past is given; rounds of the noisy student, each taught by the one before;
self-distillation of a model with a fold held out; a soup of the last epochs. Each step is scored by macro ROC-AUC on the soundscapes whose truth is known,
on which nothing is trained. One process for each core; what is trained already stays, so that a stopped ladder goes on.
Prints mean and spread over the seeds, and writes <work>/ladder.csv and ladder.png.
"""
import argparse, sys, time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from contest import known_rows, open_data, open_world, public_auc, run_jobs

from birdkit.core import write_table
from birdkit.distill import distill_round
from birdkit.plots import BLUE, DPI, GREY
from birdkit.recipe import find_recipe
from birdkit.stages import find_past, pretrain, train_fold


def supervised(
    world,      # World
    recipe,     # Recipe
    fold="all", # Held out
):              # Folder of the run
    "A model of all clips, or of all but a fold."
    return train_fold(world.data, world.clips(recipe), world.space, recipe, fold, world.seed)[2]


def student(
    world,    # World
    recipe,   # Recipe
    teacher,  # Folder of the run that teaches
    number,   # Of the round
):            # Folder of the run
    "One round."
    return distill_round({recipe.name: [teacher]}, number, [recipe], world.data, world.clips(recipe), world.space, world.seed).runs[recipe.name][0]


def climb_rounds(world, recipe, given):
    "The noisy student, round by round."
    last = supervised(world, recipe)
    yield "supervised", last
    for number in range(1, given.rounds + 1):
        last = student(world, recipe, last, number)
        yield f"+ noisy student, round {number}", last


def climb_pretrained(world, recipe, given):
    "Other species first."
    pretrain(find_past(world.comp, given.past), world.comp.classes, world.space, recipe, world.seed)
    yield "+ pretraining", supervised(world, recipe)


def climb_self(world, recipe, given):
    "Labels of the clips, too."
    recipe = recipe.but({"pseudo.on": "both", "pseudo.how": "self", "pseudo.unheard": False})     # with one teacher nobody else could label its clips
    yield "self-distillation, one fold held out", student(world, recipe, supervised(world, recipe, 0), 1)


def climb_soup(world, recipe, given):
    "Another average."
    yield "supervised, soup of the last epochs", supervised(world, recipe.but({"optim.average": "soup"}))


CLIMBS = dict(rounds=climb_rounds, pretrained=climb_pretrained, self=climb_self, soup=climb_soup)


def climb(
    given,   # Of the command line; its job is such as "rounds-seed0"
    recipe,  # Recipe
):
    "One job: train its steps and score them; the scores go to <work>/<job>/steps.csv."
    way, seed = given.job.split("-seed")
    world, lines = open_world(given.data, given.work, given.job, recipe, int(seed)), []
    known, begin = known_rows(world.comp), time.process_time()
    for step, run in CLIMBS[way](world, recipe, given):
        lines.append(dict(step=step, score=public_auc(run, known), seed=int(seed), minutes=(time.process_time() - begin) / 60))
        print(lines[-1], flush=True)
        write_table(world.space.root / "steps.csv", pd.DataFrame(lines))


def main(
    argv=None,  # Arguments, by default those of the command line
):
    "Read the command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="competition folder")
    p.add_argument("--work", required=True, help="folder of the ladder, a workspace for each job in it")
    p.add_argument("--past", default="none", help="folder with other species to pretrain on")
    p.add_argument("--recipe", default="small", help="default %(default)s")
    p.add_argument("--seeds", type=int, default=3, help="default %(default)s")
    p.add_argument("--rounds", type=int, default=3, help="rounds of the noisy student (default %(default)s)")
    p.add_argument("--job", help=argparse.SUPPRESS)
    argv = sys.argv[1:] if argv is None else argv
    given = p.parse_args(argv)
    recipe = find_recipe(given.recipe, {"pseudo.rounds": given.rounds})
    if given.job: return climb(given, recipe)
    known = known_rows(open_data(given.data, given.work)[0])
    ways = [way for way in CLIMBS if way != "pretrained" or given.past != "none"]
    jobs = [f"{way}-seed{seed}" for way in ways for seed in range(given.seeds)]
    if run_jobs(__file__, argv, jobs, given.work): raise SystemExit(1)
    report(pd.concat([pd.read_csv(f"{given.work}/{job}/steps.csv") for job in jobs], ignore_index=True), given.work, len(known))


def ladder(
    scores,  # DataFrame: step, score; a line for each run, the steps in their order
):           # DataFrame: step, runs, score (mean), spread (standard deviation), gain (over the first step)
    "What each step gained; one run has no spread."
    by = scores.groupby("step", sort=False).score
    table = by.agg(runs="size", score="mean", spread="std").reset_index()
    return table.assign(gain=table.score - table.score[0])


def plot_ladder(
    table,   # From ladder
    xlabel,  # What the score is
):
    "Scores step by step; lines are the spread over runs."
    up = table[::-1].reset_index(drop=True)
    fig, ax = plt.subplots(figsize=(6, .6 + .28 * len(up)), dpi=DPI, layout="constrained")
    ax.axvline(table.score[0], color=GREY, lw=1)
    ax.errorbar(up.score, up.index, xerr=up.spread.fillna(0), fmt="o", color=BLUE, ms=5)
    for i, (score, gain) in enumerate(zip(up.score, up.gain)):
        text = f"{score:.3f}" + f" ({gain:+.3f})" * (i < len(up) - 1)
        ax.annotate(text, (score, i), xytext=(0, 5), textcoords="offset points", fontsize=7, ha="center")
    ax.set_yticks(up.index, up.step, fontsize=8); ax.set_xlabel(xlabel, fontsize=8)
    ax.set_ylim(-.5, len(up) - .3); ax.margins(x=.15)


def report(
    lines,  # DataFrame: step, score, seed
    work,   # Folder of the ladder
    files,  # Soundscapes that were scored
):
    "Print and draw the ladder."
    write_table(Path(work) / "ladder.csv", lines)
    table = ladder(lines)
    plot_ladder(table, f"macro ROC-AUC on {files} soundscapes")
    plt.savefig(f"{work}/ladder.png", bbox_inches="tight")
    print(table.round(4).to_markdown(index=False))


if __name__ == "__main__":
    main()
