"""How often is a song taken for speech, and how much speech is found, with Silero's own numbers and with others?

    python tests/bench/speech.py --data DATA       a competition folder; every clip of it is heard

Songs: clips with a stretch that would be cut, and its seconds; the recordings are taken to hold no voice, so look at what is listed.
Speech: the share that is found of synthesised announcements of 3 s, mixed into clips at so many dB of the clip's RMS.
"""
import argparse, sys
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.audio import SR, decode
from birdkit.competition import Competition
from birdkit.speech import SPOKEN_S, SURE, speech_probs, speech_segments
from birdkit.threads import ahead

sys.path.insert(0, str(Path(__file__).parents[2] / "data_prep"))
from synth import speech

SETTINGS = {"Silero's": (.5, .25), "longer": (.5, SPOKEN_S), "surer": (SURE, .25), "birdkit's": (SURE, SPOKEN_S), "surest": (.9, SPOKEN_S)}
LEVELS_DB, SAID_S = (-10, -5, 0, 5), 3


def mixed(samples, level_db, rng):
    "A clip with an announcement, and where that begins, s."
    said, at = speech(SAID_S, rng), rng.integers(0, len(samples) - SAID_S * SR)
    said *= 10 ** (level_db / 20) * np.sqrt(np.mean(samples ** 2) / np.mean(said ** 2))
    return samples + np.pad(said, (at, len(samples) - at - len(said))), at / SR


def found_share(spans, start_s):
    "How much of an announcement lies in spans."
    return sum(max(0, min(b, start_s + SAID_S) - max(a, start_s)) for a, b in spans) / SAID_S


def measure(files, mixes=50, seed=0):
    "DataFrame, a line for each of SETTINGS, and {file: stretches} of Silero's."
    waves, rng = list(ahead(lambda path: decode(path).samples, files)), np.random.default_rng(seed)
    alone = [speech_probs(x) for x in waves]
    long = [x for x in waves if len(x) > (SAID_S + 1) * SR and x.any()]
    spoken = {db: [mixed(long[rng.integers(len(long))], db, rng) for _ in range(mixes)] for db in LEVELS_DB}
    probs = {db: [(speech_probs(x), at) for x, at in pairs] for db, pairs in spoken.items()}
    lines = {}
    for name, (threshold, least_s) in SETTINGS.items():
        spans = lambda p: speech_segments(p, threshold, min_speech_s=least_s)
        wrong = [spans(p) for p in alone]
        lines[name] = dict(threshold=threshold, min_speech_s=least_s, clips=sum(map(bool, wrong)), seconds=sum(b - a for x in wrong for a, b in x),
                           **{f"{db} dB": np.mean([found_share(spans(p), at) for p, at in pairs]) for db, pairs in probs.items()})
    return pd.DataFrame(lines).T, {str(f): x for f, p in zip(files, alone) if (x := speech_segments(p))}


def main(arguments=None):
    "The table, and what Silero's numbers would cut."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--mixes", type=int, default=50)
    given = parser.parse_args(arguments)
    comp = Competition.find(given.data)
    table, cut = measure(sorted((comp.folder / "train_audio").rglob("*.ogg")), given.mixes)
    print(table.to_markdown(floatfmt=".2f"), *(f"{file}: {', '.join(f'{a:.2f} to {b:.2f} s' for a, b in x)}" for file, x in cut.items()), sep="\n")
    return table


if __name__ == "__main__": main()
