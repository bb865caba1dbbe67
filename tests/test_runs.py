"Runs are listed whatever state they are in, and loggers never disturb a training."
import subprocess, sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from birdkit.core import write_json
from birdkit.learner import Learner
from birdkit.loggers import Logger, TensorBoardLog, loggers_from_env
from birdkit.recipe import Recipe
from birdkit.runs import list_runs


class Points:
    "Four batches of x and y = 3 x + 1."
    def __len__(self): return 4
    def epoch(self, number, first=0):
        for i in range(first, 4):
            x = torch.rand(8, 1, generator=torch.Generator().manual_seed(10 * number + i))
            yield SimpleNamespace(to=lambda device, x=x: SimpleNamespace(x=x, y=3 * x + 1))


def line(learner, batch): return (learner.model(batch.x) - batch.y + torch.randn(1, generator=learner.gen)).square().mean()


def fit(*callbacks, epochs=3):
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    model.recipe = Recipe("toy")
    learner = Learner(model, Points(), line, torch.optim.Adam(model.parameters(), .1), callbacks).fit(epochs)
    learner.call("tidy")
    return learner


def command(*arguments, code="from birdkit.runs import main; main()"):
    "The command in a process without torch, which it must not need."
    whole = [sys.executable, "-c", f"import sys; sys.modules['torch'] = None; {code}", *map(str, arguments)]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True)


def toy_run(folder, auc, **changes):
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text("epoch,loss,lr,seconds,auc\n0,1.5,0.1,2,\n1,1.0,0.0,2," + f"{auc}\n")
    Recipe("toy").but(changes).save(folder / "recipe.json")
    (folder / "weights.pt").write_bytes(b"w")
    write_json(folder / "metrics.json", dict(fold=0, seed=0, epochs=2, of=2, minutes=.1, auc=auc))
    return folder


def test_the_command_lists_compares_and_plots(tmp_path):
    for name, auc, lr in (("a", .7, 5e-5), ("b", .8, 1e-4)): toy_run(tmp_path / f"runs/{name}/fold0", auc, **{"optim.lr": lr})
    table = command("--work", tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["run", "a/fold0", "b/fold0"] and "0.8000" in table[2]
    both = command("--work", tmp_path, "--compare", "a", "b", "--plot", tmp_path / "both.png")
    assert [line.split() for line in both.stdout.splitlines() if "optim.lr" in line] == [["optim.lr", "5e-05", "0.0001"]], both.stderr
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"
    mistakes = (["--compare", "c", "a"], "there is no run 'c'"), (["--compare", "a"], "two different runs"), (["--plot", "x.wav"], "x.wav: pictures")
    for wrong, said in mistakes:
        done = command("--work", tmp_path, *wrong)
        assert done.returncode == 1 and done.stderr.startswith("KitError: ") and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert "is not a folder" in command("--work", tmp_path / "none").stderr and not (tmp_path / "none").exists()


BROKEN = {"metrics.json": ["", "[1, 2]", '{"auc": .', b"\xff\xfe"], "recipe.json": ["{", "null"],
          "history.csv": ["", "a,b\n1,2\n", b"\xff\x00", 'epoch,loss\n"']}


@pytest.mark.parametrize("name,content", [(name, c) for name, contents in BROKEN.items() for c in contents])
def test_a_damaged_file_is_named_and_harms_no_other_run(tmp_path, name, content):
    toy_run(tmp_path / "good/fold0", .7)
    bad = toy_run(tmp_path / "bad/fold0", .9) / name
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = list_runs(tmp_path).set_index("run")
    assert table.state.to_dict() == {"bad/fold0": f"broken: {name}", "good/fold0": "finished"}
    assert table.auc["good/fold0"] == .7


def test_odd_values_and_empty_folders(tmp_path):
    write_json(toy_run(tmp_path / "a/fold0", .7) / "metrics.json", dict(auc=None, epochs="two", of=2.5, minutes=float("inf"), fold=[1], seed=None))
    (tmp_path / "empty/fold0").mkdir(parents=True)
    (tmp_path / "half/fold0").mkdir(parents=True)
    (tmp_path / "half/fold0/last.pt").write_bytes(b"x")
    (tmp_path / "c/fold0/metrics.json").mkdir(parents=True)         # a folder by that name is no file
    table = list_runs(tmp_path)
    assert table.run.tolist() == ["a/fold0", "half/fold0"]
    assert table.state.tolist() == ["finished", "unfinished"]


class Broken(Logger):
    "A tool that fails at one of its moments."
    name, module = "broken", "json"
    def __init__(self, folder, moment):
        super().__init__(folder)
        self.moment, self.calls = moment, []
    def _note(self, what):
        self.calls.append(what)
        if what == self.moment: raise OSError("disk full\nand more")
    def open(self, config): self._note("open")
    def log(self, numbers, epoch): self._note("log")
    def close(self, numbers): self._note("close")


@pytest.mark.parametrize("moment,calls", [("open", ["open"]), ("log", ["open", "log"]), ("close", ["open", "log", "log", "log", "close"])])
def test_a_logger_that_fails_says_so_once_and_changes_nothing(tmp_path, capsys, moment, calls):
    logger = Broken(tmp_path, moment)
    assert torch.equal(fit(logger).model.weight, fit().model.weight)
    assert logger.calls == calls
    assert capsys.readouterr().out == "no more broken log: OSError: disk full\n"


def test_tensorboard_holds_the_history_the_recipe_and_the_end(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    write_json(tmp_path / "metrics.json", dict(auc=.75, mark="a"))
    fit(TensorBoardLog(tmp_path), epochs=2)
    learner = fit(TensorBoardLog(tmp_path))                         # a second session tells all epochs again
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in seen.Scalars("loss")] == [0, 1, 2]
    assert [e.value for e in seen.Scalars("loss")] == pytest.approx([row["loss"] for row in learner.history])
    assert seen.Scalars("final/auc")[-1].value == pytest.approx(.75)
    assert b"optim.lr | 0.001" in seen.Tensors("recipe/text_summary")[-1].tensor_proto.string_val[0]


def test_without_the_variable_there_is_no_logger(monkeypatch, tmp_path):
    monkeypatch.delenv("BIRDKIT_LOG", raising=False)
    assert loggers_from_env(tmp_path) == []
