"A training that is killed goes on to the very weights it would have reached."
import os, random, shutil, signal, subprocess, sys
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, papermill
from toys import noise, tones

from birdkit.audio import write_ogg
from birdkit.cleaning import Cleaning, lay_segments
from birdkit.competition import Competition
from birdkit.core import KitError, Workspace, read_json, read_table, write_json, write_table
from birdkit.labels import as_teacher, predict_labels
from birdkit.material import cleaned_clips
from birdkit.prepare import prepare
from birdkit.recipe import find_recipe
from birdkit.review import clip_weights, no_review
from birdkit.rules import keep_cleaning
from birdkit.stages import train_fold
from birdkit.trained import load_model

CODE = """
import sys, time
import numpy as np, pandas as pd, torch
from birdkit.audio import SR
from birdkit.batches import Clips, Scapes
from birdkit.callbacks import Checkpoint
from birdkit.examples import MemoryStore
from birdkit.recipe import Recipe
from birdkit.trained import TrainedModel
from birdkit.training import train_run
from pathlib import Path
from types import SimpleNamespace

class Slow(Checkpoint):
    def after_batch(self, learner):
        super().after_batch(learner)
        print("step", learner.count, flush=True)
        if learner.count >= wait: time.sleep(600)

import birdkit.training
out, every_s, changes, wait = Path(sys.argv[1]), float(sys.argv[2]), eval(sys.argv[3]), float(sys.argv[4])
birdkit.training.Checkpoint = lambda path, mark: Slow(path, mark, every_s, share=1e9)
torch.set_num_threads(1)
rng = np.random.default_rng(0)
keys = np.array([f"r{i}" for i in range(24)], object)
store = MemoryStore({k: rng.normal(0, .1, 4 * SR).astype("float32") for k in [*keys, "s"]})
targets = np.eye(3, dtype="float32")[np.arange(24) % 3]
clips = Clips(keys, [np.array([[0, 4 * SR]])] * 24, targets, np.ones(24, "float32"), targets.argmax(1))
table = pd.DataFrame(dict(recording=keys, filename=keys, fold=np.arange(24) % 4))
data = SimpleNamespace(store=store, classes=("a", "b", "c"), recordings=table, facts=dict(folds=4))
recipe = Recipe("killed").but({"model": dict(backbone="mobilenetv3_small_050", weights="none", hidden=16, drop=.3, drop_path=.2), "sampling.window_s": 2.,
    "frontend": dict(n_mels=32, hop=2000),
    "optim": dict(epochs=4, batch=4, lr=3e-3, average_from=0.)}).but(changes)
torch.manual_seed(0)
train_run(TrainedModel(recipe, data.classes), data, clips, out, 0, scapes=Scapes(np.array(["s"], object), np.array([4 * SR])))
"""

AVERAGES = {"ema": {}, "swa": {"optim.average": "swa", "optim.accumulate": 2, "optim.schedule": "one_cycle"},
            "soup": {"optim.average": "soup", "optim.keep": 2, "optim.freeze": .4, "optim.schedule": "restarts", "optim.cycle_epochs": 2}}
STEPS = 4 * (18 // 4)


def start(out, changes, every_s=0, wait=1e9):
    command = [sys.executable, "-c", CODE, str(out), str(every_s), repr(changes), str(wait)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_at(step, *run, **options):
    "Start a run, read what it says until it has done so many steps, and kill it; it waits two steps later, so that it is still there."
    process = start(*run, **options, wait=step + 2)
    for line in process.stdout:
        if line.startswith("step") and int(line.split()[1]) >= step: break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("name", AVERAGES)
def test_killed_at_any_step(name, tmp_path):
    changes, draw = AVERAGES[name], random.Random(name)
    whole = start(tmp_path / "whole", changes)
    assert whole.wait(300) == 0, whole.stderr.read()[-2000:]
    steps = sorted(draw.sample(range(2, STEPS - 2), 2))
    for step in steps:
        assert kill_at(step, tmp_path / "killed", changes) == -signal.SIGKILL
        assert (tmp_path / "killed/last.pt").exists() and not (tmp_path / "killed/weights.pt").exists()
    last = start(tmp_path / "killed", changes)
    said, error = last.communicate(timeout=300)
    assert last.returncode == 0, error[-2000:]
    assert "going on after epoch" in said and said.count("step") < STEPS, steps
    one, two = (torch.load(tmp_path / run / "weights.pt", weights_only=True) for run in ("whole", "killed"))
    assert all(torch.equal(one[k], two[k]) for k in one), steps
    one, two = ((tmp_path / run / "oof.csv").read_bytes() for run in ("whole", "killed"))
    assert one == two
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {"weights.pt", "recipe.json", "classes.json", "history.csv", "oof.csv", "metrics.json"}


def test_killed_before_the_first_checkpoint(tmp_path):
    assert kill_at(3, tmp_path, {}, every_s=1e6) == -signal.SIGKILL
    assert not list(tmp_path.glob("*.pt"))


def test_a_session_that_ends_in_time_goes_on_in_the_next(pipeline, demo, tmp_path):
    for name in ("prepared", "clean"): (tmp_path / name).symlink_to(pipeline["work"] / name)
    command = ["nbs/04_train.ipynb", tmp_path / "out.ipynb", "-p", "data", demo, "-p", "work", tmp_path, "-p", "recipe", "tiny",
               "-y", '{overrides: {model.backbone: mobilenetv3_small_050, model.weights: "none", optim.epochs: 4}}']
    run = tmp_path / "runs/tiny/fold0"
    for limit, epochs, left in ((["-p", "minutes", "0.0001"], 0, True), ([], 4, False), ([], 4, False)):
        done = papermill(*command, *limit)
        assert done.returncode == 0, done.stderr[-2000:]
        facts = read_json(run / "metrics.json", "")
        assert (facts["epochs"], facts["of"]) == (epochs, 4) and (run / "last.pt").exists() == left
    assert "is trained already" in (tmp_path / "out.ipynb").read_text()          # the third call had nothing to do


def test_a_finished_run_is_scored_on_the_clips_that_are_held_out_now(pipeline, demo, tmp_path):
    (tmp_path / "prepared").symlink_to(pipeline["work"] / "prepared")
    for name in ("clean", "pretrained/tiny", "runs/tiny/fold0"): shutil.copytree(pipeline["work"] / name, tmp_path / name)
    run, segments = tmp_path / "runs/tiny/fold0", read_table(tmp_path / "clean/segments.csv", "", keep_default_na=False)
    held, weights = read_table(run / "oof.csv", "").recording, (run / "weights.pt").read_bytes()
    write_table(tmp_path / "clean/segments.csv",
                segments.assign(keep=segments.keep & (segments.recording != held[1])))      # as after a look at the first run's scores
    done = papermill("nbs/04_train.ipynb", tmp_path / "out.ipynb", "-p", "data", demo, "-p", "work", tmp_path, "-p", "recipe", "tiny")
    assert done.returncode == 0, done.stderr[-2000:]
    said = (tmp_path / "out.ipynb").read_text()
    assert "is trained already" in said and "tiny/fold0 is scored anew, on the clips that are held out now" in said and f"of {len(held) - 1} clips" in said
    assert read_table(run / "oof.csv", "").recording.tolist() == held.drop(1).tolist() and (run / "weights.pt").read_bytes() == weights


def test_a_round_that_is_stopped_is_not_exported(pipeline, demo, tmp_path):
    for name in ("prepared", "clean", "runs/tiny/fold0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(pipeline["work"] / name)
    command = ["nbs/05_distill.ipynb", tmp_path / "out.ipynb", "-p", "data", demo, "-p", "work", tmp_path, "-p", "recipe", "tiny"]
    for limit, exported in ((["-p", "minutes", "0.0001"], "tiny-fold0"), ([], "tiny-r1-all")):
        done = papermill(*command, *limit)
        assert done.returncode == 0, done.stderr[-2000:]
        assert [m["name"] for m in read_json(tmp_path / "export/tiny/manifest.json", "")["models"]] == [exported]
        assert ("round 1 stopped: time is up after" in (tmp_path / "out.ipynb").read_text()) == bool(limit)
    assert "going on after epoch 0" in (tmp_path / "out.ipynb").read_text()


def test_a_member_that_was_not_trained_to_its_end_is_left_out(pipeline, demo, tmp_path):
    for name in ("prepared", "clean"): (tmp_path / name).symlink_to(pipeline["work"] / name)
    for member in "ab": shutil.copytree(pipeline["work"] / "runs/tiny/fold0", tmp_path / f"runs/tiny-{member}/fold0")
    stopped = tmp_path / "runs/tiny-b/fold0/metrics.json"
    write_json(stopped, read_json(stopped, "") | dict(epochs=0, of=4, stopped="time is up after 3% of the training"))
    done = papermill("nbs/05_distill.ipynb", tmp_path / "out.ipynb", "-p", "data", demo, "-p", "work", tmp_path, "-p", "recipe",
                     "tiny", "-p", "rounds", "0", "-y", "{overrides: {ensemble.members: [[a, {}], [b, {}], [c, {}]]}}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [m["name"] for m in read_json(tmp_path / "export/tiny/manifest.json", "")["models"]] == ["tiny-a-fold0"]
    said = (tmp_path / "out.ipynb").read_text()
    assert "tiny-b/fold0 is only partly trained and is left out (time is up after 3%" in said and "tiny-c has no trained model and is left out" in said


def test_a_pretraining_goes_on_and_only_other_settings_begin_anew(demo, tmp_path):
    place, command = tmp_path / "pretrained/tiny", ["nbs/03_pretrain.ipynb", tmp_path / "out.ipynb", "-p", "data",
                                                    demo, "-p", "work", tmp_path, "-p", "recipe", "tiny"]
    settings = '{overrides: {model.backbone: mobilenetv3_small_050, model.weights: "none", pretrain.epochs: EPOCHS}}'
    cases = ((2, ["-p", "minutes", "0.0001"], 0, "run the same again to go on"),
             (2, [], 2, "going on after epoch 0 and 1 batches"), (2, [], 2, "is trained already"),
             (1, [], 1, "was made with other settings or data: deleting it and training again"))
    for wanted, limit, epochs, said in cases:
        done = papermill(*command, *limit, "-y", settings.replace("EPOCHS", str(wanted)))
        assert done.returncode == 0, done.stderr[-2000:]
        facts = read_json(place / "metrics.json", "")
        assert (facts["epochs"], facts["of"]) == (epochs, wanted) and (place / "last.pt").exists() == (epochs < wanted)
        assert said in (tmp_path / "out.ipynb").read_text()
    assert len(read_table(place / "history.csv", "")) == 1
    assert papermill(*command, "-p", "past", "none").returncode == 0 and not place.exists()


def test_other_sound_of_the_same_length_is_trained_and_labelled_anew(tmp_path):
    comp, space = Competition.find(str(tones(tmp_path / "data", per_class=3, seconds=12))), Workspace.find(tmp_path / "work")
    recipe = find_recipe("tiny", {"model.backbone": "mobilenetv3_small_050", "model.weights": "none", "optim.epochs": 1, "data.seconds": 6.})

    def run(part="first", clean=True):
        "01_prepare, 02_clean, 04_train and 05_distill; the weights and the labels."
        data = prepare(comp, space, replace(recipe.data, part=part))
        tables = dict(segments=lay_segments(Cleaning.of(data)), weights=clip_weights(data.recordings, no_review()))
        if clean: keep_cleaning(space, recipe, data, **tables)
        folder = train_fold(data, cleaned_clips(data, space, recipe), space, recipe, 0)[2]
        labels = predict_labels([as_teacher(load_model(folder), folder, data)], data, folder=tmp_path / "labels")
        return (folder / "weights.pt").read_bytes(), labels.probs.tobytes()

    first, facts = run("ends"), space.run("tiny", 0) / "metrics.json"
    second = run("first")
    assert second[0] != first[0] and run() == second
    write_json(facts, read_json(facts, "") | dict(mark=read_json(facts, "")["mark"].split("\n")[0]))      # as an older version left it
    assert run() == second
    for path in comp.soundscapes: write_ogg(path, noise(10, 99))
    third = run()
    assert third[0] != second[0] and third[1] != second[1]
    write_ogg(tmp_path / "data/train_audio/owl1/XC20.ogg", noise(12))
    with pytest.raises(KitError, match="was made for other sound of the recordings than there is now: run 02_clean again"): run(clean=False)
    assert run()[0] != third[0]
