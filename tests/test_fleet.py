"Several processes train one model as one would; several models are trained side by side."
import json, os, re, signal, subprocess, sys, time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from conftest import ROOT
from toys import LABELS, noise, toy_folder

from birdkit.audio import SR, write_ogg
from birdkit.competition import Competition
from birdkit.core import Workspace, write_table
from birdkit.fleet import Place, make_runs, train_all
from birdkit.prepare import prepare
from birdkit.runs import list_runs

TINY = {"model": dict(backbone="mobilenetv3_small_050", weights="none"), "optim": dict(epochs=2, batch=4)}

TWO = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"

TRAIN = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pandas as pd, torch
import torch.distributed as dist
from birdkit.audio import SR
from birdkit.batches import Clips, Scapes
from birdkit.examples import MemoryStore
from birdkit.together import train_together
from birdkit.learner import Callback
from birdkit.recipe import Recipe
from birdkit.trained import TrainedModel
from birdkit.training import train_run

out, minutes = Path(sys.argv[1]), json.loads(sys.argv[2])

class Note(Callback):
    "Writes down the loss of each batch."
    order = 5
    def after_batch(self, learner):
        if dist.is_initialized() and dist.get_rank(): return
        with open(out.with_suffix(".losses"), "a") as f: print(learner.loss.item(), file=f)

torch.set_num_threads(1)
rng = np.random.default_rng(0)
keys = np.array([f"r{i}" for i in range(20)], object)
store = MemoryStore({k: rng.normal(0, .1, 4 * SR).astype("float32") for k in [*keys, "s"]})
targets = np.eye(3, dtype="float32")[np.arange(20) % 3]
clips = Clips(keys, [np.array([[0, 4 * SR]])] * 20, targets, np.ones(20, "float32"), targets.argmax(1))
table = pd.DataFrame(dict(recording=keys, filename=keys, fold=np.arange(20) % 4))
data = SimpleNamespace(store=store, classes=("a", "b", "c"), recordings=table, facts=dict(folds=4))
recipe = Recipe("shared").but({"model": dict(backbone="convnext_atto", weights="none", hidden=16, drop=0., drop_path=0.), "sampling.window_s": 2.,
    "frontend": dict(n_mels=32, hop=2000), "optim": dict(epochs=4, batch=5, lr=1e-3)})
torch.manual_seed(0)
start, scapes = TrainedModel(recipe, data.classes), Scapes(np.array(["s"], object), np.array([4 * SR]))
train_together(lambda folder, callbacks: train_run(start, data, clips, folder, 0, scapes=scapes, minutes=minutes, callbacks=[*callbacks, Note()]), out)
"""


def toy_space(tmp_path):
    "A tiny competition folder with a song for each class, and a workspace after 01_prepare and 02_clean."
    comp, space = Competition.find(str(toy_folder(tmp_path / "toy", audio=True))), Workspace.find(tmp_path / "work")
    t = np.arange(6 * SR) / SR
    for i, path in enumerate(sorted(comp.folder.glob("train_audio/*/*.ogg"))):
        write_ogg(path, (.02 * noise(6, i) + .3 * np.sin(2 * np.pi * 1500 * (1 + LABELS.index(path.parent.name)) * t) * (t % 2 < 1)).astype("float32"))
    data = prepare(comp, space)
    recordings = data.recordings.recording
    write_table(space.clean / "segments.csv", pd.DataFrame({"recording": recordings, "start_s": 0., "end_s": data.recordings.duration_s, "keep": True}))
    write_table(space.clean / "weights.csv", pd.DataFrame({"recording": recordings, "weight": 1.}))
    return comp, space


def command(*words, **options):
    "Run a command in the checkout."
    return subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, **options)


def test_two_processes_are_as_one(tmp_path):
    "No batch norm here, which CPU processes cannot share, and no dropout, of which each process has its own."
    (tmp_path / "train.py").write_text(TRAIN)
    def train(name, minutes, *launcher):
        done = command(sys.executable, *launcher, tmp_path / "train.py", tmp_path / name, json.dumps(minutes))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout
    train("one", None)
    assert train("two", 1e-6, *TWO).count("time is up") == 1           # both stop by the first one's clock, and it alone speaks
    train("two", None, *TWO)
    one, both = ([float(x) for x in (tmp_path / f"{name}.losses").read_text().split()] for name in ("one", "two"))
    assert len(one) == len(both) == 12 and len(set(one)) == 12
    assert max(abs(a - b) for a, b in zip(one, both)) < 1e-5
    a, b = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two"))
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)
    assert {p.name for p in (tmp_path / "two").iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}
    assert "is trained already" in train("two", None, *TWO)            # nobody waits for a training that does not begin


def test_train_command(tmp_path):
    comp, space = toy_space(tmp_path)
    words = ["train", "--data", comp.folder, "--work", space.root, "--recipe", "tiny", "--fold", 0, "--overrides", json.dumps(TINY)]
    done = command(sys.executable, *TWO, "-m", "birdkit.fleet", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    table = list_runs(space)
    assert table.run.tolist() == ["tiny/fold0"] and table.state.tolist() == ["finished"] and table.epochs.tolist() == [2]
    assert "is trained already" in command(sys.executable, "-m", "birdkit.fleet", *words).stdout        # one process finds the run of two


def test_folds_side_by_side(tmp_path):
    comp, space = toy_space(tmp_path)
    folds = [sys.executable, "-m", "birdkit.fleet", "folds", "--data", comp.folder, "--work", space.root, "--recipe", "tiny", "--folds", 0, 1, "--seeds", 0, 1,
             "--devices", "cpu", "cpu", "--overrides", json.dumps(TINY)]
    for name in ("tiny", "tiny-s1"):        # in the way of two runs
        space.run(name, 1).parent.mkdir(parents=True, exist_ok=True)
        space.run(name, 1).touch()
    done = command(*folds)
    assert "4 runs, 0 of them finished before; on cpu, cpu" in done.stdout, done.stderr[-3000:]
    assert done.stdout.count("failed after") == 2 and all("fold1" in line for line in re.findall("failed after.*", done.stdout))          # why it failed
    assert "2 of 4 runs failed; their logs are in" in done.stderr and done.returncode == 1
    table = list_runs(space)
    assert table.run.tolist() == ["tiny/fold0", "tiny-s1/fold0"] and set(table.state) == {"finished"} and table.seed.tolist() == [0, 1]
    again = command(*folds[:-2], "--overrides", json.dumps(TINY))
    assert "4 runs, 2 of them finished before" in again.stdout


def test_an_ensemble_is_finished_without_the_specialists_that_are_left_out(tmp_path):
    "The first member would learn amphibians, and there are none."
    comp, space = toy_space(tmp_path)
    changes = TINY | {"ensemble.members": [["frogs", {"data.only": ["Amphibia"]}], ["all", {}]]}
    folds = [sys.executable, "-m", "birdkit.fleet", "folds", "--data", comp.folder, "--work", space.root,
             "--recipe", "tiny", "--devices", "cpu", "--overrides", json.dumps(changes)]
    done = command(*folds)
    assert done.returncode == 0 and "1/1  tiny/fold0  cpu  finished" in done.stdout, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("tiny-frogs is left out") == 1 and list_runs(space).run.tolist() == ["tiny-all/fold0"]
    assert "1 run, 1 of them finished before" in command(*folds).stdout


def test_an_end_without_results_stops_nothing(tmp_path, capsys):
    place = Place(tmp_path, Workspace.find(tmp_path / "work"), program=(sys.executable, "-S", "-c", "pass"))
    train_all(make_runs(["tiny"], SimpleNamespace(folder=tmp_path), [0, 1]), place, ["cpu"])
    said = capsys.readouterr().out.splitlines()
    assert [line[:15] for line in said[1:]] == ["1/2  tiny/fold0", "2/2  tiny/fold1"]
    assert all("metrics.json is missing: train again" in line for line in said[1:])


CHILDREN = """
import subprocess, sys
from birdkit.processes import side_by_side
nap = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(300)'])"
def start(job, slot):
    print("started", flush=True)
    return subprocess.Popen([sys.executable, "-S", "-c", nap], start_new_session=True)
list(side_by_side(range(4), start, 2))
"""


def test_interrupt_ends_all_children():
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)      # what is started in the background may have been told to ignore it
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", CHILDREN], cwd=ROOT, preexec_fn=heeds, **pipes) as parent:
        for _ in range(2): assert parent.stdout.readline() == "started\n"
        process, until = psutil.Process(parent.pid), time.monotonic() + 30
        while len(family := process.children(recursive=True)) < 4 and time.monotonic() < until: time.sleep(.1)
        os.kill(parent.pid, signal.SIGINT)
        assert parent.wait(30) != 0
    _, alive = psutil.wait_procs(family, 10)
    assert len(family) == 4 and not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


KILLED = """
import sys
from pathlib import Path
from types import SimpleNamespace
from birdkit.core import Workspace
from birdkit.fleet import Place, make_runs, train_all
here, nap = Path(sys.argv[1]), (sys.executable, "-S", "-c", "import time; time.sleep(300)")
train_all(make_runs(["tiny"], SimpleNamespace(folder=here), [0, 1]), Place(here, Workspace.find(here / "work"), program=nap), ["cpu", "cpu"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a child that its parent was killed")
def test_a_fleet_that_is_killed_leaves_no_training_behind(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline().startswith("2 runs")
        process, until = psutil.Process(parent.pid), time.monotonic() + 60
        while len(family := [p for p in process.children() if "-S" in p.cmdline()]) < 2 and time.monotonic() < until: time.sleep(.1)
        parent.kill()
    _, alive = psutil.wait_procs(family, 10)
    assert len(family) == 2 and not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_cores_are_those_that_the_process_may_use():
    modules = sorted((ROOT / "birdkit").glob("*.py"))
    assert [m.name for m in modules if "cpu_count" in m.read_text()] == ["threads.py"]     # threads.cores: in a batch job they are fewer than the machine's


@pytest.mark.parametrize("words, said",
                         [(("folds", "--devices", "cuda:7"), "device 'cuda:7' is not here"), (("train", "--recipe", "smal"), "recipe 'smal' is unknown")])
def test_mistakes_are_one_line(words, said, tmp_path):
    done = command(sys.executable, "-m", "birdkit.fleet", *words, "--data", toy_folder(tmp_path / "toy"), "--work", tmp_path / "work")
    assert done.returncode == 1 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
