"Every post-processing step and every blend: shape, dtype, range, and the smallest inputs."
import subprocess, sys

import numpy as np
import pytest
from conftest import ROOT

from birdkit.blend import BLENDS, RELATIVE, blend
from birdkit.core import KitError
from birdkit.post import POST, apply_post, apply_sheet

CLASSES = 40
ARGUMENTS = dict(class_smooth=("taxon",), group_mix=("genus",), group_max=("genus",), add_prior=("prior",))
STEADY = ("smooth", "gaussian", "neighbour_max", "adaptive_smooth", "class_smooth", "mix_mean", "min_max")   # Leave a constant file as it is


def step(name):
    "A step with the arguments it cannot do without."
    return name, *ARGUMENTS.get(name, ())


def facts(files):
    "What the steps ask of the competition."
    genus = np.repeat(np.arange(CLASSES // 2), 2).astype(str)
    return dict(taxon=np.resize(["Aves", "Insecta"], CLASSES), genus=genus, prior=np.full((files, CLASSES), .2))


def draw(*shape, dtype="float32"):
    "Scores with exact zeros, ones and ties."
    return np.random.default_rng(1).choice([0, .001, .3, .3, .9, 1], shape).astype(dtype)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("files, rows", [(3, 12), (1, 12), (2, 1), (1, 2), (0, 12)])
@pytest.mark.parametrize("name", POST)
def test_step(name, files, rows, dtype):
    probs = draw(files, rows, CLASSES, dtype=dtype)
    before = probs.copy()
    after = apply_post(probs, [step(name)], **facts(files))
    assert after.shape == probs.shape and after.dtype == probs.dtype
    assert np.isfinite(after).all() and (after >= 0).all() and (after <= 1).all()
    assert (probs == before).all(), "a step changed its input"


@pytest.mark.parametrize("name", STEADY)
def test_constant_file_stays(name):
    flat = np.tile(np.linspace(.1, .9, CLASSES), (2, 12, 1))
    assert np.allclose(apply_post(flat, [step(name)], **facts(2)), flat)


@pytest.mark.parametrize("name", POST)
def test_nan_is_refused(name):
    probs = draw(2, 12, CLASSES)
    probs[1, 3, 5] = np.nan
    with pytest.raises(KitError, match="NaN in 1 of 2 files"): POST[name](probs, *(facts(2)[a] for a in ARGUMENTS.get(name, ())))


@pytest.mark.parametrize("name", sorted(set(POST) - {"min_max"}))
def test_files_do_not_meet(name):
    probs = draw(3, 12, CLASSES)
    alone = [apply_post(p[None], [step(name)], **facts(1))[0] for p in probs]
    assert np.allclose(apply_post(probs, [step(name)], **facts(3)), alone, atol=1e-6)


@pytest.mark.parametrize("name", POST)
def test_sheet_is_the_array(name):
    probs = draw(3, 4, CLASSES)
    spans = [slice(0, 4), slice(4, 8), slice(8, 12)]
    sheet = apply_sheet(probs.reshape(12, CLASSES), spans, [step(name)], **facts(3))
    assert np.allclose(sheet.reshape(probs.shape), apply_post(probs, [step(name)], **facts(3)), atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [30, 1])
@pytest.mark.parametrize("how", BLENDS)
def test_blend(how, rows, dtype):
    stack = draw(3, rows, 6, dtype=dtype)
    stack[0, 0], stack[1, :, 2], stack[:, 0, 3] = np.nan, np.nan, np.nan       # unheard, unknown, scored by nobody
    before = stack.copy()
    mixed = blend(stack, (1, 2, 3), how, fallback=np.full(6, .25))
    assert np.array_equal(stack, before, equal_nan=True), "a blend changed its input"
    assert mixed.shape == (rows, 6) and mixed.dtype == stack.dtype
    assert np.isfinite(mixed).all() and (mixed >= 0).all() and (mixed <= 1).all()
    assert np.isclose(mixed[0, 3], np.median(mixed[1:, 3]) if how in RELATIVE and rows > 1 else .25)


@pytest.mark.parametrize("how", RELATIVE)
def test_rows_nobody_heard_stand_in_the_middle(how):
    rng = np.random.default_rng(4)
    heard = rng.uniform(.05, .1, (2, 200, 3))
    heard[:, :60] = np.nan                                                     # a third of the files, and low scores of about the prior
    mixed = blend(heard, how=how, fallback=np.full(3, .05))
    assert (mixed[:60] == np.median(mixed[60:], 0)).all()


@pytest.mark.parametrize("how", BLENDS)
def test_order_of_models_does_not_matter(how):
    stack = np.random.default_rng(2).random((3, 50, 4))
    if how == "matched_mean": stack[1:] = np.sort(stack[0], 0)                 # all have one distribution: any may be the reference
    assert np.allclose(blend(stack, (1, 2, 3), how), blend(stack[::-1], (3, 2, 1), how))


@pytest.mark.parametrize("how", sorted(set(BLENDS) - {"minimum"}))
def test_one_model_keeps_its_ranking(how):
    scores = np.random.default_rng(3).random((50, 4))
    assert (blend(scores[None], how=how).argsort(0) == scores.argsort(0)).all()


def test_serving_needs_no_training_code():
    code = "import sys\nfor name in ('torch', 'sklearn', 'scipy'): sys.modules[name] = None\nimport birdkit.post, birdkit.blend"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
