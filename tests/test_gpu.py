"What would run on a GPU, on a stand-in for one (fake_gpu.py): nothing meets what lies elsewhere, and the answers are the CPU's."
from contextlib import nullcontext
from dataclasses import fields, replace
from unittest.mock import patch

import numpy as np
import pytest
import test_recipes
import torch
from fake_gpu import CPU, CUDA, fake_gpu
from test_augment import BEHIND, STEPS, a_sample, equal
from test_heads import HEADS, Network
from test_learner import WAYS, noises, train
from test_losses import LOSSES, draw
from test_students import STUDENTS, fit

from birdkit.audio import SR
from birdkit.frontend import Frontend
from birdkit.recipe import all_recipes, find_recipe
from birdkit.trained import on_device


world = test_recipes.world   # A fixture


@pytest.fixture(autouse=True)
def gpu():
    "A machine with a GPU; its many small operations are quicker on one thread."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with fake_gpu(): yield
    torch.set_num_threads(threads)


def moved(sample, device):
    "A sample whose tensors all lie there."
    return replace(sample, **{f.name: v.to(device) for f in fields(sample) if torch.is_tensor(v := getattr(sample, f.name))})


@pytest.mark.parametrize("stage, name", STEPS, ids=map(" ".join, STEPS))
def test_augmentation(stage, name):
    sample = a_sample(stage)
    if name in BEHIND: sample = replace(sample, scape_targets=None)
    here, there = (STEPS[stage, name](moved(sample, device), torch.Generator(device).manual_seed(3), p=1.) for device in ("cpu", "cuda"))
    assert there.x.device == CUDA and equal(moved(there, "cpu"), here)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss(loss):
    z, y, weight = *draw(), torch.tensor([1., .5, 0, 2, 1])
    there = z.to("cuda").requires_grad_()
    value = loss(there, y.to("cuda"), weight=weight.to("cuda"))
    value.backward()
    assert value.device == there.grad.device == CUDA and value.item() == loss(z, y, weight=weight).item()


@pytest.mark.parametrize("name", HEADS)
def test_head(name):
    net = Network(name, {}).eval()
    with torch.no_grad(): here = net.hear(*net.maps(2))
    net.to("cuda")
    there = net.hear(*(m.to("cuda") for m in net.maps(2)))
    (there.clip.sum() + there.frames.sum()).backward()
    assert there.clip.device == CUDA and {p.grad.device for p in net.parameters() if p.grad is not None} == {CUDA}
    for a, b in zip((here.clip, here.frames, here.embedding), (there.clip, there.frames, there.embedding), strict=True): assert torch.equal(a, b.cpu())


FRONTENDS = {repr((m.frontend, m.raw, m.model.inputs, m.sampling.window_s)): m for name in sorted(all_recipes()) for m in find_recipe(name).members()}


@pytest.mark.parametrize("recipe", FRONTENDS.values(), ids=[r.name for r in FRONTENDS.values()])
def test_pictures(recipe):
    frontend, waves = Frontend(recipe), torch.randn(1, int(SR * recipe.sampling.window_s), generator=torch.Generator("cpu").manual_seed(0))
    here, there = frontend(waves), frontend.to("cuda")(waves.to("cuda"))
    assert {x.device for x in there} == {CUDA} and all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))


def places(model):
    "Where a model's weights lie."
    return {x.device for x in model.state_dict().values()}


@pytest.mark.parametrize("how", STUDENTS)
def test_student(how, tmp_path):
    model, history = fit(how, tmp_path)
    assert np.isfinite(history.loss).all() and places(model) == {CPU}


@pytest.mark.parametrize("way", WAYS)
def test_way_to_train(way, tmp_path):
    model, history = train(noises(), tmp_path, **WAYS[way])
    assert np.isfinite(history.loss).all() and np.isfinite(history.auc.iloc[-1]) and places(model) == {CPU}
    with on_device(model): assert places(model) == {CUDA}
    assert places(model) == {CPU}


def test_pictures_of_held_out_clips_that_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("birdkit.heldout.PICTURES_BYTES", 0)
    assert np.isfinite(train(noises(), tmp_path)[1].auc.iloc[-1])


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_stopped_training_goes_on(device, tmp_path, capsys):
    whole, parts = train(noises(), tmp_path / "whole")[0].state_dict(), tmp_path / "parts"
    train(noises(), parts, minutes=1e-9)
    with nullcontext() if device == "cuda" else patch("torch.cuda.is_available", lambda: False): model, _ = train(noises(), parts)
    assert ("going on after epoch 0 and 1 batches" in (said := capsys.readouterr().out)) and ("saved on another device, cuda" in said) == (device == "cpu")
    assert places(model) == {CPU}
    if device == "cuda": assert all(torch.equal(v, model.state_dict()[k]) for k, v in whole.items())


@pytest.mark.parametrize(("world", "name"), test_recipes.worlds(["birdclef2025_02"]), indirect=["world"])
def test_recipe(name, world, tmp_path):
    test_recipes.test_recipe_goes_from_clips_to_submission(name, world, tmp_path)
