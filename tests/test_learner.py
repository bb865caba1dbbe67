"Every way to train that a recipe can ask for, a few real steps each, and the words where it cannot."
import math, sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from birdkit.audio import SR
from birdkit.averages import batch_norms, soup
from birdkit.batches import Clips, Scapes
from birdkit.core import KitError, read_json
from birdkit.examples import MemoryStore
from birdkit.loggers import LOGGERS, Logger
from birdkit.recipe import Recipe
from birdkit.steps import clip_sample, heard_loss, inputs_of, supervised
from birdkit.trained import TrainedModel, load_model
from birdkit.training import train_run

KEYS = np.array([f"r{i}" for i in range(12)], object)
TARGETS = np.eye(3, dtype="float32")[np.arange(12) % 3]
LAST = "head.attend.classify.weight"
WAYS = dict(
    bf16=dict(precision="bf16"), swa=dict(average="swa", average_from=0., schedule="one_cycle"), soup=dict(average="soup", average_from=0., name="radam"),
    best=dict(average="best", schedule="restarts", cycle_epochs=1),
    last=dict(average="last", accumulate=2, clip_norm=0.), frozen=dict(freeze=1., schedule="flat"),
    slow=dict(layer_decay=.8, name="adam", weight_decay=0.))


def noises():
    "Twelve clips of three classes and a soundscape."
    rng = np.random.default_rng(0)
    store = MemoryStore({k: rng.normal(0, .1, 3 * SR).astype("float32") for k in [*KEYS, "s"]})
    table = pd.DataFrame(dict(recording=KEYS, filename=KEYS, fold=np.arange(12) % 4))
    return SimpleNamespace(store=store, classes=("a", "b", "c"), recordings=table, facts=dict(folds=4))


@pytest.fixture(scope="module")
def data(): return noises()


def train(data, folder, step=supervised, backbone="mobilenetv3_small_050", mel=(32, 2000), fold=0, minutes=None, **optim):
    recipe = Recipe("way").but({"model": dict(backbone=backbone, weights="none", hidden=16), "sampling.window_s": 2.,
                                "frontend": dict(n_mels=mel[0], hop=mel[1]),
                                "optim": dict(epochs=2, batch=3, lr=3e-3) | optim})
    clips = Clips(KEYS, [np.array([[0, 3 * SR]])] * 12, TARGETS, np.ones(12, "float32"), TARGETS.argmax(1))
    torch.manual_seed(0)
    scapes = Scapes(np.array(["s"], object), np.array([3 * SR]))
    return train_run(TrainedModel(recipe, data.classes), data, clips, folder, fold, step, scapes, minutes=minutes)


def test_loggers_get_the_score_on_held_out_clips(data, tmp_path, monkeypatch):
    told = []
    class Note(Logger):
        name, module = "note", "math"
        def open(self, config): told.append(config["optim.batch"])
        def log(self, numbers, epoch): told.append(epoch)
        def close(self, numbers): told.append(numbers)
    monkeypatch.setitem(LOGGERS, "note", Note)
    monkeypatch.setenv("BIRDKIT_LOG", "note")
    _, history = train(data, tmp_path)
    facts = read_json(tmp_path / "metrics.json", "")
    assert told[:3] == [3, 0, 1] and told[3]["auc"] == facts["auc"] == pytest.approx(history.auc.iloc[-1])
    assert (told[3]["epochs"], told[3]["of"], len(told)) == (2, 2, 4)


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_train(way, data, tmp_path):
    model, history = train(data, tmp_path, **WAYS[way])
    assert np.isfinite(history.loss).all() and np.isfinite(history.auc.iloc[-1]) and (history.skipped == 0).all()
    assert {p.name for p in tmp_path.iterdir()} == {"weights.pt", "recipe.json", "classes.json", "history.csv", "oof.csv", "metrics.json"}
    state, again = model.state_dict(), load_model(tmp_path).state_dict()
    assert all(torch.equal(state[k], again[k]) and state[k].isfinite().all() for k in state)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    "The last weights, learnt with the default settings."
    return train(data, tmp_path_factory.mktemp("plain"))[0].state_dict()[LAST]


@pytest.mark.parametrize("setting",
                         [dict(freeze=1.), dict(layer_decay=.8), dict(accumulate=2), dict(clip_norm=.01), dict(weight_decay=0.),
                          dict(schedule="flat"), dict(name="radam"), dict(warmup=.5), dict(precision="bf16")],
                         ids=lambda setting: next(iter(setting)))
def test_each_setting_changes_what_is_learnt(setting, plain, data, tmp_path):
    assert not torch.equal(train(data, tmp_path, **setting)[0].state_dict()[LAST], plain)


@pytest.mark.parametrize("backbone", ["eca_nfnet_l0", "tf_efficientnetv2_b0"])
@pytest.mark.parametrize("batch", [1, 4])
def test_averages_are_sound_where_update_bn_was_not(backbone, batch, data, tmp_path):
    model, _ = train(data, tmp_path, backbone=backbone, mel=(64, 1000), fold="all", batch=batch, average="swa", average_from=0., epochs=2, lr=1e-4)
    assert all(x.isfinite().all() for x in model.state_dict().values())
    assert all(m.running_var.min() >= 0 for m in batch_norms(model))
    assert np.isfinite(model.probabilities(np.random.default_rng(0).normal(size=(2, 1, 64, 64)).astype("float32"))[0]).all()


def bad_from(count):
    def step(learner, batch):
        loss = supervised(learner, batch)
        return loss * math.nan if learner.count >= count else loss
    return step


def test_bad_losses_end_at_the_last_good_checkpoint(data, tmp_path, monkeypatch, capsys):
    import birdkit.training
    monkeypatch.setattr(birdkit.training, "Checkpoint", lambda path, mark, make=birdkit.training.Checkpoint: make(path, mark, 0, 1e9))
    model, history = train(data, tmp_path, bad_from(10), epochs=9)
    said = capsys.readouterr().out
    assert "not finite 5 times in a row; back at the last good checkpoint, after epoch 2 and 3 batches of the next; lower optim.lr" in said
    assert read_json(tmp_path / "metrics.json", "")["epochs"] < 9
    assert all(x.isfinite().all() for x in model.state_dict().values())


def test_one_bad_loss_is_skipped_and_counted(data, tmp_path):
    def step(learner, batch):
        loss = supervised(learner, batch)
        return loss * math.inf if learner.count == 1 else loss
    _, history = train(data, tmp_path, step)
    assert history.skipped.tolist() == [1, 1] and np.isfinite(history.loss).all()


@pytest.mark.parametrize("average", ["ema", "swa", "soup", "last"])
def test_one_infinite_batch_leaves_a_sound_model(average, data, tmp_path):
    def step(learner, batch):
        pictures, sample = inputs_of(learner, clip_sample(learner, batch))
        if learner.count == 4: pictures = tuple(p * math.inf for p in pictures)
        return heard_loss(learner, learner.model.hear(*pictures), sample)
    model, history = train(data, tmp_path, step, average=average, average_from=0.)
    assert history.skipped.tolist() == [0, 1] and np.isfinite(history.auc.iloc[-1])
    assert batch_norms(model) and all(x.isfinite().all() for x in model.state_dict().values())


def test_runs_are_merged_into_a_soup(data, tmp_path):
    for i, name in enumerate(("a", "b")): train(data, tmp_path / name, epochs=1 + i)
    one, two, mean = load_model(tmp_path / "a"), load_model(tmp_path / "b"), soup([tmp_path / "a", tmp_path / "b"])
    for k, v in mean.items():
        if v.is_floating_point(): torch.testing.assert_close(v, (one.state_dict()[k] + two.state_dict()[k]) / 2)
    one.load_state_dict(mean)
    train(data, tmp_path / "other", backbone="mnasnet_small", epochs=1)
    with pytest.raises(KitError, match="part 2 of the soup is another network"): soup([tmp_path / "a", tmp_path / "other"])


@pytest.mark.slow
def test_compiled_backbone(data, tmp_path):
    model, history = train(data, tmp_path, epochs=1, compile=True)
    assert np.isfinite(history.loss).all()
    said, again = (m.probabilities(np.ones((2, 1, 32, 32), "float32"))[0] for m in (model, load_model(tmp_path)))
    assert np.abs(said - again).max() < 1e-4


def test_training_bench_prints_its_table(capsys, monkeypatch):
    sys.path.insert(0, str(ROOT / "tests" / "bench"))
    import training
    monkeypatch.setattr(sys, "argv", ["training", "--backbone", "mobilenetv3_small_050", "--batch", "4", "--turns", "1"])
    training.main()
    said = capsys.readouterr().out
    assert said.count("|") >= 16 and "of the rate with synthetic ones" in said
