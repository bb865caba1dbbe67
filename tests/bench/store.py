"""Random 5-s windows: from the audio store, and by seeking in OGG and FLAC files and with librosa; and whole OGG files. In one process on one core.

    python tests/bench/store.py                  40 recordings of a minute, medians of 5 turns
"""
import argparse, os, statistics, tempfile, time
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import librosa
import numpy as np
import soundfile as sf

from birdkit.audio import SR, decode, decode_window, write_ogg
from birdkit.store import build_store

WINDOW_S = 5


def make_recordings(
    folder,  # Where to
    count,   # Recordings
    long_s,  # Duration, s
):           # Keys
    "Noise and sweeps, each as OGG and as FLAC; links stand for all but ten of them."
    rng, t = np.random.default_rng(0), np.arange(long_s * SR) / SR
    for i in range(min(count, 10)):
        x = (.2 * np.sin(2 * np.pi * (900 + 20 * i * t) * t) + rng.normal(0, .02, len(t))).astype("float32")
        sf.write(folder / f"{i}.flac", x, SR)
        write_ogg(folder / f"{i}.ogg", x)
    for i in range(10, count):
        for ending in ("ogg", "flac"): os.link(folder / f"{i % 10}.{ending}", folder / f"{i}.{ending}")
    return [str(i) for i in range(count)]


def seek_read(path, start):
    "What most loaders do."
    with sf.SoundFile(path) as f:
        f.seek(start)
        return f.read(WINDOW_S * SR, dtype="float32")


def ways(
    folder,  # Of the recordings
    keys,    # Their names
):           # {name: function of a key and a first sample}
    "The ways to read a window."
    store = build_store({key: folder / f"{key}.ogg" for key in keys}, folder / "store")
    return {"audio store": lambda key, start: store.window(key, start, WINDOW_S * SR),
            "FLAC, soundfile seek and read": lambda key, start: seek_read(folder / f"{key}.flac", start),
            "OGG, soundfile seek and read": lambda key, start: seek_read(folder / f"{key}.ogg", start),
            "OGG, decode_window (exact)": lambda key, start: decode_window(folder / f"{key}.ogg", start, WINDOW_S * SR),
            "OGG, librosa.load": lambda key, start: librosa.load(folder / f"{key}.ogg", sr=None, offset=start / SR, duration=WINDOW_S)[0]}


def rate(
    way,    # Function of a key and a first sample
    plan,   # Pairs of key and first sample
    for_s,  # At most so long, s
):          # Windows a second
    "Read windows for a while."
    start = time.perf_counter()
    for done, (key, first) in enumerate(plan, 1):
        assert len(way(key, first)) == WINDOW_S * SR
        if time.perf_counter() - start > for_s: break
    return done / (time.perf_counter() - start)


def table(
    folder,  # An empty folder
    count,   # Recordings
    long_s,  # Duration of each, s
    turns,   # The median of this many counts
    for_s,   # Seconds of each way in each turn
):           # {name: windows a second}
    "All ways in turn, several times; the first turn warms up."
    keys, rng = make_recordings(folder, count, long_s), np.random.default_rng(1)
    sides = ways(folder, keys)
    rates = {name: [] for name in sides}
    for _ in range(turns + 1):
        plan = [(keys[i], int(s)) for i, s in zip(rng.integers(0, count, 20_000), rng.integers(0, (long_s - WINDOW_S) * SR, 20_000))]
        for name, way in sides.items(): rates[name].append(rate(way, plan, for_s))
    return {name: statistics.median(r[1:]) for name, r in rates.items()}


def whole_files(
    folder,  # Of the recordings
    keys,    # Their names, ten are read
    turns,   # The median of this many
):           # {name: ms a file}
    "Whole OGG files in turn; the first turn warms up."
    sides = {"soundfile.read": lambda path: sf.read(path, dtype="float32"), "decode": decode, "librosa.load": lambda path: librosa.load(path, sr=None)}
    spent = {name: [] for name in sides}
    for _ in range(turns + 1):
        for name, read in sides.items():
            start = time.perf_counter()
            for key in keys[:10]: read(folder / f"{key}.ogg")
            spent[name].append(1e3 * (time.perf_counter() - start) / len(keys[:10]))
    return {name: statistics.median(s[1:]) for name, s in spent.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recordings", type=int, default=40, help="how many")
    p.add_argument("--seconds", type=int, default=60, help="duration of each, s")
    p.add_argument("--turns", type=int, default=5, help="the median of this many counts")
    p.add_argument("--each", type=float, default=1., help="seconds of each way in each turn")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = table(Path(folder), a.recordings, a.seconds, a.turns, a.each)
        spent = whole_files(Path(folder), list(map(str, range(a.recordings))), a.turns)
    print(f"\n{a.recordings} recordings of {a.seconds} s, one core, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n"
          "| random 5-s windows from | a second | ms each |\n|---|---|---|")
    for name, r in rates.items(): print(f"| {name} | {r:,.0f} | {1e3 / r:.2f} |")
    print("\n| whole OGG files by | ms each |\n|---|---|\n" + "\n".join(f"| {name} | {ms:.1f} |" for name, ms in spent.items()))


if __name__ == "__main__":
    main()
