"""Which validation ranks models as soundscapes of known truth do: held-out clips, or scenes made of them?

    python tests/bench/validation.py --data DATA --work FOLDER       a competition folder with the truth of (some of) its test soundscapes

Trains nine variants of a recipe with fold 0 held out (what is trained already stays) and scores each three ways: macro ROC-AUC on the held-out clips, on scenes
(birdkit.scenes, several seeds) and on the soundscapes whose truth is known. Prints the table, the rank correlations, and how sure they are:
soundscapes are drawn again with replacement. Writes <work>/validation.csv.
"""
import argparse, time

import numpy as np
import pandas as pd
from contest import file_draws, known_rows, score_files

from birdkit.batches import make_clips
from birdkit.competition import Competition
from birdkit.core import Workspace, atomic, read_json, write_table
from birdkit.heldout import split_clips
from birdkit.labels import as_teacher, predict_labels
from birdkit.lessons import Mix
from birdkit.material import cleaned_clips
from birdkit.metrics import mean_auc
from birdkit.prepare import Prepared, prepare
from birdkit.pseudo import labelled_scapes, weigh_files
from birdkit.recipe import find_recipe
from birdkit.scenes import make_scenes, scene_scores
from birdkit.stages import row_scorer, train_fold
from birdkit.trained import choose_device, load_model
from birdkit.training import train_run

VARIANTS = {   # What each changes of the recipe
    "plain": {},
    "no background": {"augment.wave.add_background": None},
    "no mixing": {"augment.wave.mix_clips": None},
    "no augmentation": {"augment.wave": (), "augment.power": (), "augment.picture": ()},
    "focal loss": {"loss.name": "focal_bce"},
    "pooled head": {"model.head": "pool"},
    "random start": {"model.weights": "none"},
    "short": {"optim.epochs": .2},   # Of the epochs
    "student": None,                 # Learns from the plain one's labels of the soundscapes
}


def variant(
    name,   # Of VARIANTS
    plain,  # The recipe they all start from
):          # Recipe
    "A recipe with one change."
    change = dict(VARIANTS[name] or {})
    if "optim.epochs" in change: change["optim.epochs"] = max(1, round(change["optim.epochs"] * plain.optim.epochs))
    return plain.but(change).but(name=f"{plain.name}-{name.replace(' ', '-')}")


def usable_clips(
    data,    # Prepared
    space,   # Workspace
    recipe,  # Recipe
):           # Clips
    "What 02_clean left, or everything where it has not run."
    if (space.clean / "segments.csv").exists(): return cleaned_clips(data, space, recipe)
    return make_clips(data, secondary=recipe.loss.secondary)


def train(
    name,   # Of VARIANTS
    plain,  # The recipe they all start from
    data,   # Prepared
    space,  # Workspace
):          # Folder of the run
    "Train a variant with fold 0 held out, unless it is there."
    recipe = variant(name, plain)
    clips = usable_clips(data, space, recipe)
    if name != "student": return train_fold(data, clips, space, recipe, 0)[2]
    folder, taught = space.run(recipe.name, 0), space.run(variant("plain", plain).name, 0)
    teacher = load_model(taught).to(choose_device())
    scapes = labelled_scapes(weigh_files(predict_labels([as_teacher(teacher, taught, data)], data)), data)
    teacher.recipe = recipe
    train_run(teacher, data, clips, folder, 0, Mix(recipe), scapes, max(1, round(.8 * recipe.optim.epochs)), recipe.pseudo.lr, seed=1)
    return folder


def judge(
    folder,  # Folder of a run
    known,   # From known_rows
    scenes,  # List of Scenes
):           # dict of arrays: public (rows, classes), scenes and their truth (seeds, scenes, rows, classes)
    "What a trained model says; kept beside it, for the same scenes."
    kept, truth = folder / "validation.npz", np.stack([s.truth for s in scenes])
    if kept.exists() and kept.stat().st_mtime > (folder / "weights.pt").stat().st_mtime:
        said = dict(np.load(kept))
        if np.array_equal(said.get("truth"), truth): return said
    model = load_model(folder).to(choose_device())
    said = dict(truth=truth, public=score_files(model, known), scenes=np.stack([scene_scores(s, row_scorer(model)) for s in scenes]))
    with atomic(kept) as part, open(part, "wb") as f: np.savez_compressed(f, **said)
    return said


def scores_of(
    said,    # {name: from judge}
    focal,   # {name: AUC on held-out clips}
    truth,   # Of the soundscapes, (rows, classes)
    scenes,  # List of Scenes
):           # DataFrame: name, focal, scene (mean of the seeds), public, scene seed 0, 1, ...
    "All scores, the best on the soundscapes first."
    flat = lambda x: x.reshape(-1, x.shape[-1])
    rows = []
    for name, s in said.items():
        each = [mean_auc(flat(one.truth), flat(probs)) for one, probs in zip(scenes, s["scenes"])]
        rows.append(dict(name=name, focal=focal[name], scene=np.mean(each), public=mean_auc(truth, s["public"]))
                    | {f"scene seed {i}": a for i, a in enumerate(each)})
    return pd.DataFrame(rows).sort_values("public", ascending=False, ignore_index=True)


def rank_agreement(
    table,  # From scores_of
):          # DataFrame: spearman, kendall, a line for each other column of numbers
    "How far each score ranks the models as `public` does: rank correlations, 1 where the order is the same."
    return pd.DataFrame({how: table.corr(how, numeric_only=True).public.drop("public") for how in ("spearman", "kendall")})


def resampled(
    table,   # From scores_of
    said,    # {name: from judge}
    known,   # From known_rows
    turns,   # How often soundscapes are drawn
):           # DataFrame: 5, 50 and 95 % of Spearman's correlation, of focal, scene and their difference
    "How far the correlations depend on which soundscapes were scored."
    found, truth = [], np.concatenate(list(known.values()))
    for rows in file_draws(known, turns):
        again = table[["focal", "scene"]].assign(public=[mean_auc(truth[rows], said[n]["public"][rows]) for n in table["name"]])
        found.append(rank_agreement(again).spearman)
    found = pd.DataFrame(found).assign(difference=lambda t: t.scene - t.focal)
    return found.quantile([.05, .5, .95]).T.set_axis(["5 %", "50 %", "95 %"], axis=1)


def main(
    argv=None,  # Arguments, by default those of the command line
):
    "Read the command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="competition folder")
    p.add_argument("--work", required=True, help="workspace; if 02_clean has run there, its segments are used")
    p.add_argument("--recipe", default="small", help="what the variants are variants of (default %(default)s)")
    p.add_argument("--epochs", type=int, help="of training, by default the recipe's")
    p.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME", help="train and compare these; student needs plain")
    p.add_argument("--seeds", type=int, default=3, help="sets of scenes (default %(default)s)")
    p.add_argument("--most", type=int, default=60, help="scenes of a set, at most (default %(default)s)")
    p.add_argument("--turns", type=int, default=1000, help="draws of soundscapes (default %(default)s)")
    a = p.parse_args(argv)
    space, plain = Workspace.find(a.work), find_recipe(a.recipe)
    comp = Competition.find(a.data, space)
    if a.epochs: plain = plain.but({"optim.epochs": a.epochs})
    data = Prepared.load(space.prepared, comp.folder) if (space.prepared / "prepared.json").exists() else prepare(comp, space)
    known, held = known_rows(comp), split_clips(data, usable_clips(data, space, plain), 0)[1]
    scenes = [make_scenes(data, held, seed, most=a.most) for seed in range(a.seeds)]
    said, focal = {}, {}
    for name in a.only:
        begin, folder = time.monotonic(), train(name, plain, data, space)
        said[name], focal[name] = judge(folder, known, scenes), read_json(folder / "metrics.json", "train it again")["auc"]
        print(f"{name}: {(time.monotonic() - begin) / 60:.1f} min", flush=True)
    report(scores_of(said, focal, np.concatenate(list(known.values())), scenes), said, known, a.turns, space)


def report(
    table,  # From scores_of
    said,   # {name: from judge}
    known,  # From known_rows
    turns,  # Draws of soundscapes
    space,  # Workspace
):
    "Print and write what was found."
    write_table(space.root / "validation.csv", table)
    print(f"\n{table.round(4).to_markdown(index=False)}\n\nRanking the models as the {len(known)} soundscapes do:\n"
          f"{rank_agreement(table).round(2).to_markdown()}")
    print(f"\nSpearman, soundscapes drawn again {turns} times:\n{resampled(table, said, known, turns).round(2).to_markdown()}")


if __name__ == "__main__":
    main()
