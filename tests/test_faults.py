"What a real folder can do to a kit: each case goes through, or is one line."
import json, os, shutil
from importlib.metadata import PackageNotFoundError

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from toys import LABELS, toy_export, toy_folder

from birdkit.anytime import run_submission
from birdkit.batches import make_clips
from birdkit.check import check_submission
from birdkit.clean import clean
from birdkit.cleaning import Cleaning, lay_segments
from birdkit.competition import Competition, row_ids
from birdkit.core import Clock, KitError, Workspace
from birdkit.prepare import prepare
from birdkit.recipe import Recipe
from birdkit.runtime import MANIFEST, Export, Member, file_sha256
from birdkit.submit import find_sample, find_soundscapes

RECIPE = Recipe("toy").but({"frontend.n_mels": 16, "frontend.hop": 3200, "infer.stride_s": 5., "infer.post": []})


def quiet_network(path, source, seconds, setting=None):
    return lambda x: (np.full((len(x), 4), .3), np.full((len(x), 2, 4), .3)), []


@pytest.mark.parametrize("year, rows", [(2024, 48), (2025, 12), (2026, 12)])
def test_each_layout_goes_from_folder_to_submission(tmp_path, year, rows):
    toy_folder(tmp_path / "data", year, audio=True, test_s=(5 * rows, 5 * rows - .02))
    comp, space = Competition.find(str(tmp_path / "data")), Workspace.find(tmp_path / "work")
    data = prepare(comp, space)
    segments = lay_segments(clean(Cleaning.of(data), RECIPE.data.clean))
    clips = make_clips(data, segments)
    assert len(clips) and clips.targets.shape[1] == len(comp.classes)
    export = Export(tmp_path, tuple(comp.classes), np.full(4, .1), [Member("toy", RECIPE, 1., 1., tmp_path)])
    run_submission(comp, export, find_soundscapes(comp), tmp_path / "submission.csv", Clock(90), find_sample(comp), quiet_network)
    table = pd.read_csv(tmp_path / "submission.csv")
    ids = [i for f in comp.test_files for i in row_ids(f.stem, rows)]
    assert check_submission(table, find_sample(comp), row_ids=ids) == []


def test_public_run_without_test_files_rehearses(tmp_path, capsys):
    toy_folder(tmp_path, 2025, audio=True, test_s=())
    files = find_soundscapes(Competition.find(str(tmp_path)))
    assert files and all("train_soundscapes" in str(f) for f in files)
    assert "rehearsing" in capsys.readouterr().out


def test_names_that_are_not_utf8_are_left_out_and_told(tmp_path, capsys):
    toy_folder(tmp_path / "data", 2025, audio=True, test_s=(5,))
    comp = Competition.find(str(tmp_path / "data"))
    files, scapes = comp.test_files, comp.soundscapes
    for path in (files[0], scapes[0]): shutil.copy(path, path.with_name(os.fsdecode(b"caf\xe9_1.ogg")))
    assert prepare(comp, Workspace.find(tmp_path / "work")).soundscapes.recording.tolist() == [f"train_soundscapes/{f.name}" for f in scapes]
    notes = [rf"not read: names in {place} that are not UTF-8, 1 (caf\xe9_1.ogg); rename them" for place in ("train_soundscapes", "test_soundscapes")]
    assert comp.notes[-2:] == notes
    export = Export(tmp_path, tuple(comp.classes), np.full(4, .1), [Member("toy", RECIPE, 1., 1., tmp_path)])
    run_submission(comp, export, find_soundscapes(comp), tmp_path / "submission.csv", Clock(90), find_sample(comp), quiet_network)
    assert check_submission(pd.read_csv(tmp_path / "submission.csv"), find_sample(comp), row_ids=row_ids(files[0].stem, 1)) == []
    assert notes[1] in capsys.readouterr().out


def test_no_readable_recording_is_one_line(tmp_path):
    toy_folder(tmp_path / "data", 2025, audio=True)
    for path in (tmp_path / "data/train_audio").rglob("*.ogg"): path.write_text("no sound")
    with pytest.raises(KitError, match=r"no recording of .* is readable \(.*\.ogg: .*\): see .*bad_files.csv"):
        prepare(Competition.find(str(tmp_path / "data")), Workspace.find(tmp_path / "work"))


def test_empty_train_table_is_one_line(tmp_path):
    toy_folder(tmp_path, 2025)
    path = tmp_path / "train.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(KitError, match="train.csv"):
        Competition.find(str(tmp_path)).recordings


def test_label_outside_the_taxonomy_is_one_line(tmp_path):
    toy_folder(tmp_path, 2025)
    path = tmp_path / "train.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[0, "primary_label"] = "yeti"
    table.to_csv(path, index=False)
    with pytest.raises(KitError, match="yeti"):
        Competition.find(str(tmp_path)).recordings


def test_stale_submission_is_replaced_at_once(tmp_path):
    toy_folder(tmp_path / "data", 2025, audio=True, test_s=(10,))
    (tmp_path / "submission.csv").write_text("row_id,old\nx_5,1\n")
    comp = Competition.find(str(tmp_path / "data"))
    export = Export(tmp_path, tuple(comp.classes), np.full(4, .1), [Member("toy", RECIPE, 1., 1., tmp_path)])

    def killed(path, source, seconds, setting=None): raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_submission(comp, export, comp.test_files, tmp_path / "submission.csv", Clock(90), None, killed)
    table = pd.read_csv(tmp_path / "submission.csv")
    assert table.columns.tolist() == ["row_id", *comp.classes] and len(table) == 2 and (table[comp.classes] == .1).all(axis=None)


@pytest.mark.parametrize("step", [("add_prior", {"prior": "prior"}), ("class_smooth", {"group": "class_name"})])
def test_a_table_that_cannot_be_read_costs_a_step_not_the_submission(tmp_path, capsys, step):
    table = toy_folder(tmp_path, 2026, test_s=(10, 10)) / "train_soundscapes_labels.csv"
    table.write_text(table.read_text() + "x.ogg,00:00:10,00:00:05,owl1\n")
    comp, knowing = Competition.find(str(tmp_path)), RECIPE.but({"infer.post": [step]})
    export = Export(tmp_path, tuple(comp.classes), np.full(4, .1), [Member("toy", knowing, 1., 1., tmp_path)])
    report = run_submission(comp, export, comp.test_files, tmp_path / "submission.csv", Clock(90), find_sample(comp), quiet_network)[1]
    told = capsys.readouterr().out
    assert report.what.tolist() == ["heard all files"] and (pd.read_csv(tmp_path / "submission.csv")[comp.classes] == .3).all(axis=None)
    assert "is not after the window's start" in told
    assert f"toy: steps left out, as they compare all recordings or need facts of the competition: {step[0]}" in told


def infer_cells(folder, **parameters):
    "The cells of 06_infer, one after the other, on the toy competition of a folder; what they know in the end."
    known = {}
    for cell in json.loads((ROOT / "nbs/06_infer.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code": exec("".join(cell["source"]), known)
        if "parameters" in cell["metadata"].get("tags", []):
            known |= dict(data=str(folder / "data"), work=str(folder / "work"), models=str(folder / "models")) | parameters
    return known


def lose_packages(monkeypatch):
    "A machine without an engine, and without what pip knows of its packages."
    def none(*given): raise KitError("neither OpenVINO nor ONNX Runtime can be used: attach the wheels dataset")
    def unknown(name): raise PackageNotFoundError(name)
    for place in ("submit", "runtime"): monkeypatch.setattr(f"birdkit.{place}.find_engine", none)
    monkeypatch.setattr("importlib.metadata.version", unknown)


def refuse_network(folder):
    "Make the toy export's network one that no engine takes."
    (folder / "toy.xml").write_text("<net/>")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["models"][0]["sha256"]["toy.xml"] = file_sha256(folder / "toy.xml")
    (folder / MANIFEST).write_text(json.dumps(manifest))


def break_views(monkeypatch, folder):
    "A machine on which nothing works that comes after the submission."
    def odd(*given, **options): raise TypeError("an argument of another version")
    for place in ("plots.plot_scores", "plots.players", "submit.score_submission", "submit.hidden_run_min"): monkeypatch.setattr(f"birdkit.{place}", odd)
    (folder / "work/infer.json").mkdir(parents=True)


@pytest.mark.parametrize("fault, heard",
                         [("", 3), ("nothing can be shown", 3), ("broken file", 2), ("cut file", 3), ("no time", 0), ("no network", 0), ("no engine", 0)])
@pytest.mark.parametrize("tests", [(10, 13, 10), ()])
def test_06_infer_ends_with_a_valid_submission(tmp_path, monkeypatch, capsys, fault, heard, tests):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    comp = toy_folder(tmp_path / "data", 2025, test_s=tests)
    toy_export(tmp_path / "models")
    rows = [f"soundscape_{k + 1}_{end}" for k in range(len(tests)) for end in (5, 10)]       # of the 13 s the sample asks 10
    if tests: pd.DataFrame({"row_id": rows, **dict.fromkeys(LABELS, .25)}).to_csv(comp / "sample_submission.csv", index=False)
    files = sorted((comp / ("test_soundscapes" if tests else "train_soundscapes")).iterdir())
    if fault == "cut file": files[0].write_bytes(files[0].read_bytes()[:-200])
    elif fault and fault != "nothing can be shown": files[0].write_text("no sound")
    if fault == "nothing can be shown": break_views(monkeypatch, tmp_path)
    if fault == "no engine": lose_packages(monkeypatch)
    if fault == "no network": refuse_network(tmp_path / "models")
    known = infer_cells(tmp_path, budget_min=1e-6 if fault == "no time" else 90)
    heard = max(0, heard - 3 + len(files))
    assert check_submission(tmp_path / "work/submission.csv", comp / "sample_submission.csv") == known["problems"] == []
    told = capsys.readouterr().out
    sound = "all {} files were read without faults." if heard == len(files) and fault != "cut file" else "{1} files kept the prior, {2} have flaws."
    assert known["facts"]["heard"] == heard and sound.format(len(files), len(files) - heard, int(fault == "cut file")) in told
    assert ("NO MODEL WAS USED" in told) == (heard == 0) and "models models: 1 model (toy), 4 classes" in told
    assert ("the hidden run will take" in told) == (heard > 0 and not tests and fault != "nothing can be shown")
    assert list(known["sheet"].flaws) == [files[0].name] * (fault == "cut file")
    if fault == "cut file": assert json.loads((tmp_path / "work/infer.json").read_text())["flaws"] == known["sheet"].flaws
    assert told.count(" did not work: ") == (fault == "nothing can be shown") * (4 + (not tests))


def test_06_infer_answers_every_row_and_says_what_is_not_valid(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    comp = toy_folder(tmp_path / "data", 2025, test_s=(10, 13))
    toy_export(tmp_path / "models")
    rows = [f"soundscape_{k}_{end}" for end in range(10) for k in (2, 1)]
    pd.DataFrame({"row_id": rows, **dict.fromkeys(LABELS, .25)}).to_csv(comp / "sample_submission.csv", index=False)
    assert infer_cells(tmp_path)["facts"]["rows"] == 20 and check_submission(tmp_path / "work/submission.csv", comp / "sample_submission.csv") == []
    assert "submission.csv: 20 rows in" in (told := capsys.readouterr().out) and "NOT VALID" not in told
    monkeypatch.setattr("birdkit.check.check_submission", lambda *given: ["a fault", "another"])
    infer_cells(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == "NOT VALID: a fault; another"


def test_06_infer_takes_changes_of_how_models_hear(tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    toy_folder(tmp_path / "data", 2025, test_s=(10,))
    toy_export(tmp_path / "models")
    assert infer_cells(tmp_path, overrides={"infer.stride_s": 2.5})["export"].members[0].recipe.infer.stride_s == 2.5
    toy_export(tmp_path / "theirs")
    joined = infer_cells(tmp_path, models=f"{tmp_path / 'models'}, {tmp_path / 'theirs'}")["export"]
    assert [m.name for m in joined.members] == ["models/toy", "theirs/toy"]
    with pytest.raises(KitError, match="override 'optim.epochs': the models are trained and exported already"):
        infer_cells(tmp_path, overrides={"optim.epochs": 3})
    with pytest.raises(KitError, match="infer.post: step 'smoth' is unknown"): infer_cells(tmp_path, overrides={"infer.post": [["smoth"]]})
