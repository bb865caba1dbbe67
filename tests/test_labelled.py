"A competition with labelled soundscapes, one of whose classes has no clip: who learns from them, and who is tested on them."
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from birdkit import distill, outside, stages, steps
from birdkit.audio import SR, write_ogg
from birdkit.competition import Competition
from birdkit.core import Workspace, write_table
from birdkit.labelled import labelled_folds, split_labelled
from birdkit.labels import Labels
from birdkit.material import cleaned_clips, labelled_windows, tell_clipless
from birdkit.prepare import prepare
from birdkit.recipe import find_recipe
from birdkit.runs import list_runs, show_table
from birdkit.stages import judge_labelled, train_fold
from toys import LABELS, tones

CICADA, OTHERS = LABELS[0], LABELS[1:]
CHANGES = {"model.backbone": "mobilenetv3_small_050", "model.weights": "none", "optim.batch": 4, "data.folds": 3, "data.clean": []}
RECIPE = find_recipe("tiny", CHANGES)


def name(site, i): return f"BC2026_Train_000{i}_{site}_20250606_03000{i}.ogg"


def world(folder, labelled=True):
    """Three sites with two labelled soundscapes of 10 s each, the first class in those of two sites and in no clip; space, data and clips.

    Beside them two soundscapes nobody labelled.
    """
    comp, rng, t = tones(folder / "toy"), np.random.default_rng(0), np.arange(10 * SR) / SR
    for path in (comp / "train_soundscapes").iterdir(): path.unlink()
    table = pd.read_csv(comp / "train.csv", dtype=str)
    table[table.primary_label != CICADA].to_csv(comp / "train.csv", index=False)
    rows = []
    for site, sings in (("S01", 0), ("S02", 0), ("S03", 2), ("S04", None)):
        for i in range(2):
            x = rng.normal(0, .02, len(t))
            if sings is not None: x[5 * SR:] += .2 * np.sin(2 * np.pi * (1200 + 1500 * sings) * t[5 * SR:])
            write_ogg(comp / "train_soundscapes" / name(site, i), x.astype("float32"))
            if sings is not None: rows += [(name(site, i), "00:00:00", "00:00:05", ""), (name(site, i), "00:00:05", "00:00:10", LABELS[sings])]
    if labelled: pd.DataFrame(2 * rows, columns=["filename", "start", "end", "primary_label"]).to_csv(comp / "train_soundscapes_labels.csv", index=False)
    space = Workspace.find(folder / "work")
    data = prepare(Competition.find(str(comp)), space, RECIPE.data)
    write_table(space.clean / "segments.csv",
                pd.DataFrame({"recording": data.recordings.recording, "start_s": 0., "end_s": data.recordings.duration_s, "keep": True}))
    write_table(space.clean / "weights.csv", pd.DataFrame({"recording": data.recordings.recording, "weight": 1.}))
    return space, data, cleaned_clips(data, space, RECIPE)


@pytest.fixture
def heard(monkeypatch):
    "Batches and targets of each step of a training."
    seen, sample_of, loss_of = dict(batches=[], targets=[]), steps.student_sample, steps.network_loss
    monkeypatch.setattr(steps, "student_sample", lambda learner, batch, p: seen["batches"].append(batch) or sample_of(learner, batch, p))
    monkeypatch.setattr(steps, "network_loss", lambda learner, sample: seen["targets"].append(sample.targets) or loss_of(learner, sample))
    return seen


@pytest.mark.parametrize("recipe", ["base", "small", "best"])
def test_the_kits_recipes_learn_classes_without_a_clip(tmp_path, heard, recipe):
    space, data, clips = world(tmp_path)
    assert clips.targets[:, data.classes.index(CICADA)].sum() == 0
    small = {"frontend.n_mels": 32, "frontend.hop": 1600, "model.hidden": 16, "optim.epochs": 4}
    train_fold(data, clips, space, find_recipe(recipe, CHANGES | small), "all")
    assert torch.cat(heard["targets"])[:, data.classes.index(CICADA)].max() == 1
    loudest = lambda waves: np.abs(np.fft.rfft(waves.numpy())).max(1)
    behind = torch.cat([b.behind for b in heard["batches"]])                 # backgrounds as ever, of soundscapes that nobody labelled
    assert len(behind) == sum(len(b.wave) for b in heard["batches"])
    assert loudest(behind).max() < loudest(torch.cat([b.scape for b in heard["batches"]])).max() / 10


def test_without_labelled_soundscapes_nothing_changes(tmp_path, heard):
    space, data, clips = world(tmp_path, labelled=False)
    weights = [train_fold(data, clips, space, RECIPE.but({"name": f"tiny-{share}", "sampling.labelled": share}), 0)[0].state_dict() for share in (0., .25)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights)))
    assert all(b.behind is None and b.scape_targets is None for b in heard["batches"])


def test_classes_without_a_clip_are_named(tmp_path, capsys):
    _, data, _ = world(tmp_path)
    capsys.readouterr()
    tell_clipless(data, [RECIPE])
    assert capsys.readouterr().out == f"classes without a clip, of 4: 1 ({CICADA}); learnt from labelled soundscapes: 1 ({CICADA})\n"
    tell_clipless(data, [find_recipe("birdclef2025_01")])
    assert "birdclef2025_01 does not learn from these: override sampling.labelled with .25" in capsys.readouterr().out


def given_scapes(monkeypatch, module):
    "The soundscapes that each training of a module is given."
    given, train = [], module.train_run
    monkeypatch.setattr(module, "train_run", lambda model, data, clips, folder, fold, step, scapes, *more, **options: given.append(scapes)
                        or train(model, data, clips, folder, fold, step, scapes, *more, **options))
    return given


def site(keys): return {key.split("_")[-3] for key in keys}


def test_a_fold_is_tested_on_soundscapes_it_has_not_learnt_from(tmp_path, monkeypatch, capsys):
    space, data, clips = world(tmp_path)
    folds = dict(zip(truth_keys := labelled_windows(data).keys, labelled_folds(data, labelled_windows(data))))
    assert len(truth_keys) == 6 and sorted(set(folds.values())) == [0, 1, 2] and all(len(site(k for k in folds if folds[k] == f)) == 1 for f in range(3))
    given = given_scapes(monkeypatch, stages)
    for share in (.25, 0.):
        recipe = RECIPE.but({"name": f"tiny-{share}", "sampling.labelled": share})
        for fold in (0, 1, "all"):
            held, run = {k for k in folds if folds[k] == fold}, train_fold(data, clips, space, recipe, fold)[2]
            scapes = given.pop()
            assert held.isdisjoint(scapes.keys) and len(scapes.keys) == (6 if share else 8) - len(held)
            assert not share or site(scapes.behind.keys) == {"S04"}                  # nobody labelled those
            score = json.loads((run / "metrics.json").read_text()).get("soundscape_auc")
            assert score is None if fold == "all" else 0 <= score <= 1
            assert (f"fold{fold}: macro ROC-AUC" in capsys.readouterr().out) == (fold != "all")
    table = list_runs(space)
    assert table.soundscape_auc.notna().sum() == 4 and "soundscape_auc" in show_table(table)


def test_a_model_that_knows_is_scored_best(tmp_path):
    space, data, clips = world(tmp_path)
    model, _, run = train_fold(data, clips, space, RECIPE, 0)
    truth = split_labelled(data, labelled_windows(data), 0)[1]
    rows = {data.store.window(key).tobytes(): y for key, y in zip(truth.keys, truth.labels)}
    known = lambda sound, count, *_: rows[sound.tobytes()]
    for score, wanted in ((known, 1.), (lambda *x: 1 - known(*x), 0.), (lambda *x: 0 * known(*x), .5)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(stages, "score_rows", score)
            judge_labelled(model, data, run, 0)
        assert json.loads((run / "metrics.json").read_text())["soundscape_auc"] == wanted


def test_students_of_a_fold_do_not_learn_its_soundscapes(tmp_path, monkeypatch):
    space, data, clips = world(tmp_path)
    truth = labelled_windows(data)
    folds = labelled_folds(data, truth)
    runs = {RECIPE.name: [train_fold(data, clips, space, RECIPE, fold)[2] for fold in (0, 1)]}
    given = given_scapes(monkeypatch, distill)
    tested = distill.distill_round(runs, 1, [RECIPE.but({"pseudo.patience": 1, "pseudo.labels": []})], data, clips, space)
    for fold, scapes, run in zip((0, 1), given, tested.runs["tiny"], strict=True):
        assert set(truth.keys[folds == fold]).isdisjoint(scapes.keys) and set(truth.keys[folds != fold]) <= set(scapes.keys)
        assert "soundscape_auc" in json.loads((run / "metrics.json").read_text())
    given.clear()
    distill.distill_round(runs, 1, [RECIPE.but({"pseudo.labels": []})], data, clips, space)
    (scapes,) = given                                                        # it holds out nothing, and learns all that people said
    labels = dict(zip(scapes.keys, scapes.labels))
    assert all(np.array_equal(labels[key], rows) for key, rows in zip(truth.keys, truth.labels)) and len(labels) == 8


def test_what_the_outside_command_is_told_reaches_the_teacher(tmp_path, monkeypatch):
    asked, labels = [], Labels(np.array(["s"], object), np.zeros((1, 1, 1), "float32"), ("owl",))
    comp = SimpleNamespace(folder=tmp_path, taxonomy=SimpleNamespace(scientific_name=["Strix aluco"]))
    data = SimpleNamespace(soundscapes=pd.DataFrame(dict(recording=["s"])), classes=("owl",))
    monkeypatch.setattr(outside, "Competition", SimpleNamespace(find=lambda *_: comp))
    monkeypatch.setattr(outside, "Prepared", SimpleNamespace(load=lambda *_: data))
    monkeypatch.setattr(outside, "load_teacher", lambda *given: asked.append(given) or SimpleNamespace(name="ear", need=lambda output: 1))
    monkeypatch.setattr(outside, "label_soundscapes", lambda *given: asked.append(given[4:]) or labels)
    (tmp_path / "names.txt").write_text("Strix aluco\n")
    model, options = str(tmp_path / "ear.onnx"), ["--rate-hz", "24000", "--window-s", "3", "--scores", "softmax"]
    for network, more in ((b"a", []), (b"b", []), (b"b", options)):
        (tmp_path / "ear.onnx").write_bytes(network)
        outside.main([model, str(tmp_path / "names.txt"), "--work", str(tmp_path / "work"), *more])
    assert asked[-2] == (model, 24_000, 3., "softmax") and asked[-1][0] == tmp_path / "work/pseudo/ear.npz"
    assert len({mark for _, mark in asked[1::2]}) == 3
