"Real recordings, where they lie beside the checkout; everywhere else these tests skip."
import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT

from birdkit.competition import Competition
from birdkit.core import Workspace
from birdkit.metrics import macro_auc
from birdkit.prepare import prepare
from birdkit.vorbis import open_vorbis

REAL = ROOT.parent / "shared/realset"
pytestmark = pytest.mark.skipif(not REAL.exists(), reason="no real recordings beside the checkout")


def test_real_folder_is_read_and_decoded(tmp_path):
    comp = Competition.find(str(REAL))
    data = prepare(comp, Workspace.find(tmp_path))
    assert (comp.year, len(comp.classes), len(data.recordings), len(data.soundscapes), len(comp.test_files)) == (2025, 30, 206, 40, 24)
    assert data.bad.empty and "47144" in comp.classes
    assert data.recordings.duration_s.between(3, 21).all() and (data.soundscapes.duration_s == 60).all()
    assert {comp.rows(f) for f in comp.test_files} == {12}


def test_constant_scores_are_worth_a_half():
    truth = Competition.find(str(REAL)).truth()
    scores = truth.assign(**dict.fromkeys(truth.columns[1:], .5))
    assert macro_auc(truth, scores) == .5


def test_both_decoders_agree():
    for path in sorted(REAL.rglob("*.ogg"))[::5]:
        with open_vorbis(path) as f: found = f.read(f.frames)
        known = sf.read(path, dtype="float32", always_2d=True)[0]
        assert found.shape == known.shape and np.abs(found - known).max() < 1e-6, path
