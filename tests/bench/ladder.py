"""What each way of learning adds, on a competition folder with the truth of (some of) its test soundscapes.

    python tests/bench/ladder.py --data DATA --work FOLDER [--past FOLDER] [--seeds 3] [--rounds 3]

For each seed: supervised; the same after pretraining on other species, where --past is given; rounds of the noisy student, each taught by the one before; self-distillation of the
supervised model; a soup of its last epochs. Each step is scored by macro ROC-AUC on the soundscapes whose truth is known, on which nothing is trained. What is trained already
stays, so that a stopped ladder goes on. Prints mean and spread over the seeds, and writes <work>/ladder.csv and ladder.png.
"""
import argparse, time
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from validation import known_rows

from birdkit.audio import decode, n_rows
from birdkit.clean import clean
from birdkit.cleaning import Cleaning, lay_segments
from birdkit.competition import Competition
from birdkit.core import Workspace, write_table
from birdkit.distill import distill_round
from birdkit.metrics import mean_auc
from birdkit.prepare import Prepared, prepare
from birdkit.recipe import find_recipe
from birdkit.review import clip_weights, no_review
from birdkit.rounds import ladder, plot_ladder
from birdkit.rows import score_rows
from birdkit.stages import cleaned_clips, find_past, pretrain, train_fold
from birdkit.training import choose_device, load_model


@dataclass
class World:
    "What all steps of one seed share."
    space: Workspace
    comp: Competition
    data: Prepared
    past: Competition   # Or None
    seed: int


def open_world(
    data,   # Competition folder
    work,   # Folder of this seed
    past,   # Folder with other species, or "none"
    seed,   # Of everything random
):          # World, prepared and cleaned
    "01_prepare and 02_clean without their pictures."
    space = Workspace.find(work)
    comp = Competition.find(data, space)
    ready = (space.prepared / "prepared.json").exists()
    prepared = Prepared.load(space.prepared, comp.folder) if ready else prepare(comp, space)
    if not (space.clean / "segments.csv").exists():
        start = Cleaning.of(prepared)
        write_table(space.clean / "segments.csv", lay_segments(clean(start, find_recipe("base").data.clean)))
        write_table(space.clean / "weights.csv", clip_weights(prepared.recordings, no_review()))
    return World(space, comp, prepared, find_past(comp, past), seed)


def supervised(
    world,   # World
    recipe,  # Recipe
):           # Folder of the run
    "A model of all clips."
    return train_fold(world.data, cleaned_clips(world.data, world.space, recipe), world.space, recipe, "all", world.seed)[2]


def student(
    world,    # World
    recipe,   # Recipe
    teacher,  # Folder of the run that teaches
    number,   # Of the round
):            # Folder of the run
    "One round."
    clips = cleaned_clips(world.data, world.space, recipe)
    return distill_round({recipe.name: [teacher]}, number, [recipe], world.data, clips, world.space, world.seed).runs[recipe.name][0]


def climb(
    world,   # World
    recipe,  # Recipe
    rounds,  # Rounds of the noisy student
):           # Iterator of (step, folder of its run)
    "All steps, in order."
    first = supervised(world, recipe)
    yield "supervised", first
    if world.past:
        learnt = recipe.but(name=f"{recipe.name}-pretrained")
        pretrain(world.past, world.comp.classes, world.space, learnt, world.seed)
        yield "+ pretraining", supervised(world, learnt)
    folds = recipe.but({"name": f"{recipe.name}-self", "pseudo.on": "both", "pseudo.how": "self"})
    last = first
    for number in range(1, rounds + 1):
        last = student(world, recipe, last, number)
        yield f"+ noisy student, round {number}", last
    held = train_fold(world.data, cleaned_clips(world.data, world.space, folds), world.space, folds, 0, world.seed)[2]
    yield "self-distillation, one fold held out", student(world, folds, held, 1)
    yield "supervised, soup of the last epochs", supervised(world, recipe.but({"name": f"{recipe.name}-soup", "optim.average": "soup"}))


def public_auc(
    run,    # Folder
    known,  # From known_rows
):          # Macro ROC-AUC
    "Score a run on the soundscapes whose truth is known."
    model, said = load_model(run).to(choose_device()), []
    for path in known:
        samples = decode(path).samples
        said.append(score_rows(samples, n_rows(len(samples) / 32_000), model.recipe, model.probabilities))
    return mean_auc(np.concatenate(list(known.values())), np.concatenate(said))


def main(
    argv=None,  # Arguments, by default those of the command line
):
    "Read the command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="competition folder")
    p.add_argument("--work", required=True, help="folder of the ladder, a workspace for each seed in it")
    p.add_argument("--past", default="none", help="folder with other species to pretrain on")
    p.add_argument("--recipe", default="small", help="default %(default)s")
    p.add_argument("--seeds", type=int, default=3, help="default %(default)s")
    p.add_argument("--rounds", type=int, default=3, help="rounds of the noisy student (default %(default)s)")
    a = p.parse_args(argv)
    recipe, lines = find_recipe(a.recipe, {"pseudo.rounds": a.rounds}), []
    for seed in range(a.seeds):
        world = open_world(a.data, f"{a.work}/seed{seed}", a.past, seed)
        known, begin = known_rows(world.comp), time.monotonic()
        for step, run in climb(world, recipe, a.rounds):
            lines.append(dict(step=step, score=public_auc(run, known), seed=seed))
            print(f"seed {seed}, {step}: {lines[-1]['score']:.4f}, {(time.monotonic() - begin) / 60:.1f} min", flush=True)
            write_table(f"{a.work}/ladder.csv", pd.DataFrame(lines))
    table = ladder(pd.DataFrame(lines))
    plot_ladder(table, f"macro ROC-AUC on {len(known)} soundscapes")
    plt.savefig(f"{a.work}/ladder.png", bbox_inches="tight")
    print(table.round(4).to_markdown(index=False))


if __name__ == "__main__":
    main()
