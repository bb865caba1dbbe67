"""What the ladder, the league and the ablations share: jobs side by side, one process with one thread each, judged on soundscapes whose truth is known."""
import os, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.audio import decode, n_rows
from birdkit.clean import clean
from birdkit.cleaning import Cleaning, changed_labels, lay_segments
from birdkit.competition import Competition, split_row_id
from birdkit.core import KitError, Workspace
from birdkit.material import cleaned_clips
from birdkit.metrics import mean_auc
from birdkit.prepare import Prepared, prepare
from birdkit.processes import log_end, side_by_side
from birdkit.review import clip_weights, no_review
from birdkit.rows import score_rows
from birdkit.rules import BY_CLEAN, keep_cleaning, kept_rules, other_rules
from birdkit.threads import cores
from birdkit.trained import choose_device, load_model


@dataclass
class World:
    "What a job works with."
    comp: Competition
    data: Prepared
    space: Workspace   # Of the job alone
    seed: int          # Of everything random

    def clips(self, recipe): return cleaned_clips(self.data, self.space, recipe)


def open_data(
    data,  # Competition folder
    work,  # Folder of all jobs
):         # Competition and Prepared
    "01_prepare, once for all jobs."
    space = Workspace.find(f"{work}/data")
    comp = Competition.find(data, space)
    there = (space.prepared / "prepared.json").exists()
    return comp, Prepared.load(space.prepared, comp.folder) if there else prepare(comp, space)


def open_world(
    data,    # Competition folder
    work,    # Folder of all jobs
    job,     # Name of the job
    recipe,  # Recipe whose rules clean
    seed=0,  # Of everything random
):           # World
    "02_clean without its pictures, in the job's own workspace; again where it was cleaned by other rules, or nobody noted by which."
    comp, prepared = open_data(data, work)
    space = Workspace.find(f"{work}/{job}")
    made = kept_rules(space).get("data")
    if not made or other_rules(recipe.data, made, BY_CLEAN):
        before = Cleaning.of(prepared, recipe.loss.secondary)
        after = clean(before, recipe.data.clean)
        keep_cleaning(space, recipe, segments=lay_segments(after), weights=clip_weights(prepared.recordings, no_review()), labels=changed_labels(before, after))
    return World(comp, prepared, space, seed)


def run_jobs(
    script,     # Path of the script that calls this
    arguments,  # Words of the command, without --job
    jobs,       # Their names
    work,       # Folder of all jobs; each has a log there
):              # Names of those that failed
    "Run the script once for each job, as many at the same time as there are cores."
    environment = os.environ | dict(OMP_NUM_THREADS="1", BIRDKIT_QUIET="1", PYTHONUNBUFFERED="1")
    log = lambda job: Path(work) / f"{job}.log"
    def _start(job, _):
        with open(log(job), "w") as file:
            return subprocess.Popen([sys.executable, script, *arguments, "--job", job], env=environment, stdout=file, stderr=subprocess.STDOUT)
    begin, failed = time.monotonic(), []
    for i, (job, _, code, seconds) in enumerate(side_by_side(list(jobs), _start, cores()), 1):
        left = (time.monotonic() - begin) / i * (len(jobs) - i) / 60
        print(f"{i}/{len(jobs)}  {job}: {'failed: ' + log_end(log(job)) if code else f'{seconds / 60:.1f} min'}; about {left:.0f} min left", flush=True)
        if code: failed.append(job)
    return failed


def known_rows(
    comp,  # Competition
):         # {path: (rows, classes) 0 or 1} of the soundscapes whose truth is known, rows in time order
    "The truth by file."
    truth = comp.truth()
    if truth is None: raise KitError(f"{comp.folder} has no truth of its test soundscapes: give a folder that has, such as the demo")
    where = pd.DataFrame([split_row_id(r) for r in truth.row_id], columns=["stem", "end_s"])
    paths = {p.stem: p for p in comp.test_files}
    order = where.groupby("stem").indices
    ends, values = where.end_s.to_numpy(), truth[list(comp.classes)].to_numpy()
    return {paths[stem]: values[rows[np.argsort(ends[rows])]] for stem, rows in order.items()}


def score_files(
    model,  # TrainedModel
    files,  # Paths
):          # (rows, classes), file after file
    "What a model says of soundscapes."
    model, said = model.to(choose_device()), []
    for path in files:
        samples = decode(path).samples
        said.append(score_rows(samples, n_rows(len(samples) / 32_000), model.recipe, model.probabilities))
    return np.concatenate(said)


def public_auc(
    run,    # Folder of a run
    known,  # From known_rows
):          # Macro ROC-AUC
    "Score a run on the soundscapes whose truth is known."
    return mean_auc(np.concatenate(list(known.values())), score_files(load_model(run), known))


def file_draws(
    known,  # From known_rows
    turns,  # How many
):          # Iterator of row numbers
    "Soundscapes drawn again with replacement, the same ones for all who ask."
    rng, sizes = np.random.default_rng(0), [len(v) for v in known.values()]
    blocks = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    for _ in range(turns): yield np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])
