"""Decoding a folder into the audio store beside bare soundfile on the same files; then 01_prepare and 02_clean whole, at a quarter of the files and at all.

    python tests/bench/prepare.py                2,000 recordings of 10 to 60 s, medians of 5 turns
    python tests/bench/prepare.py --files 400 --folder DIR      fewer; DIR is filled once and used again

The bare side reads each file whole as float32 and does nothing else; its processes take the next name from one list. A third side also writes
what it has read, as 16-bit numbers and with no thought: what a store of that size costs the system. Each recording is a melody of its own in noise.
"""
import argparse, json, os, re, shutil, statistics, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.audio import SR, write_ogg
from birdkit.threads import cores

BARE = """
import os, sys, soundfile
while name := os.read(0, int(sys.argv[1])).decode().strip(): soundfile.read(name, dtype="float32")
"""
WRITE = """
import os, sys, soundfile
with open(f"{sys.argv[2]}-{os.getpid()}", "wb", buffering=0) as out:
    while name := os.read(0, int(sys.argv[1])).decode().strip(): out.write((32767 * soundfile.read(name, dtype="float32")[0]).astype("<i2"))
"""
BUILD = """
import sys, time
from birdkit.store import build_store
files = {line.rstrip("\\n"): line.rstrip("\\n") for line in sys.stdin}
start = time.perf_counter()
store = build_store(files, sys.argv[1], workers=int(sys.argv[2]))
print("took", time.perf_counter() - start, store.index.samples.sum() / 32_000)
"""

STAGE = """
import json, os, sys, time
from birdkit.clean import clean
from birdkit.cleaning import Cleaning
from birdkit.competition import Competition
from birdkit.core import Workspace
from birdkit.prepare import Prepared, prepare
from birdkit.recipe import find_recipe
space = Workspace.find(sys.argv[2])
comp = Competition.find(sys.argv[1], space)
stages = {"01_prepare": lambda: prepare(comp, space),
          "02_clean": lambda: clean(Cleaning.of(Prepared.load(space.prepared, comp.folder)), find_recipe("base").data.clean)}
begin, busy = time.perf_counter(), sum(os.times()[:4])
stages[sys.argv[3]]()
print(json.dumps(dict(s=time.perf_counter() - begin, cpu_s=sum(os.times()[:4]) - busy)))
"""


def make_file(
    path,  # Where to
    seed,  # Of everything random
):
    "A melody in noise, 10 to 60 s long."
    rng = np.random.default_rng(seed)
    n = int(rng.uniform(10, 60) * SR)
    pitch = np.repeat(rng.uniform(1000, 10_000, n * 5 // SR + 1), SR // 5)[:n]
    tone = np.sin(2 * np.pi / SR * np.cumsum(pitch))
    write_ogg(path, (.2 * tone + rng.normal(0, .02, n)).astype("float32"))


def make_files(
    folder,  # Where to; files that are there already stay
    count,   # Recordings
):           # Paths
    "Recordings, as many at a time as there are cores."
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:05d}.ogg" for i in range(count)]
    missing = [(path, seed) for seed, path in enumerate(files) if not path.exists()]
    with ThreadPoolExecutor(cores()) as pool: list(pool.map(lambda job: make_file(*job), missing))
    return files


def bare(
    files,    # Paths
    workers,  # Processes
    names,    # File that is written: their list
    code=BARE,  # What they do
):            # s
    "Read the files with this many plain processes; they share one place in the list, whose lines are of one length."
    width = max(len(str(f).encode()) for f in files) + 1
    names.write_bytes(b"".join(str(f).encode().ljust(width) for f in files))
    start = time.perf_counter()
    command = [sys.executable, "-c", code, str(width), str(names)]
    with open(names, "rb") as lines:      # a session each, as decoders have: a busy machine deals out its time by sessions
        running = [subprocess.Popen(command, stdin=lines, start_new_session=True) for _ in range(workers)]
    if any([process.wait() for process in running]): raise SystemExit("a bare process failed")
    took = time.perf_counter() - start
    for written in names.parent.glob(f"{names.name}-*"): written.unlink()
    return took


def tree_bytes(pid):
    "Memory of a process and its children that the system cannot take back, mapped files apart; 0 once it has gone."
    try:
        own = sum(int(kb) for kb in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+)", Path(f"/proc/{pid}/status").read_text()))
        children = [int(c) for task in os.listdir(f"/proc/{pid}/task") for c in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError): return 0
    return 1024 * own + sum(map(tree_bytes, children))


def watched(
    code,   # Python text
    words,  # Its arguments
    lines=None,  # Path of its input
):          # What it said last, peak memory of all its processes in bytes
    "Run code in an interpreter of its own."
    with open(lines or os.devnull) as given:
        process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdin=given,
                                   stdout=subprocess.PIPE, text=True, env=os.environ | {"BIRDKIT_QUIET": "1"})
    peak = 0
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid))
        time.sleep(.05)
    if process.returncode: raise SystemExit("a measured process failed")
    return process.stdout.read().splitlines()[-1], peak


def build(
    files,    # Paths
    workers,  # Processes
    folder,   # Of the store; removed before and after
):            # Seconds it took, seconds of sound, peak memory of all its processes in bytes
    "Build a store."
    shutil.rmtree(folder, ignore_errors=True)
    names = folder.with_suffix(".txt")
    names.write_text("".join(f"{f}\n" for f in files))
    said, peak = watched(BUILD, [folder, workers], names)
    shutil.rmtree(folder)
    return *map(float, said.split()[1:]), peak


def measure(
    files,    # Paths
    workers,  # Processes of each side
    turns,    # Both sides in turn, this many times
    folder,   # An empty folder
):            # dict of medians
    "Both sides in the same run."
    quarter, sides = build(files[:len(files) // 4], workers, folder / "store"), []
    for _ in range(turns):
        plain = [bare(files, workers, folder / "names", code) for code in (BARE, WRITE)]
        sides.append((*plain, *build(files, workers, folder / "store")))
        print("  bare {:.1f} s, bare with writing {:.1f} s, store {:.1f} s".format(*sides[-1]), flush=True)
    names = ("bare", "writing", "store", "sound", "peak")
    ratios = dict(ratio=statistics.median(b / s for b, _, s, *_ in sides), written=statistics.median(b / w for b, w, *_ in sides))
    return dict(zip(names, map(statistics.median, zip(*sides)))) | ratios | dict(quarter=quarter[2])


def make_competition(
    files,   # Paths of recordings
    folder,  # Where to
    classes=20,  # Number of classes
):           # The folder
    "A competition of these recordings and no soundscapes."
    labels = [f"class{k:02}" for k in range(classes)]
    (folder / "test_soundscapes").mkdir(parents=True)
    rows = [(labels[i % classes], f"{labels[i % classes]}/{i:05}.ogg") for i in range(len(files))]
    for label in labels: (folder / "train_audio" / label).mkdir(parents=True)
    for path, (_, name) in zip(files, rows): os.link(path, folder / "train_audio" / name)
    pd.DataFrame(rows, columns=["primary_label", "filename"]).assign(secondary_labels="[]", license="cc0").to_csv(folder / "train.csv", index=False)
    pd.DataFrame(dict(primary_label=labels, inat_taxon_id=0, scientific_name=labels, common_name=labels,
                      class_name="Aves")).to_csv(folder / "taxonomy.csv", index=False)
    pd.DataFrame({"row_id": ["x_5"], **dict.fromkeys(labels, 1 / classes)}).to_csv(folder / "sample_submission.csv", index=False)
    return folder


def stages(
    files,   # Paths
    folder,  # An empty folder
):           # DataFrame: stage, files, s, cores (busy on average), mb (peak of all processes)
    "Both notebooks' work, at a quarter of the files and at all."
    lines = []
    for count in (len(files) // 4, len(files)):
        comp, space = make_competition(files[:count], folder / f"data{count}"), folder / f"work{count}"
        for stage in ("01_prepare", "02_clean"):
            said, peak = watched(STAGE, [comp, space, stage])
            took = json.loads(said)
            lines.append(dict(stage=stage, files=count, s=took["s"], cores=took["cpu_s"] / took["s"], mb=peak / 1e6))
        shutil.rmtree(space)
    return pd.DataFrame(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--files", type=int, default=2000, help="recordings")
    p.add_argument("--workers", type=int, default=cores(), help="processes of each side")
    p.add_argument("--turns", type=int, default=5, help="the median of this many")
    p.add_argument("--folder", type=Path, help="where the recordings are made, or lie already")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        files = make_files(a.folder or Path(temp) / "recordings", a.files)
        m, notebooks = measure(files, a.workers, a.turns, Path(temp)), stages(files, Path(temp))
    print(f"{a.files} recordings, {m['sound'] / 3600:.1f} h of sound, {a.workers} processes, median of {a.turns}\n\n"
          "| | s | real time | ratio |\n|---|---|---|---|")
    for name, side, ratio in (("bare soundfile", "bare", 1), ("bare soundfile that writes", "writing", m["written"]), ("audio store", "store", m["ratio"])):
        print(f"| {name} | {m[side]:.1f} | {m['sound'] / m[side]:,.0f}x | {ratio:.0%} |")
    print(f"\npeak memory of all processes: {m['quarter'] / 1e6:.0f} MB at {a.files // 4} files, {m['peak'] / 1e6:.0f} MB at {a.files}\n\n"
          f"{notebooks.round(1).to_markdown(index=False)}")


if __name__ == "__main__":
    main()
