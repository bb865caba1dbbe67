"A sweep on a real cluster of processes, one of which is killed."
import json, os, sys, time
from threading import Thread
from types import SimpleNamespace

import psutil
import pytest
from test_fleet import TINY, command, toy_space

from birdkit.core import Workspace, read_table, write_json
from birdkit.fleet import Place, make_runs
from birdkit.runs import list_runs
from birdkit.scenes import SCENES

pytest.importorskip("dask.distributed", reason="dask.distributed is not installed")

STUB = """
import json, os, re, sys, time
from pathlib import Path
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
root, name = Path(given["--work"]), re.search("name: ([^,}]+)", given["--overrides"])[1] + "/fold" + given["--fold"]
def note(what):
    with open(root / "notes.txt", "a") as f: f.write(f"{what} {name}\\n")
note("begin")
(root / f"begun{os.getpid()}").touch()
while not (root / "killed").exists(): time.sleep(.02)
time.sleep(2)
run = root / "runs" / name
run.mkdir(parents=True, exist_ok=True)
(run / "recipe.json").write_text((root / "recipes" / f"{name.split('/')[0]}.json").read_text())
(run / "weights.pt").touch()
(run / "metrics.json").write_text(json.dumps(dict(fold=int(given["--fold"]), seed=int(given["--seed"]), epochs=1, of=1, judged=2)))
note("end")
"""


def at_work(client, root):
    "A worker's process that has a run going, which has told so, and all that this one started."
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for pid in client.run(os.getpid).values():
            family = psutil.Process(pid).children(recursive=True)
            if any((root / f"begun{p.pid}").exists() for p in family): return psutil.Process(pid), family
        time.sleep(.05)


@pytest.mark.parametrize("machine", [True, False], ids=["with its machine", "alone"])
def test_a_lost_worker_loses_no_run(tmp_path, machine):
    from dask.distributed import Client, LocalCluster

    from birdkit.sweep import sweep
    (tmp_path / "stub.py").write_text(STUB)
    space = Workspace.find(tmp_path / "work")
    place = Place(tmp_path, space, program=(sys.executable, "-S", str(tmp_path / "stub.py")))
    runs = make_runs(["tiny"], SimpleNamespace(folder=tmp_path), [0, 1], [0, 1])
    for run in runs: run.recipe.save(space.root / f"recipes/{run.recipe.name}.json")
    tables = []
    with LocalCluster(2, threads_per_worker=1, memory_limit=None, dashboard_address=None) as cluster, Client(cluster) as client:
        thread = Thread(target=lambda: tables.append(sweep(runs, place, client)), daemon=True)
        thread.start()
        found = at_work(client, space.root)
        assert found, "no run has begun in a minute"
        worker, family = found
        for process in (worker, *family * machine): process.kill()
        (space.root / "killed").touch()
        thread.join(120)
        assert tables[0].state.tolist() == ["finished"] * 4
        lines = (space.root / "notes.txt").read_text().splitlines()
        assert sorted(line for line in lines if line.startswith("end")) == sorted(f"end {run.name}" for run in runs)       # each once
        begun = [line.split()[1] for line in lines if line.startswith("begin")]
        assert len(begun) == 4 + machine and set(begun) == {run.name for run in runs}
        for run in runs: assert lines.index(f"end {run.name}") > max(i for i, line in enumerate(lines) if line == f"begin {run.name}")
        assert sweep(runs, place, client).state.tolist() == ["finished"] * 4
    assert (space.root / "notes.txt").read_text().splitlines() == lines                                                    # nothing was done twice
    assert read_table(space.root / "sweep.csv", "").run.tolist() == [run.name for run in runs]


def test_a_real_training(tmp_path):
    comp, space = toy_space(tmp_path)
    words = [sys.executable, "-m", "birdkit.sweep", "--data", comp.folder, "--work", space.root,
             "--recipes", "tiny", "--folds", 0, "--seeds", 1, "--devices", "cpu", "--overrides", json.dumps(TINY)]
    done = command(*words)
    assert done.returncode == 0 and "tiny-s1/fold0  done" in done.stdout, done.stdout + done.stderr[-3000:]
    assert list_runs(space).run.tolist() == ["tiny-s1/fold0"]
    table = read_table(space.root / "sweep.csv", "")
    assert table.state.tolist() == ["finished"] and table.epochs.tolist() == [2]
    assert "1 run, 1 of them finished before" in command(*words).stdout


def test_members_that_are_left_out_are_not_waited_for(tmp_path, monkeypatch):
    "What 04_train leaves of an ensemble without amphibians, before the sweep."
    from birdkit import sweep
    comp, space = toy_space(tmp_path)
    monkeypatch.setattr(sweep, "distributed", lambda: SimpleNamespace(as_completed=iter))
    runs = make_runs(["tiny"], comp, overrides=[{"ensemble.members": [["frogs", {"data.only": ["Amphibia"]}], ["all", {}]]}])
    folder = space.run("tiny-all", 0)
    runs[0].recipe.members()[1].save(folder / "recipe.json")
    (folder / "weights.pt").touch()
    write_json(folder / "metrics.json", dict(fold=0, seed=0, epochs=1, of=1, auc=.75, judged=SCENES))
    table = sweep.sweep(runs, Place(comp.folder, space), None)
    assert table.state.tolist() == ["finished"] and table.auc.tolist() == [.75]


def test_no_scheduler_is_told(tmp_path):
    comp, space = toy_space(tmp_path)
    brief = ("import birdkit.sweep as s; from functools import partial; c = s.distributed().Client; "
             "s.distributed().Client = lambda a, timeout: c(a, timeout=1); s.main()")
    done = command(sys.executable, "-c", brief,
                   "--data", comp.folder, "--work", space.root, "--recipes", "tiny", "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 1 and "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
