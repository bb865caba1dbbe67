"""Systems side by side: each learns for the same time with the same small backbone, and is judged as it would be submitted.

    python tests/bench/league.py --data DATA --work FOLDER [--minutes 16] [--seeds 1] [--systems NAME ...]

A system is a recipe, or the first member of an ensemble. Alike in all are the backbone (tf_efficientnet_lite0), the batch, the learning rate and the
precision (EQUAL), and the minutes that one core trains: two epochs of each stage are timed first, then all epochs of the recipe, students' too, are stretched
or shortened by one factor (restarts by whole cycles). All compute in bfloat16 where the machine multiplies in it, else in float32. All else is as the recipe
says. Nothing else to learn from is given: no past years, no labelled soundscapes. Rules that ask a trained model about the clips are passed over.

One process for each core; what is trained already stays, so that a stopped league goes on; a folder with work for another recipe or other minutes is refused.
Then each is exported, hears all test soundscapes with 06_infer's runtime, and is scored on those whose truth is known.
Writes <work>/league.csv and league.png. Intervals come from soundscapes drawn again with replacement, the same ones for all.
"""
import argparse, shutil, sys, tempfile, time
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from contest import file_draws, known_rows, open_data, open_world, run_jobs

from birdkit.anytime import run_submission
from birdkit.competition import row_ids
from birdkit.core import Clock, KitError, Workspace, read_json, write_json, write_table
from birdkit.distill import distill_round, final_models
from birdkit.export import export_runs
from birdkit.metrics import mean_auc
from birdkit.recipe import changes, find_recipe, load_recipe
from birdkit.runtime import load_export
from birdkit.handover import class_prior, parity_sound
from birdkit.stages import train_fold

SYSTEMS = ("best", "small", "birdclef2023_02", "public2025_nfnet", "public2025_seresnext",
           "course2024", "birdclef2024_01", "birdclef2024_02", "birdclef2024_03", "birdclef2025_01",
           "birdclef2025_02", "birdclef2025_03", "birdclef2025_04", "birdclef2025_05", "birdclef2025_08", "birdclef2025_09", "birdclef2025_12")


def quick_precision():  # "bf16" or "f32"
    "What this machine computes fastest in; a CPU that does not multiply in bfloat16 only imitates it."
    quick = torch.cuda.is_bf16_supported(including_emulation=False) if torch.cuda.is_available() else torch.cpu._is_avx512_bf16_supported()
    return "bf16" if quick else "f32"


EQUAL = {"model.backbone": "tf_efficientnet_lite0", "ensemble.seeds": 1, "optim.batch": 16, "optim.accumulate": 1,
         "optim.lr": 1.5e-3, "optim.head_lr_mult": 3., "infer.precision": "f32", "optim.precision": quick_precision()}


def level(
    recipe,  # Recipe
):           # Recipe of one model, under the same name
    "A system as it takes part: students that start from their teacher learn more gently than those that start afresh."
    lead = recipe.members()[0]
    alike = EQUAL | ({"model.raw_backbone": EQUAL["model.backbone"]} if lead.model.inputs == "both" else {})
    student = tuple((field, value) for field, value in lead.pseudo.student if field not in alike)
    return lead.but(alike).but({"name": recipe.name, "pseudo.student": student, "pseudo.lr": 1e-3 if recipe.pseudo.start == "teacher" else 1.5e-3})


def learn(
    world,   # World
    recipe,  # Recipe
    space,   # Workspace of the runs
):           # The {member: folders} of the teacher, then of each round, and the histories of both stages
    "All stages of a system."
    clips = world.clips(recipe)
    _, history, run = train_fold(world.data, clips, space, recipe, "all", world.seed)
    models, histories = [{recipe.name: [run]}], [history]
    for number in range(1, recipe.pseudo.rounds + 1):
        done = distill_round(models[-1], number, [recipe], world.data, clips, space, world.seed)
        models.append(done.runs)
        histories += done.histories.values()
    return models, histories


def passes(
    models,  # From learn
    clips,   # Clips
):           # Number
    "How often training, all stages together, drew a window for each clip."
    runs = [read_json(folder / "metrics.json", "train again") for networks in models for folders in networks.values() for folder in folders]
    return sum(run["epochs"] * run["windows"] for run in runs) / len(clips)


def stretched(
    optim,   # Optim group of a recipe
    epochs,  # Of a stage
    factor,  # Of time
):           # Epochs, one or more
    "Whole cycles where the learning rate restarts, so that it has come down at the end."
    cycle = optim.cycle_epochs if optim.schedule == "restarts" else 1
    return cycle * max(1, round(factor * epochs / cycle))


def check_planned(
    folder,   # Of a job
    recipe,   # From level, as it is now
    minutes,  # Of one core
):
    "Stop where a job's folder holds work for another recipe or other minutes; a folder that does not say is taken as it is."
    if not (folder / "planned.json").exists(): return
    planned, remedy = read_json(folder / "planned.json", "run it again"), "delete it, or give another --work"
    try: before = load_recipe(planned["recipe"]).but(about=recipe.about)
    except KitError as error: raise KitError(f"{folder}: {error}; {remedy}") from None
    other = [*changes(before, recipe), *["minutes"] * (planned["minutes"] != minutes)]
    if other: raise KitError(f"{folder} was planned with other values of {', '.join(other)}: {remedy}")


def plan(
    world,    # World
    recipe,   # Recipe
    minutes,  # Of one core
):            # Recipe that takes so long
    "Stretch or shorten all stages alike, by the faster of two epochs and the share of a core they had; kept, so that a stopped job goes on with the same plan."
    kept, p = world.space.root / "recipe.json", recipe.pseudo
    check_planned(world.space.root, recipe, minutes)
    if kept.exists(): return load_recipe(kept)
    write_json(world.space.root / "planned.json", dict(minutes=minutes, recipe=asdict(recipe)))
    with tempfile.TemporaryDirectory() as scratch:
        begin = np.array([time.perf_counter(), time.process_time()])
        short = recipe.but({"optim.epochs": 2, "pseudo.epochs": 2, "pseudo.rounds": min(1, p.rounds), "pseudo.labels": ()})
        space = Workspace.find(scratch)
        shutil.copytree(world.space.clean, space.clean, dirs_exist_ok=True)
        seconds = [history.seconds.min() for history in learn(world, short, space)[1]]
        wall_s, core_s = np.array([time.perf_counter(), time.process_time()]) - begin
    whole_s = min(1, core_s / wall_s) * (recipe.optim.epochs * seconds[0] + p.rounds * p.epochs * seconds[-1])   # of a core it had to itself
    more = lambda epochs: stretched(recipe.optim, epochs, 60 * minutes / whole_s)
    planned = recipe.but({"optim.epochs": more(recipe.optim.epochs), "pseudo.epochs": more(p.epochs)})
    planned.save(kept)
    return planned


def compete(
    given,    # Of the command line; its job is such as "small-seed0"
    systems,  # {name: Recipe}
):
    "One job: train a system, and export it."
    name, seed = given.job.split("-seed")
    recipe = level(systems[name])
    world = open_world(given.data, given.work, given.job, recipe, int(seed))
    recipe, begin = plan(world, recipe, given.minutes), time.process_time()
    models, histories = learn(world, recipe, world.space)
    minutes = sum(len(h) * h.seconds.median() for h in histories) / 60     # a pause counts for one epoch
    print(f"{minutes:.1f} min in epochs, {(time.process_time() - begin) / 60:.1f} min of a core now", flush=True)
    mean = recipe.but({"ensemble.blend": "mean", "ensemble.options": []})      # of one system alone
    export_runs(final_models(models, [recipe]), world.space.root / "export", parity_sound(world.data),
                class_prior(world.clips(recipe), world.data.classes), mean)
    write_json(world.space.root / "done.json", dict(minutes=minutes, epochs=[len(h) for h in histories], passes=passes(models, world.clips(recipe))))


def lenders(
    systems,  # {name: Recipe}
):            # {name: the first system that learns the same}
    "A system that differs from another in inference alone is judged with the models of that one."
    return {name: next(n for n, r in systems.items() if replace(r, infer=recipe.infer) == recipe) for name, recipe in systems.items()}


def submit(
    comp,   # Competition
    space,  # Workspace of a job
    known,  # From known_rows
    infer,  # Infer, the recipe's choices in inference
):          # Scores in the order of `known`, (rows, classes), and the seconds that all soundscapes took
    "Hear the test soundscapes, as 06_infer does; those whose truth is known are scored."
    begin, export = time.perf_counter(), load_export(space.root / "export")
    members = [replace(m, recipe=replace(m.recipe, infer=infer)) for m in export.members]
    sheet, _ = run_submission(comp, replace(export, members=members), comp.test_files, space.root / "submission.csv", Clock(90))
    seconds, table = time.perf_counter() - begin, sheet.table().set_index("row_id")
    rows = [row for path in known for row in row_ids(path.stem, len(known[path]))]
    return table.loc[rows, list(comp.classes)].to_numpy(), seconds


def judge(
    given,    # Of the command line
    systems,  # {name: Recipe}, of which the others are compared with the first
):            # DataFrame: system, auc (mean of the seeds), low, high, gain (over the first system), below, above, spread, minutes, epochs, passes, infer_s
    """All systems on the same soundscapes, one after the other.

    Their spread is the standard deviation over the seeds (NaN for one), their passes are windows a clip.
    """
    comp, _ = open_data(given.data, given.work)
    known, lines, draws = known_rows(comp), [], {}
    truth, turns, first = np.concatenate(list(known.values())), list(file_draws(known, given.turns)), next(iter(systems))
    for name, lender in lenders(systems).items():
        spaces = [Workspace.find(f"{given.work}/{lender}-seed{seed}") for seed in range(given.seeds)]
        heard, seconds = zip(*(submit(comp, space, known, level(systems[name]).infer) for space in spaces))
        draws[name] = np.mean([[mean_auc(truth[rows], h[rows]) for rows in turns] for h in heard], axis=0)
        done = [read_json(space.root / "done.json", "run it again") for space in spaces]
        gain, aucs = draws[name] - draws[first], pd.Series([mean_auc(truth, h) for h in heard])
        lines.append(dict(system=name, auc=aucs.mean(), low=np.quantile(draws[name], .05), high=np.quantile(draws[name], .95),
                          gain=0., below=np.quantile(gain, .05), above=np.quantile(gain, .95), spread=aucs.std(),
                          minutes=np.mean([d["minutes"] for d in done]), epochs="+".join(map(str, done[0]["epochs"])),
                          passes=done[0]["passes"], infer_s=np.median(seconds)))
    table = pd.DataFrame(lines)
    return table.assign(gain=table.auc - table.auc[0]).sort_values("auc", ascending=False, ignore_index=True)


def draw(
    table,  # From judge
    path,   # Where to, a .png file
):
    "Scores with their intervals, the best on top."
    up = table[::-1].reset_index(drop=True)
    fig, ax = plt.subplots(figsize=(7, .6 + .28 * len(up)), dpi=100, layout="constrained")
    ax.errorbar(up.auc, up.index, xerr=[(up.auc - up.low).clip(0), (up.high - up.auc).clip(0)], fmt="o", ms=5)
    ax.set_yticks(up.index, up.system, fontsize=8)
    ax.set_xlabel("macro ROC-AUC, 90 % interval over soundscapes", fontsize=8)
    fig.savefig(path)


def run_league(
    argv,      # Words of the command line
    script,    # The script that was called
    about,     # Its description
    choose,    # choose(given) -> {name: Recipe}, the reference first
    minutes,   # Default of --minutes
    seeds,     # Default of --seeds
    options=lambda parser: None,   # Adds further arguments
):
    "The command line of leagues: one job, or all of them and their table."
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="competition folder with the truth of (some of) its test soundscapes")
    p.add_argument("--work", required=True, help="folder of the league, a workspace for each job in it")
    p.add_argument("--minutes", type=float, default=minutes, help="of one core, for each system (default %(default)s)")
    p.add_argument("--seeds", type=int, default=seeds, help="models of each system (default %(default)s)")
    p.add_argument("--turns", type=int, default=1000, help="draws of soundscapes (default %(default)s)")
    p.add_argument("--job", help=argparse.SUPPRESS)
    options(p)
    argv = sys.argv[1:] if argv is None else argv
    given = p.parse_args(argv)
    systems = choose(given)
    if given.job: return compete(given, systems)
    open_data(given.data, given.work)
    lent = lenders(systems)
    jobs = [f"{name}-seed{seed}" for seed in range(given.seeds) for name in dict.fromkeys(lent.values())]
    for job in jobs: check_planned(Path(given.work) / job, level(systems[job.rpartition("-seed")[0]]), given.minutes)
    todo = [job for job in jobs if not (Path(given.work) / job / "done.json").exists()]
    failed = {job.rpartition("-seed")[0] for job in run_jobs(script, argv, todo, given.work)}
    if failed: print(f"left out: {', '.join(sorted(failed))}; their logs are in {given.work}")
    table, stem = judge(given, {name: recipe for name, recipe in systems.items() if lent[name] not in failed}), Path(script).stem
    write_table(f"{given.work}/{stem}.csv", table)
    draw(table, f"{given.work}/{stem}.png")
    print(table.dropna(axis=1, how="all").round(3).to_markdown(index=False))


def named_systems(parser):
    "The systems of a league are names of recipes."
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, metavar="NAME",
                        help="recipes; the first is what the others are compared with (default: %(default)s)")


def main(
    argv=None,  # Arguments, by default those of the command line
):
    "Read the command line."
    run_league(argv, __file__, __doc__, lambda given: {name: find_recipe(name) for name in given.systems}, 16., 1, named_systems)


if __name__ == "__main__":
    main()
