"What every augmentation step must keep to, whatever else it does."
from dataclasses import astuple, replace
from functools import partial

import pytest
import torch

from birdkit.augment import PICTURE, POWER, WAVE
from birdkit.mixing import Sample

SHAPES = {"wave": (6, 16_000), "power": (6, 32, 50), "picture": (6, 3, 32, 50)}
BANK = torch.linspace(-1, 1, 5 * 16_000).reshape(5, 16_000)
TABLES = {"wave": WAVE | {"add_bank": partial(WAVE["add_bank"], bank=BANK)}, "power": POWER, "picture": PICTURE}
STEPS = {(stage, name): step for stage, table in TABLES.items() for name, step in table.items()}


BEHIND = ("add_background", "background_snr")   # Soundscape windows with labels are not put behind clips


def a_sample(stage):
    "A random batch with everything a step may ask for; energies are not below 0."
    gen = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(shape, generator=gen)
    x = draw(*SHAPES[stage]) - (.5 if stage == "wave" else 0)
    return Sample(x=x, targets=torch.eye(6, 9), weight=draw(6), scape=draw(*x.shape) - .5, scape_targets=draw(6, 9))


def run(step, sample, **keywords):
    "One step, always from the same seed."
    return step(sample, torch.Generator().manual_seed(3), **keywords)


def equal(a, b):
    "Are two samples alike in every part, to the last bit?"
    return all(u is v or torch.equal(u, v) for u, v in zip(astuple(a), astuple(b), strict=True))


@pytest.fixture(params=STEPS, ids=" ".join)
def case(request):
    "A step and a batch for it."
    sample = a_sample(request.param[0])
    return STEPS[request.param], replace(sample, scape_targets=None) if request.param[1] in BEHIND else sample


def test_nothing_at_p_0(case):
    step, sample = case
    assert equal(run(step, sample, p=0.), sample)


def test_something_at_p_1(case):
    step, sample = case
    assert not torch.equal(run(step, sample, p=1.).x, sample.x)


def test_same_seed_same_batch(case):
    step, sample = case
    assert equal(run(step, sample, p=1.), run(step, sample, p=1.))


def test_input_stays(case):
    step, sample = case
    before = replace(sample, **{name: value.clone() for name, value in vars(sample).items() if torch.is_tensor(value)})
    run(step, sample, p=1.)
    assert equal(sample, before)


def test_shapes_types_and_ranges(case):
    step, sample = case
    given, out = ({k: v for k, v in vars(s).items() if torch.is_tensor(v)} for s in (sample, run(step, sample, p=1.)))
    assert {k: (v.shape, v.dtype) for k, v in given.items()} == {k: (v.shape, v.dtype) for k, v in out.items()}
    for name in {"targets", "scape_targets"} & set(out): assert 0 <= out[name].min() and out[name].max() <= 1, name


def test_silence_stays_finite(case):
    step, sample = case
    silent = replace(sample, x=torch.zeros_like(sample.x), scape=torch.zeros_like(sample.x))
    assert run(step, silent, p=1.).x.isfinite().all()
