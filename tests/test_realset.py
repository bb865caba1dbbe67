"Real recordings in the layout of BirdCLEF+ 2025: the folder that BIRDKIT_REAL names; without it these tests skip."
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from birdkit.competition import Competition
from birdkit.core import Workspace
from birdkit.metrics import macro_auc
from birdkit.prepare import prepare
from birdkit.vorbis import open_vorbis

REAL = Path(os.environ.get("BIRDKIT_REAL", ""))
pytestmark = pytest.mark.skipif(REAL == Path(), reason="BIRDKIT_REAL names no folder of real recordings")


def test_real_folder_is_read_and_decoded(tmp_path):
    comp = Competition.find(str(REAL))
    data = prepare(comp, Workspace.find(tmp_path))
    assert comp.year == 2025 and list(comp.classes) == list(pd.read_csv(REAL / "sample_submission.csv").columns[1:])
    assert data.bad.empty and set(data.recordings.filename) == set(pd.read_csv(REAL / "train.csv").filename)
    assert len(data.soundscapes) == len(list((REAL / "train_soundscapes").iterdir())) and (data.soundscapes.duration_s - 60).abs().max() < .1
    assert (data.recordings.duration_s > 0).all() and {comp.rows(f) for f in comp.test_files} <= {12}


def test_constant_scores_are_worth_a_half():
    truth = Competition.find(str(REAL)).truth()
    if truth is None: pytest.skip("the folder holds no truth of its test soundscapes")
    scores = truth.assign(**dict.fromkeys(truth.columns[1:], .5))
    assert macro_auc(truth, scores) == .5


def test_both_decoders_agree():
    for path in sorted(REAL.rglob("*.ogg"))[::5]:
        with open_vorbis(path) as f: found = f.read(f.frames)
        known = sf.read(path, dtype="float32", always_2d=True)[0]
        assert found.shape == known.shape and np.abs(found - known).max() < 1e-6, path
