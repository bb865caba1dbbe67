"A competition with labelled soundscapes, one of whose classes has no clip: who learns from them, and who is tested on them."
import numpy as np
import pandas as pd
import pytest
import torch

from birdkit import steps
from birdkit.audio import SR, write_ogg
from birdkit.competition import Competition
from birdkit.core import Workspace, write_table
from birdkit.prepare import prepare
from birdkit.recipe import find_recipe
from birdkit.stages import cleaned_clips, tell_clipless, train_fold
from toys import LABELS, tones

CICADA, OTHERS = LABELS[0], LABELS[1:]
CHANGES = {"model.backbone": "mobilenetv3_small_050", "model.weights": "none", "optim.batch": 4, "data.folds": 3, "data.clean": []}
RECIPE = find_recipe("tiny", CHANGES)


def name(site, i): return f"BC2026_Train_000{i}_{site}_20250606_03000{i}.ogg"


def world(folder, labelled=True):
    "Three sites with two labelled soundscapes of 10 s each, the first class in those of two sites and in no clip; two soundscapes nobody labelled; space, data and clips."
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
    write_table(space.clean / "segments.csv", pd.DataFrame({"recording": data.recordings.recording, "start_s": 0., "end_s": data.recordings.duration_s, "keep": True}))
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
    assert len(behind) == sum(len(b.wave) for b in heard["batches"]) and loudest(behind).max() < loudest(torch.cat([b.scape for b in heard["batches"]])).max() / 10


def test_without_labelled_soundscapes_nothing_changes(tmp_path, heard):
    space, data, clips = world(tmp_path, labelled=False)
    weights = [train_fold(data, clips, space, RECIPE.but({"name": f"tiny-{share}", "sampling.labelled": share}), 0)[0].state_dict() for share in (0., .25)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights)))
    assert all(b.behind is None and b.scape_targets is None for b in heard["batches"])


def test_classes_without_a_clip_are_named(tmp_path, capsys):
    _, data, _ = world(tmp_path)
    capsys.readouterr()
    tell_clipless(data, [RECIPE])
    assert capsys.readouterr().out == f"of 4 classes 1 ({CICADA}) have no clip; 1 ({CICADA}) are learnt from labelled soundscapes\n"
    tell_clipless(data, [find_recipe("birdclef2025_01")])
    assert "birdclef2025_01 does not learn from these: override sampling.labelled with .25" in capsys.readouterr().out
