"Mistakes on a command line: one line that names the thing and what to do, and no traceback; help that is right."
import importlib, subprocess, sys, time

import nbformat, psutil, pytest
from conftest import ROOT, papermill
from toys import toy_folder

from birdkit.core import KitError

COMMANDS = ("check", "costs", "detect", "fleet", "kaggle", "notebooks", "outside", "runs", "search", "shards", "sweep")
YAML = (("--overrides", "{optim.epoch: 3", "--overrides '{optim.epoch: 3' is not YAML (line 1, column 16): write it such as --overrides '{optim.epochs: 10}'"),
        ("--overrides", "x", "--overrides 'x' gives no names with values"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "A competition, and a workspace where 01_prepare has not run."
    return toy_folder(tmp_path_factory.mktemp("toy") / "data")


def ends(name, capsys, *words):
    "How a command ends: its status, and all that it said."
    with pytest.raises(SystemExit) as end: importlib.import_module(f"birdkit.{name}").main([str(word) for word in words])
    said, code = capsys.readouterr(), end.value.code
    return (1, said.out + said.err + code) if isinstance(code, str) else (code, said.out + said.err)      # as Python ends


@pytest.mark.parametrize("command", [("fleet", "folds"), ("fleet", "train"), ("search",), ("sweep",)], ids=" ".join)
@pytest.mark.parametrize("option, text, says", YAML)
def test_overrides(command, option, text, says, toy, tmp_path, capsys):
    code, said = ends(command[0], capsys, *command[1:], "--data", toy, "--work", tmp_path, option, text)
    assert code == 1 and said.startswith(f"KitError: {says}") and len(said.splitlines()) == 1


@pytest.mark.parametrize("words, says", [
    (["notebooks", "-y", "{overrides: {optim.epochs: 3}"], "-y '{overrides: {optim.epochs: 3}' is not YAML (line 1, column 30)"),
    (["notebooks", "-y", "3"], "-y '3' gives no names with values: write it such as -y '{overrides: {optim.epochs: 3}}'"),
    (["notebooks", "-p", "seed", "["], "-p seed '[' is not YAML"), (["notebooks", "-p", "seed", "x"], "parameter seed='x' is of type str, expected int"),
    (["notebooks", "-p", "work", __file__], "cannot be written to"),
    (["kaggle", "build", "birdkit-train", "-p", "overrides", "{"], "-p overrides '{' is not YAML"),
    (["costs", "--out", "/nope/x.csv"], "--out /nope/x.csv: its folder is missing"),
    (["costs", "--files", 0], "--files 0"), (["search", "--trials", 0], "--trials 0"),
    (["runs", "--work", "/nope"], "/nope is not a folder"), (["detect", "/nope", "--models", "/nope", "--out", "/nope"], "/nope is missing"),
])
def test_one_line(words, says, capsys):
    code, said = ends(words[0], capsys, *words[1:])
    assert code == 1 and says in said and len(said.splitlines()) == 1 and said.startswith("KitError: ")


@pytest.mark.parametrize("words, behind", [
    (["detect", "", "--models", "a", "--out", "b"], "python -m birdkit.detect"), (["detect", "a", "--models", "b", "--out", ""], "--out"),
    (["runs", "--compare", "", "a"], "--compare"), (["runs", "--plot="], "--plot"), (["costs", "--files", "0", "--out", ""], "--out"),
    (["fleet", "folds", "--data", "/nope", "--work", ""], "--work"), (["kaggle", "build", "-p", "data", ""], "data"),
])
def test_nothing_is_empty(words, behind, capsys):
    code, said = ends(words[0], capsys, *words[1:])
    assert code == 2 and said.endswith(f"error: an empty value behind {behind}: is a variable of the shell not set?\n")


@pytest.mark.parametrize("name", ["data", "work"])
def test_parameters_are_not_empty(name, monkeypatch, capsys):
    monkeypatch.setattr("birdkit.notebooks.run_notebook", None)                # were one begun, it would be in the checkout
    code, said = ends("notebooks", capsys, "-p", name, "")
    assert (code, said) == (1, f"KitError: parameter {name} is empty: give a value, or leave it out")


def test_a_folder_in_place_of_a_file(toy, tmp_path, capsys):
    from birdkit.check import main
    assert main([toy, toy / "sample_submission.csv"]) == 1
    assert capsys.readouterr().out == f"{toy} is a folder, not a file: give the submission's file\n"


def test_past():
    from birdkit.stages import find_past
    with pytest.raises(KitError, match="past='/nope' is not a folder: give that of a past competition"): find_past(None, "/nope")


@pytest.mark.parametrize("name, more", [("fleet", ["folds"]), ("sweep", ["--devices", "cpu"])])
def test_nothing_begins_before_all_is_there(name, more, toy, tmp_path, capsys):
    code, said = ends(name, capsys, *more, "--data", toy, "--work", tmp_path)
    assert code == 1 and "prepared.json is missing: run 01_prepare" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("words, says", [
    (["nbs/01_prepar.ipynb"], "KitError: nbs/01_prepar.ipynb: No such file or directory"),
    (["nbs/01_prepare.ipynb", "-p", "work", __file__], "cannot be written to"), (["nbs/01_prepare.ipynb", "-y", "{"], "KitError: -y '{' is not YAML"),
    (["nbs/01_prepare.ipynb", "-p", "work", ""], "KitError: parameter work is empty"),
])
def test_papermill(words, says, tmp_path):
    done = papermill(*words, *(() if "work" in words else ("-p", "work", tmp_path)))
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("KitError: ")]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a child that its parent was killed")
def test_a_pipeline_that_is_killed_leaves_no_notebook_behind(tmp_path):
    cells = [nbformat.v4.new_code_cell("fold = 0", metadata=dict(tags=["parameters"])), nbformat.v4.new_code_cell("import time; time.sleep(300)")]
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "01_nap.ipynb")
    program = "import sys; from birdkit.notebooks import run_notebook; run_notebook(sys.argv[1], dict(work=sys.argv[2]))"
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "01_nap.ipynb", tmp_path / "work"], cwd=ROOT) as parent:
        process, until = psutil.Process(parent.pid), time.monotonic() + 90
        while len(family := process.children(recursive=True)) < 2 and time.monotonic() < until: time.sleep(.1)       # papermill and its kernel
        parent.kill()
    _, alive = psutil.wait_procs(family, 20)
    assert len(family) == 2 and not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    with pytest.raises(SystemExit) as end: importlib.import_module(f"birdkit.{name}").main()
    assert not end.value.code and f"usage: python -m birdkit.{name}" in capsys.readouterr().out
