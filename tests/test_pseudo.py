"Soft labels: killed and resumed, out of fold, and from a label file to the windows of a batch."
import os, subprocess, sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from birdkit.audio import SR
from birdkit.batches import Batches, make_clips
from birdkit.examples import MemoryStore
from birdkit.groups import Sampling
from birdkit.labels import PART, Labels, Teacher, part_of, predict_labels
from birdkit.pseudo import LABEL_STEPS, apply_labels, file_weights, labelled_scapes
from birdkit.recipe import Recipe, all_recipes
from conftest import ROOT

CLASSES = ("47144", "owl", "wren")


class Level:
    "A stand-in for a TrainedModel: a class for each third of the mel bands. It ends its process at a given window."
    classes = CLASSES
    recipe = Recipe("toy").but({"frontend": dict(n_mels=12, hop=3200, scale="db80", top_db=0., wave="none"), "infer.stride_s": 5.})

    def __init__(self, gain=1., kill_at=None): self.gain, self.kill_at, self.heard = gain, kill_at, 0

    def state_dict(self): return {}

    def probabilities(self, x):
        self.heard += 1
        if self.heard == self.kill_at: os.kill(os.getpid(), 9)
        frames = np.clip(self.gain * (.5 + .25 * x[:, 0].reshape(len(x), 3, 4, -1).mean(2)), 0, 1).transpose(0, 2, 1) * np.float32([1, .7, .4])
        return frames.mean(1), frames


def a_world(scapes=80, seconds=11):
    "Noise: soundscapes, and one clip of each class in three folds."
    rng = np.random.default_rng(0)
    sound = lambda: rng.normal(0, 10 ** rng.uniform(-3, 0), seconds * SR).astype("float32")
    names, clips = [f"s/{i:02}.ogg" for i in range(scapes)], [f"c/{i}.ogg" for i in range(3)]
    recordings = pd.DataFrame({"recording": clips, "primary_label": CLASSES, "fold": range(3), "duration_s": float(seconds)})
    return SimpleNamespace(store=MemoryStore({k: sound() for k in names + clips}), classes=CLASSES, facts=dict(data="toy"), recordings=recordings,
                           soundscapes=pd.DataFrame({"recording": names}), targets=lambda secondary=1.: np.eye(3, dtype="float32"))


def killed(folder, at):
    "Label in a process that ends itself, as SIGKILL would, at its so many-th recording."
    code = ("import sys; sys.path.insert(0, 'tests'); from pathlib import Path; from test_pseudo import *; "
            f"predict_labels([Teacher(Level(kill_at={at}))], a_world(), folder=Path({str(folder)!r}))")
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).returncode


def test_killed_labelling_goes_on_and_ends_alike(tmp_path):
    whole, again = predict_labels([Teacher(Level())], a_world()), Level()
    assert killed(tmp_path / "k", 2 * PART + 5) == -9
    parts, = (tmp_path / "k").iterdir()
    assert len([f for f in parts.iterdir() if f.suffix == ".npy"]) == 2
    resumed = predict_labels([Teacher(again)], a_world(), folder=tmp_path / "k")
    assert again.heard == 80 - 2 * PART
    assert np.array_equal(resumed.probs, whole.probs) and resumed.facts == whole.facts
    assert np.array_equal(Labels.load(tmp_path / "k/soundscapes.npz").probs, whole.probs)
    assert not list((tmp_path / "k").glob("*.parts"))


@pytest.mark.parametrize("other", [dict(teachers=[Teacher(Level(), "other")]), dict(combine="min"), dict(round=2), dict(data=a_world(1))], ids=" ".join)
def test_other_labels_are_not_taken_for_these(tmp_path, other):
    world, first, second = a_world(4), Level(), Level()
    predict_labels([Teacher(first)], world, folder=tmp_path)
    predict_labels(**(dict(teachers=[Teacher(second)], data=world, folder=tmp_path) | other))
    heard = other["teachers"][0].model.heard if "teachers" in other else second.heard
    assert heard == (1 if "data" in other else 4)
    predict_labels([Teacher(first)], world, folder=tmp_path)
    assert first.heard == 8


def test_how_a_teacher_is_exported_is_nothing_to_its_labels(tmp_path):
    world, teachers = a_world(4), [Level(), Level(), Level()]
    for teacher, changes in zip(teachers, ({}, {"infer.precision": "int8", "infer.formats": ("onnx",), "infer.dense": True}, {"infer.fmax_hz": 8_000.})):
        teacher.recipe = Level.recipe.but(changes)
        predict_labels([Teacher(teacher)], world, folder=tmp_path)
    assert [t.heard for t in teachers] == [4, 0, 4]


def test_nobody_labels_what_it_learnt_from():
    world = a_world(6)
    clips = list(world.recordings.recording)
    teachers = [Teacher(Level(gain), f"fold{k}", frozenset(set(clips) - {clips[k]})) for k, gain in enumerate((1., .5, .25))]
    out = predict_labels(teachers, world, "clips")
    alone = [predict_labels([Teacher(t.model)], world, "clips").probs[k] for k, t in enumerate(teachers)]
    assert np.array_equal(out.probs, np.stack(alone))
    scapes = list(world.soundscapes.recording)
    students = [Teacher(t.model, t.name, frozenset(s for s, p in zip(scapes, part_of(scapes, 3)) if p != k)) for k, t in enumerate(teachers)]
    for k, t in enumerate(students):
        mine = part_of(scapes, 3) == k
        assert np.array_equal(predict_labels(students, world).probs[mine], predict_labels([Teacher(t.model)], world).probs[mine])


def test_labels_reach_the_batch():
    world = a_world(8)
    labels = predict_labels([Teacher(Level())], world)
    level = np.median(labels.probs.max(2))
    kept = apply_labels(labels, (("threshold", dict(keep=float(level), zero=0.)), ("file_weights", "peaks")), 1)
    scapes = labelled_scapes(kept, world)
    assert list(scapes.keys) == list(labels.keys[kept.kept.any(1)]) and abs(scapes.weights.sum() - 1) < 1e-6
    assert np.allclose(scapes.weights, file_weights(kept.probs[kept.kept.any(1)]), atol=1e-5)
    plain = labelled_scapes(apply_labels(labels, (("power", 2.),), 1), world)
    batch = next(Batches(world.store, make_clips(world), Sampling(window_s=10., best_of=1), 3, plain).epoch(0))
    by_key = {k: (p.max(0) ** 2) for k, p in zip(labels.keys, labels.probs)}            # a window of 10 s covers both rows
    assert all(any(np.allclose(t, p, atol=1e-6) for p in by_key.values()) for t in batch.scape_targets.numpy())


def test_label_steps_are_those_of_the_recipe_books():
    rng = np.random.default_rng(0)
    probs = (.09 * rng.random((5, 12, 40)) + .85 * (rng.random((5, 12, 40)) < .02)).astype("float32")
    labels = Labels(np.array([f"S{i}_20250101_0500.ogg" for i in range(5)], object), probs, tuple(map(str, range(40))))
    recipes = [m for r in all_recipes().values() for m in r.members()]
    assert {name for r in recipes for name, *_ in r.pseudo.labels} <= set(LABEL_STEPS)
    for steps in {repr(r.pseudo.labels): r.pseudo.labels for r in recipes}.values():
        for round in (1, 4):
            out = apply_labels(labels, steps, round)
            assert out.probs.dtype == np.float32 and out.kept.any() and np.nanmin(out.probs) >= 0 and np.nanmax(out.probs) <= 1
    assert np.array_equal(labels.probs, probs)


def test_labels_of_a_whole_competition_are_small(tmp_path):
    probs = np.full((500, 12, 206), .25, "float32")
    labels = Labels(np.array([f"s{i}" for i in range(500)], object), probs, tuple(map(str, range(206))), facts={"round": 1})
    path = labels.save(tmp_path / "soundscapes.npz")
    assert path.stat().st_size / 500 < 5500                                             # 9,700 soundscapes: 53 MB at most
    assert pd.read_csv(tmp_path / "soundscapes-summary.csv").shape == (206, 7)
