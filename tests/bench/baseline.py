"""What the simplest model reaches: log-mel means and deviations of 5-s windows, logistic regression.

    python tests/bench/baseline.py FOLDER      a competition folder with the truth of its test soundscapes beside it
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from birdkit.audio import ROW_S, SR, cut, decode
from birdkit.competition import Competition, row_ids
from birdkit.mel import mel_power
from birdkit.metrics import macro_auc
from birdkit.recipe import Mel

MEL = Mel(n_mels=64, hop=800)


def features(
    samples,  # (T,) float32 at 32 kHz
):            # (128,): mean and standard deviation of each band, dB
    "Statistics of one window."
    db = 10 * np.log10(mel_power(samples, MEL) + 1e-10)
    return np.concatenate([db.mean(1), db.std(1)])


def windows(
    path,       # A recording
    rows=None,  # Number of 5-s windows, by default as many as fit, at least one
):              # (rows, 128)
    "Statistics of a recording's windows."
    samples = decode(path).samples
    rows = rows or max(1, len(samples) // (ROW_S * SR))
    return np.stack([features(cut(samples, i * ROW_S * SR, ROW_S * SR)) for i in range(rows)])


def main(
    folder,  # Competition folder
):           # Macro ROC-AUC on its test soundscapes
    "Train on focal clips, score test soundscapes."
    comp = Competition.find(folder)
    clips = [windows(comp.audio / name) for name in comp.recordings.filename]
    labels = np.repeat(comp.recordings.primary_label.to_numpy(), [len(c) for c in clips])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(np.concatenate(clips), labels)
    scores = np.concatenate([model.predict_proba(windows(f, comp.rows(f))) for f in comp.test_files])
    ids = [i for f in comp.test_files for i in row_ids(f.stem, comp.rows(f))]
    table = pd.DataFrame(scores, columns=list(model.classes_)).reindex(columns=comp.classes, fill_value=0.)
    return macro_auc(comp.truth(), table.assign(row_id=ids))


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", metavar="FOLDER", help="competition folder")
    folder = p.parse_args().folder
    print(f"{Path(folder).name}: log-mel statistics with logistic regression, macro ROC-AUC {main(folder):.4f}")
