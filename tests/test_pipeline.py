"The six notebooks, run as people run them, on a small demo."
import ast, json, os, pty, re, sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, notebook_sources, papermill
from papermill import inspect_notebook

from birdkit.check import check_submission
from birdkit.core import Workspace, count
from birdkit.distill import Round
from birdkit.labels import Labels
from birdkit.notebooks import PIPELINE, notebook_parameters
from birdkit.recipe import Recipe


def test_six_notebooks_make_a_valid_submission(pipeline, demo):
    table = pd.read_csv(pipeline["work"] / "submission.csv")
    sample = pd.read_csv(demo / "sample_submission.csv")
    rows = pd.concat([sample, pd.DataFrame({"row_id": [f"soundscape_9999999_{5 * i}" for i in range(1, 13)]})]).fillna(0)
    assert set(table.row_id) == set(rows.row_id)                       # the unreadable soundscape has its rows too
    assert check_submission(table, rows.set_index("row_id").loc[table.row_id].reset_index()) == []
    assert list(pipeline["report"]["bad"]) == ["soundscape_9999999.ogg"]
    prior = table[table.row_id.str.startswith("soundscape_9999999_")].iloc[:, 1:]
    assert (prior.nunique() == 1).all() and prior.iloc[0].nunique() > 1
    assert table.iloc[:, 1:].std().min() > 0


def test_the_command_tells_path_score_and_times(pipeline):
    text = pipeline["text"]
    assert f"submission: {pipeline['work'] / 'submission.csv'}" in text
    assert f"macro ROC-AUC against test_soundscapes_truth.csv: {pipeline['report']['auc']:.4f}" in text
    assert all(any(line.startswith(name) and line.endswith(" s") for line in text.splitlines()) for name in (*PIPELINE, "all"))
    # verdicts, each below its seconds
    assert text.index("01_prepare") < text.index("Next: 02_clean.") < text.index("02_clean   ") and "files kept the prior" in text


def test_each_notebook_leaves_its_part(pipeline):
    work = pipeline["work"]
    left = ["prepared/recordings.csv", "prepared/bad_files.csv", "prepared/flaws.csv",
            "prepared/store/index.csv", "clean/segments.csv", "clean/weights.csv", "clean/review.html",
            "pretrained/tiny/backbone.pt", "pretrained/tiny/notes.txt", "runs/tiny/fold0/weights.pt",
            "runs/tiny/fold0/recipe.json", "runs/tiny/fold0/history.csv",
            "runs/tiny/fold0/oof.csv", "runs/tiny/fold0/metrics.json", "pseudo/tiny/round1/soundscapes.npz", "runs/tiny-r1/all/weights.pt",
            "export/tiny/manifest.json", "export/tiny/MODEL_CARD.md", "submission.csv", *(f"notebooks/{n}.ipynb" for n in PIPELINE)]
    assert [f for f in left if not (work / f).exists()] == []
    assert not list(work.rglob("*.part"))
    assert (work / "export/tiny/MODEL_CARD.md").read_text().count("; pretrained on " + (work / "pretrained/tiny/notes.txt").read_text()) == 1
    bad = pd.read_csv(work / "prepared/bad_files.csv")
    assert len(bad) == 2 and bad.reason.str.contains("not readable as audio").all()
    rules = json.loads((work / "clean/rules.json").read_text())
    assert rules["prepared"] == json.loads((work / "prepared/prepared.json").read_text())["rules"] == rules["data"]      # 02_clean notes on what it was run


def test_sources_stay_untouched(pipeline):
    assert notebook_sources() == pipeline["before"]


def _train(pipeline, demo, *more):
    return ["nbs/04_train.ipynb", "-p", "fold", "1", "-p", "recipe", "tiny", "-p", "data", demo, "-p", "work", pipeline["work"], *more]


@pytest.mark.parametrize("stdin", ["null", "pipe", "terminal"])
def test_papermill_needs_no_output_path(pipeline, demo, stdin):
    output = pipeline["work"] / "notebooks/04_train.ipynb"
    output.unlink(missing_ok=True)
    if stdin == "terminal":
        command = [str(Path(sys.executable).parent / "papermill"), *map(str, _train(pipeline, demo))]
        code = _at_terminal(command)
    else:
        options = dict(input="") | dict(stdin=None) if stdin == "pipe" else {}
        code = papermill(*_train(pipeline, demo), **options).returncode
    assert code == 0 and output.exists()
    assert (pipeline["work"] / "runs/tiny/fold1/weights.pt").exists()
    assert notebook_sources() == pipeline["before"]


def _at_terminal(command):
    "Exit code of a command whose input and outputs are a terminal."
    child, screen = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(command[0], command)
    try:
        while os.read(screen, 4096): pass
    except OSError: pass                       # the terminal closes with the command
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("more, told", [
    (["-p", "fald", "1"], "this notebook has no parameter 'fald'; did you mean fold"),
    (["-p", "seed", "one"], "parameter seed='one' is of type str, expected int"),
    (["-p", "recipe", "smal"], "recipe 'smal' is unknown; did you mean small"),
    (["-p", "data", "/nowhere"], "KitError: /nowhere is not a folder: give the competition folder as data="),
    (["-p", "fold", "9"], 'fold=9 does not exist: give 0 to 4, or "all"'),
    (["-y", "{overrides: {optim.epoch: 1}}"], "Optim has no field 'epoch'; did you mean epochs"),
    (["-y", "{overrides: {frontend.n_mels: 48, model.head: bed}}"], "model.head='bed' is unknown"),
    (["-y", "{overrides: {infer.post: [[smoth]]}}"], "'smoth' is unknown; did you mean smooth"),      # before training, not by 05_distill after it
])
def test_mistakes_are_one_line(pipeline, demo, more, told):
    done = papermill(*_train(pipeline, demo), *more)
    lines = [line for line in done.stderr.splitlines() if line.startswith("KitError: ")]
    assert done.returncode == 1 and len(lines) == 1 and told in lines[0], done.stderr
    # a closing kernel's sockets may log a traceback of their own
    for papermills in ("PapermillExecutionError", "Exception encountered at"): assert papermills not in done.stderr, done.stderr


def test_another_recipes_checkpoint_is_refused(pipeline, demo):
    done = papermill("nbs/05_distill.ipynb", "-p", "recipe", "tiny", "-p", "data", demo,
                     "-p", "work", pipeline["work"], "-y", "{overrides: {frontend.n_mels: 48}}")
    assert done.returncode == 1 and "was trained with another frontend, backbone or head than recipe 'tiny'" in done.stderr


def test_without_rounds_the_folds_are_exported(pipeline, demo):
    options = ["-p", "recipe", "tiny", "-p", "data", demo, "-p", "work", pipeline["work"]]
    assert papermill("nbs/05_distill.ipynb", *options, "-p", "rounds", "0", "-y", "{overrides: {ensemble.post: [[top_scale, 1]]}}").returncode == 0
    manifest = json.loads((pipeline["work"] / "export/tiny/manifest.json").read_text())
    assert manifest["post"] == [["top_scale", 1]]
    names = [m["name"] for m in manifest["models"]]
    assert names[0] == "tiny-fold0" and all(m["parity"] < 1e-4 for m in manifest["models"])
    assert papermill("nbs/06_infer.ipynb", *options).returncode == 0
    assert [m["model"] for m in json.loads((pipeline["work"] / "infer.json").read_text())["models"]] == names


def test_the_same_seed_gives_the_same_result(pipeline, demo, tmp_path):
    from birdkit.competition import Competition
    from birdkit.material import cleaned_clips
    from birdkit.prepare import Prepared
    from birdkit.recipe import find_recipe
    from birdkit.stages import train_fold
    space, recipe = Workspace.find(pipeline["work"]), find_recipe("tiny", {"name": "other", "model.backbone": "mobilenetv3_small_050", "model.weights": "none"})
    data = Prepared.load(space.prepared, Competition.find(str(demo)).folder)
    clips = cleaned_clips(data, space, recipe)
    one, two, other = (train_fold(data, clips, Workspace.find(tmp_path / name), recipe, 0, seed=seed)[0].state_dict()
                       for name, seed in (("one", 0), ("two", 0), ("other", 1)))
    assert all((one[k] == two[k]).all() for k in one) and not any((one[k] == other[k]).all() for k in one if one[k].ndim > 1)


def verdict(name, known):
    exec("".join(json.loads((ROOT / f"nbs/{name}.ipynb").read_text())["cells"][-1]["source"]), known)


def test_verdicts_count_what_a_person_said_of_recordings_that_are_there(capsys):
    review = pd.DataFrame([("a", "", 1., ""), ("b", "drop", 1., ""), ("c", "", .5, ""), ("e", "", 0., ""), ("d", "", 1., "1-2"), ("gone", "drop", 1., "")],
                          columns=["recording", "verdict", "weight", "drop_s"])
    dropped = pd.DataFrame(dict(recording=["b"], seconds=[10.]))
    known = dict(recordings=pd.DataFrame(dict(recording=list("abcde"), duration_s=10.)), dropped=dropped, count=count)
    verdict("02_clean", dict(known, review=review))
    assert "10 s of 50 s are dropped, in 1 of 5 recordings; 4 verdicts from the review page applied. Next" in capsys.readouterr().out
    verdict("02_clean", dict(known, review=review[-1:]))
    assert "; nobody has reviewed a recording yet. Next" in capsys.readouterr().out


class Earlier(dict):
    "Names of a kernel in which the notebook has run before."
    def __missing__(self, name): return MagicMock()


EARLIER = {"02_clean": ("clean", dict(segments=None)), "03_pretrain": ("pretrain", dict(learners=[])),
           "04_train": ("train_fold", dict(found={}, model=None, run=None)),
           "05_distill": ("distill_round", dict(done=[], stopped="", models=["teachers"], manifest=None)), "06_infer": ("run_submission", dict(sheet=None))}


@pytest.mark.parametrize("name", EARLIER)
def test_an_interrupted_cell_keeps_nothing_of_an_earlier_run(name):
    call, left = EARLIER[name]
    cells = json.loads((ROOT / f"nbs/{name}.ipynb").read_text())["cells"]
    cell, = (source for source in map("".join, (c["source"] for c in cells)) if f" {call}(" in source)
    names = Earlier(dict.fromkeys(left, "earlier"), models=["teachers", "earlier"], planned=1, range=range, in_time=lambda members, *_: [members])
    names[call] = MagicMock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt): exec(cell, {}, names)
    assert {key: names[key] for key in left} == left


def test_the_last_word_is_of_the_networks_as_they_are_exported(capsys, tmp_path):
    space, models = Workspace.find(tmp_path), [dict(parity=1e-6, gap=2e-3), dict(parity=2e-6, gap=1e-6)]
    known = dict(manifest=dict(models=models), space=space, config=Recipe("toy"), stopped="", count=count)
    verdict("05_distill", dict(known, done=[], best=["teachers"], scores=pd.Series([.8])))
    assert capsys.readouterr().out.startswith("0 rounds; 2 models exported to export/toy: largest difference to torch 2e-03")
    labels = Labels(np.array(["a", "b"], object), np.array([[[.1], [.2]], [[.3], [np.nan]]]), ("owl",))
    first, second = (Round(k, {"soundscapes": labels[:3 - k]}, {}, {}, dict.fromkeys("xyz"[k:])) for k in (1, 2))
    verdict("05_distill", dict(known, done=[first, second], best=["teachers", 1], scores=pd.Series([.8, .9, .85], name="scenes")))
    told = "1 round; 2 students learnt from the clips and 3 rows of 2 soundscapes; macro ROC-AUC on scenes 0.800 to 0.900; 2 models exported to export/toy: "
    assert capsys.readouterr().out.startswith(told)


def test_notebooks_have_parameters_and_no_functions():
    from nbdev.frontmatter import _md2dict
    shared = {"data", "work", "recipe", "overrides", "seed"}
    extra = {"02_clean": {"scores"}, "03_pretrain": {"past", "minutes"}, "04_train": {"fold", "minutes"},
             "05_distill": {"rounds", "minutes"}, "06_infer": {"models", "soundscapes", "budget_min"}}
    for name in PIPELINE:
        path = ROOT / f"nbs/{name}.ipynb"
        assert set(notebook_parameters(path)) == shared | extra.get(name, set())
        assert [p for p, known in inspect_notebook(path).items() if not known["help"]] == []      # papermill --help-notebook
        title = "".join(json.loads(path.read_text())["cells"][0]["source"])
        # nbdev reads it, the page does not show it
        assert _md2dict(title)["skip_exec"] is True and "skip_exec" not in re.sub(r"<!--.*?-->", "", title, flags=re.S)
        code = "\n".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
        assert not re.search(r"^\s*(def|class) ", code, re.M)
        checks = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "check_parameters"]
        # a parameter that is not checked would be ignored
        assert [[k.arg for k in n.keywords] for n in checks] == [list(notebook_parameters(path))]
