"A search goes on after a kill, shares its study, and trains for real from the command line."
import json, os, shlex, signal, subprocess, sys, time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT
from toys import toy_folder

pytest.importorskip("optuna")

from birdkit.callbacks import Validate
from birdkit.competition import Competition
from birdkit.core import Workspace, write_table
from birdkit.learner import Learner
from birdkit.prepare import prepare
from birdkit.recipe import Recipe, find_recipe
from birdkit.runs import list_runs
from birdkit.scenes import Scenes
from birdkit.search import Prune, load_space, main, open_study, trials_of
from birdkit.trained import TrainedModel

CODE = """
import os, sys, time
from pathlib import Path
from birdkit.recipe import Recipe
from birdkit.search import load_space, open_study, search
work, wait = Path(sys.argv[1]), float(sys.argv[2])

def others():
    "Has another process begun a trial too?"
    return {line.split()[1] for line in open(work / "log.txt")} > {str(os.getpid())}

def train(recipe, folder, callbacks, minutes):
    with open(work / "log.txt", "a") as log: log.write(f"{folder.name} {os.getpid()}\\n")
    end = time.monotonic() + (wait if folder.name == "t002" else 0)
    time.sleep(.2)
    while time.monotonic() < end and not others(): time.sleep(.05)
    return dict(auc=1 - recipe.model.drop, epochs=2, of=2)

recipe = Recipe("toy")
space = load_space(work / "space.yaml", recipe)
search(open_study(work / "toy.db", recipe, space), train, recipe, space, work / "toy", trials=5)
"""


def start(work, wait=0.):
    "A process that searches, with trainings that only wait."
    (work / "space.yaml").write_text("model.drop: {low: 0, high: 0.5}")
    return subprocess.Popen([sys.executable, "-c", CODE, str(work), str(wait)], cwd=ROOT, stdout=subprocess.DEVNULL)


def log(work): return [line.split() for line in (work / "log.txt").read_text().splitlines()] if (work / "log.txt").exists() else []


def reopen(work):
    recipe = Recipe("toy")
    return open_study(work / "toy.db", recipe, load_space(work / "space.yaml", recipe))


def test_a_killed_study_goes_on_with_the_trial_it_was_at(tmp_path):
    process = start(tmp_path, wait=60)
    while "t002" not in [name for name, _ in log(tmp_path)] and process.poll() is None: time.sleep(.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = trials_of(reopen(tmp_path))
    assert before["t002"].state.name == "RUNNING"
    assert start(tmp_path).wait(120) == 0
    after = trials_of(reopen(tmp_path))
    assert sorted(after) == ["t000", "t001", "t002", "t004", "t005"]       # the number between is the lost one's
    assert {t.state.name for t in after.values()} == {"COMPLETE"}
    assert after["t002"].params == before["t002"].params
    names = [name for name, _ in log(tmp_path)]
    assert names.count("t002") == 2 and len(names) == 6
    assert len({t.params["model.drop"] for t in after.values()}) == 5     # draws do not repeat after the break


def test_two_processes_share_a_study(tmp_path):
    both = [start(tmp_path, wait=60)]                                     # its third trial ends when the other process is at one
    while "t002" not in [name for name, _ in log(tmp_path)] and both[0].poll() is None: time.sleep(.05)
    both.append(start(tmp_path))
    assert [p.wait(120) for p in both] == [0, 0]
    trials, (names, pids) = trials_of(reopen(tmp_path)), zip(*log(tmp_path))
    assert set(pids) == {str(p.pid) for p in both}
    assert {t.state.name for t in trials.values()} == {"COMPLETE"}
    assert len(set(names)) == len(names) and 5 <= len(names) <= 6         # nobody takes what another is at


def toy_workspace(folder):
    "A tiny competition, prepared, with every second of it kept."
    comp, space = Competition.find(str(toy_folder(folder / "data", audio=True))), Workspace.find(folder / "work")
    data = prepare(comp, space)
    keys = data.recordings.recording
    write_table(space.clean / "segments.csv", pd.DataFrame({"recording": keys, "start_s": 0., "end_s": data.recordings.duration_s, "keep": True}))
    write_table(space.clean / "weights.csv", pd.DataFrame({"recording": keys, "weight": 1.}))
    return ["--data", str(comp.folder), "--work", str(space.root)]


TINY = '{model.backbone: mobilenetv3_small_050, model.weights: "none", optim.epochs: 2, optim.batch: 4}'


def command(*arguments):
    "The command's last words, where it ends with a mistake."
    try: main(list(map(str, arguments)))
    except SystemExit as end: return str(end)


def test_two_real_trials_from_the_command_line(tmp_path, capsys):
    where = toy_workspace(tmp_path)
    space = {"optim.lr": dict(low=1e-4, high=1e-2, log=True), "augment.wave.mix_clips.p": dict(low=0, high=1)}
    (tmp_path / "space.json").write_text(json.dumps(space))
    whole = [*where, "--recipe", "tiny", "--overrides", TINY, "--space", tmp_path / "space.json", "--trials", 2]
    done = subprocess.run([sys.executable, "-m", "birdkit.search", *map(str, whole)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = list_runs(tmp_path / "work/search/tiny-fold0")
    assert runs.run.tolist() == ["t000", "t001"] and set(runs.state) == {"finished"} and set(runs.recipe) == {"tiny"}
    line = shlex.split(done.stdout.splitlines()[-1])
    best = yaml.safe_load(line[-1])["overrides"]
    assert line[:2] == ["papermill", "nbs/04_train.ipynb"] and "tiny" in line
    assert {k: best[k] for k in ("name", "optim.epochs", "model.weights")} == {"name": "tiny-search", "optim.epochs": 2, "model.weights": "none"}
    assert done.stdout.splitlines()[-2].endswith(f"{tmp_path / 'work/runs/tiny-search/fold0'}:")
    recipe = json.loads((tmp_path / f"work/search/tiny-fold0/{runs.run[runs.auc.argmax()]}/recipe.json").read_text())
    assert best["optim.lr"] == recipe["optim"]["lr"]
    capsys.readouterr()
    assert command(*whole) is None
    again = capsys.readouterr().out.splitlines()
    assert again[-1] == done.stdout.splitlines()[-1]
    assert not [x for x in again if x.startswith("t00")]               # nothing was trained again


def test_fold_and_seed_reach_the_trainings(tmp_path, monkeypatch):
    where, asked = toy_workspace(tmp_path), []
    monkeypatch.setattr("birdkit.search.fold_trainer", lambda data, place, fold, seed, scenes: asked.append((fold, seed)))
    monkeypatch.setattr("birdkit.search.search",
                        lambda study, train, recipe, space, folder, *rest: asked.append((study.user_attrs["seed"], folder.name, *rest)) or {})
    monkeypatch.setattr("birdkit.search.study_table", lambda study: pd.DataFrame(columns=["trial", "state", "auc"]))
    assert command(*where, "--recipe", "tiny", "--fold", 1, "--seed", 3, "--trials", 4, "--minutes", 9) is None
    assert asked == [(1, 3), (3, "tiny-fold1", 4, 9.)]
    assert command(*where, "--recipe", "tiny", "--study", tmp_path / "mine") is None
    assert asked[-1][1] == "mine" and (tmp_path / "mine.db").is_file() and not (tmp_path / "mine").exists()


def test_a_study_is_not_gone_on_with_on_other_scenes(tmp_path, monkeypatch):
    where, events = toy_workspace(tmp_path), pd.DataFrame(dict(clip=[0], first=[3]))
    monkeypatch.setattr("birdkit.search.search", lambda *_: {})
    monkeypatch.setattr("birdkit.search.study_table", lambda study: pd.DataFrame(columns=["trial", "state", "scene_auc"]))
    def on_scenes(events):
        scenes = Scenes(None, None, {}, pd.DataFrame(dict(recording=["a"])), {}, events, np.zeros((1, 12, 2)))
        monkeypatch.setattr("birdkit.search.held_scenes", lambda *_: scenes)
        return command(*where, "--recipe", "tiny")
    assert on_scenes(events) is None and on_scenes(events) is None
    assert "give --study another file" in on_scenes(events.assign(first=4))        # another moment of a clip


def test_the_last_line_keeps_a_name_and_a_pretrained_backbone(tmp_path, monkeypatch, capsys):
    where = toy_workspace(tmp_path)
    monkeypatch.setattr("birdkit.search.search", lambda *_: {"optim.lr": .002})
    monkeypatch.setattr("birdkit.search.study_table", lambda study: pd.DataFrame(columns=["trial", "state", "auc"]))
    def last(*more):
        assert command(*where, "--recipe", "tiny", *more) is None
        return yaml.safe_load(shlex.split(capsys.readouterr().out.splitlines()[-1])[-1])["overrides"]
    assert last() == {"name": "tiny-search", "optim.lr": .002}
    assert last("--overrides", "{name: mine}") == {"name": "mine", "optim.lr": .002}
    folder = tmp_path / "work/pretrained/tiny"
    folder.mkdir(parents=True)
    torch.save(TrainedModel(find_recipe("tiny", {"model.weights": "none"}, ""), ["a"]).backbone.state_dict(), folder / "backbone.pt")
    assert last("--study", tmp_path / "pretrained.db") == {"optim.lr": .002}       # under another name 04_train would not find it
    assert last("--overrides", "{name: mine}") == {"name": "mine", "optim.lr": .002}


def test_mistakes_are_told_before_anything_is_tried(tmp_path):
    where = toy_workspace(tmp_path)
    (tmp_path / "space.yaml").write_text("optim.lr: {low: 3}")
    mistakes = (["--space", tmp_path / "space.yaml"], "cannot be tried"), (["--fold", 9], "fold=9 does not exist"), (["--recipe", "smal"], "did you mean small")
    for wrong, said in mistakes:
        told = command(*where, "--recipe", "tiny", *wrong)
        assert told.startswith("KitError: ") and said in told
    assert not list(tmp_path.glob("work/search/*"))


def test_a_study_is_of_its_clips(tmp_path):
    where = toy_workspace(tmp_path)
    again = lambda: command(*where, "--recipe", "tiny", "--minutes", 0)
    assert "no trial came to its end" in again() and "no trial came to its end" in again()
    path = tmp_path / "work/clean/weights.csv"
    path.write_text(path.read_text().replace("1.0", "0.5"))
    assert "tries another recipe, space, fold or seed, other clips or another score, or begins at another backbone: give --study another file" in again()


def test_a_study_is_of_its_start(tmp_path):
    where, path = toy_workspace(tmp_path), tmp_path / "work/pretrained/tiny/backbone.pt"
    path.parent.mkdir(parents=True)
    def again(seed):
        torch.manual_seed(seed)
        torch.save(TrainedModel(find_recipe("tiny", {"model.weights": "none"}, ""), ["a"]).backbone.state_dict(), path)      # as 03_pretrain leaves it
        return command(*where, "--recipe", "tiny", "--minutes", 0)
    assert "no trial came to its end" in again(0) and "no trial came to its end" in again(0)
    assert "or begins at another backbone" in again(1)


def test_networks_are_not_compared_where_one_alone_is_pretrained(tmp_path):
    where, folder = toy_workspace(tmp_path), tmp_path / "work/pretrained/tiny"
    recipe = find_recipe("tiny", {"model.weights": "none"}, "")
    recipe.save(folder / "recipe.json")
    torch.save(TrainedModel(recipe, ["a"]).backbone.state_dict(), folder / "backbone.pt")
    (tmp_path / "space.yaml").write_text(f"model.drop: {{low: 0, high: .5}}\nmodel.backbone: [{recipe.model.backbone}, test_resnet]")
    again = lambda *more: command(*where, "--recipe", "tiny", "--minutes", 0, *more)
    assert f"{folder} is a backbone that not all values of model.backbone fit" in again("--space", tmp_path / "space.yaml")
    assert "no trial came to its end" in again("--space", tmp_path / "space.yaml", "--overrides", "{name: mine}") and "no trial came to its end" in again()


def test_a_pruned_training_stops_after_its_epoch():
    class Ones:
        "One batch an epoch."
        def __len__(self): return 1
        def epoch(self, number, first=0): return iter([torch.ones(2, 1)])
    told, model, scores = {}, torch.nn.Linear(1, 1), iter([.5, float("nan"), .7])
    trial = SimpleNamespace(report=lambda value, step: told.update({step: value}), should_prune=lambda: 6 in told)
    callbacks = prune, _ = Prune(trial), Validate(lambda m: dict(auc=next(scores)), 2)
    learner = Learner(model, Ones(), lambda learner, x: learner.model(x).mean(), torch.optim.SGD(model.parameters(), .1), callbacks).fit(9)
    assert told == {2: .5, 6: .7}                                      # every second epoch has a score, the fourth's is none
    assert prune.pruned and learner.epoch == len(learner.history) == 6
