"The three layouts, where a competition is found, and what is said about a broken folder."
import subprocess, sys

import numpy as np
import pandas as pd
import pytest

from birdkit import competition
from birdkit.competition import RECORDING_COLUMNS, SOUNDSCAPE_COLUMNS, TAXON_COLUMNS, Competition, attached, row_ids, split_row_id
from birdkit.core import KitError, Workspace
from toys import LABELS, clips, toy_folder

YEARS = (2024, 2025, 2026)


def clip_file(folder):
    "The table of focal clips."
    old = folder / "train_metadata.csv"
    return old if old.exists() else folder / "train.csv"


def error(f):
    "The text of the KitError that `f` raises: one line."
    with pytest.raises(KitError) as caught: f()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("year, secondary", [(2024, ("owl1",)), (2025, ("owl1", "47144")), (2026, ("owl1",))])
def test_layout_and_tables(tmp_path, year, secondary):
    toy = Competition.find(toy_folder(tmp_path / "data", year))
    assert toy.year == year
    assert toy.classes == LABELS
    assert list(toy.recordings) == RECORDING_COLUMNS and len(toy.recordings) == 8
    assert toy.recordings.primary_label.tolist() == [x for x in LABELS for _ in range(2)]
    assert toy.recordings.filename[2] == "47144/XC2.ogg"
    assert all(isinstance(x, str) for labels in toy.recordings.secondary_labels for x in labels)
    assert set(toy.recordings.secondary_labels) == {(), secondary}
    assert list(toy.taxonomy) == TAXON_COLUMNS and toy.taxonomy.primary_label.tolist() == LABELS
    assert list(toy.soundscape_labels) == SOUNDSCAPE_COLUMNS
    assert len(toy.soundscapes) == 2 and len(toy.test_files) == 2
    assert [toy.rows(f) for f in toy.test_files] == [2, 12]
    assert toy.truth() is None
    assert toy.describe().loc["layout of"].item() == year
    assert len(toy.soundscape_labels) == (year == 2026)


def test_same_types_in_all_years(tmp_path):
    tables = [Competition.find(toy_folder(tmp_path / str(year), year)).recordings for year in YEARS]
    kinds = [table.dtypes.astype(str).to_dict() for table in tables]
    assert kinds[0] == kinds[1] == kinds[2]


def test_what_a_year_lacks_is_filled(tmp_path):
    old, new = (Competition.find(toy_folder(tmp_path / str(year), year)) for year in (2024, 2026))
    assert set(old.recordings.collection) == {""} and set(old.taxonomy.class_name) == {"Aves"}
    assert set(new.recordings.url) == set(new.recordings.license) == {""}
    assert new.recordings.common_name[2] == "Domestic Dog" and new.taxonomy.class_name[0] == "Insecta"
    table = clips(2025)[["primary_label", "filename"]]
    table.to_csv(new.folder / "train.csv", index=False)
    bare = Competition.find(new.folder).recordings
    assert set(bare.rating) == {0} and bare.latitude.isna().all() and set(bare.secondary_labels) == {()}


def test_unknown_secondary_labels_are_counted(tmp_path):
    notes = Competition.find(toy_folder(tmp_path / "data", 2025)).notes
    assert notes == ["train.csv, secondary_labels: 4 labels outside the classes were dropped, codes: 1 (zzz)"]


def test_class_order_is_the_sample_submissions(tmp_path):
    folder = toy_folder(tmp_path / "data")
    (folder / "sample_submission.csv").write_text("row_id,redwin,47144,owl1,1139490\n")
    toy = Competition.find(folder)
    assert toy.classes == toy.taxonomy.primary_label.tolist() == ["redwin", "47144", "owl1", "1139490"]


def test_all_digit_classes_stay_text(tmp_path):
    toy = Competition.find(toy_folder(tmp_path / "data", 2025, labels=["1139490", "47144"]))
    assert toy.recordings.primary_label.tolist() == 2 * ["1139490"] + 2 * ["47144"]
    assert toy.taxonomy.primary_label.tolist() == ["1139490", "47144"]


def test_soundscape_labels_are_united(tmp_path):
    folder = toy_folder(tmp_path / "data", 2026)
    name = "BC2026_Train_0001_S08_20250606_030007.ogg"
    with (folder / "train_soundscapes_labels.csv").open("a") as f:
        f.write(f"{name},0,5.0,redwin\n{name},00:00:05,00:00:10,\n{name},10,15,zzz;1139490\n")
    toy = Competition.find(folder)
    assert not any("are not learnt from" in note for note in toy.notes)
    with (folder / "train_soundscapes_labels.csv").open("a") as f: f.write("gone,0,5,redwin\n")
    toy = Competition.find(folder)
    table = toy.soundscape_labels.query("filename != 'gone'")
    assert table.labels.tolist() == [("47144", "owl1", "redwin"), (), ("1139490",)]
    assert table.start_s.tolist() == [0, 5, 10] and table.end_s.tolist() == [5, 10, 15]
    assert any("train_soundscapes_labels.csv: 1 labels outside the classes" in note for note in toy.notes)
    assert "train_soundscapes_labels.csv: labels of files that are not in train_soundscapes, 1 (gone), are not learnt from" in toy.notes


def test_truth_beside_the_data(tmp_path):
    folder = toy_folder(tmp_path / "data")
    path = folder / "test_soundscapes_truth_public.csv"
    path.write_text("row_id,1139490,47144,owl1,redwin\nsoundscape_1_5,0,1,0,0\n")
    truth = Competition.find(folder).truth()
    assert truth.row_id.tolist() == ["soundscape_1_5"] and truth["47144"].tolist() == [1]


def test_no_test_files_and_a_broken_one(tmp_path):
    empty = Competition.find(toy_folder(tmp_path / "empty", test_s=()))
    assert empty.test_files == []
    for year, rows in ((2024, 48), (2025, 12)):
        toy = Competition.find(toy_folder(tmp_path / str(year), year, test_s=()))
        (toy.folder / "test_soundscapes/soundscape_1.ogg").touch()
        assert [toy.rows(f) for f in toy.test_files] == [rows]


def test_a_file_listed_twice_counts_once_with_all_its_labels(tmp_path):
    folder = toy_folder(tmp_path / "data", test_s=())
    table = pd.read_csv(folder / "train.csv", dtype=str)
    more = table.iloc[[0]].assign(primary_label="redwin", secondary_labels="['owl1']")
    pd.concat([table, more]).to_csv(folder / "train.csv", index=False)
    toy = Competition.find(folder)
    assert toy.recordings.filename.tolist() == table.filename.tolist()
    assert (toy.recordings.primary_label[0], toy.recordings.secondary_labels[0]) == (table.primary_label[0], ("redwin", "owl1"))
    assert "train.csv: 1 rows repeat a file; their labels were added to its first row" in toy.notes


def test_row_ids():
    assert row_ids("a_b", np.int64(2)) == ["a_b_5", "a_b_10"]
    assert split_row_id("a_b_10") == ("a_b", 10)
    assert "write whole seconds" in error(lambda: split_row_id("a_5.0"))


@pytest.mark.parametrize("mount", ["birdclef", "competitions/birdclef", "datasets/someone/birdclef"])
def test_kaggle_mounts(tmp_path, monkeypatch, mount):
    for year in YEARS:
        folder = toy_folder(tmp_path / f"{year}" / mount, year)
        (tmp_path / f"{year}/another-dataset").mkdir()
        monkeypatch.setenv("BIRDKIT_INPUTS", str(tmp_path / f"{year}"))
        assert attached() == [folder]
        assert Competition.find().year == year


def test_the_newest_attached_competition(tmp_path, monkeypatch):
    monkeypatch.setenv("BIRDKIT_INPUTS", str(tmp_path))
    for year in YEARS: toy_folder(tmp_path / "competitions" / f"birdclef-{year}", year, test_s=())
    assert Competition.find().year == 2026 and [Competition.find(f"birdclef-{year}").year for year in YEARS] == list(YEARS)


def test_the_demo_steps_in_only_without_a_competition(tmp_path, monkeypatch):
    monkeypatch.setenv("BIRDKIT_INPUTS", str(tmp_path))
    (toy_folder(tmp_path / "datasets/ada/birdkit-demo", 2025) / "demo.json").touch()
    assert Competition.find().folder.name == "birdkit-demo"
    toy_folder(tmp_path / "competitions/birdclef-2024", 2024)
    assert Competition.find().year == 2024


def test_demo_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setattr(competition, "project_root", lambda: tmp_path)
    monkeypatch.setenv("BIRDKIT_INPUTS", str(tmp_path / "none"))
    find = lambda work: Competition.find(work=work)
    assert "make_demo.py is missing: give the competition folder as data=" in error(lambda: find(tmp_path / "work"))
    source = toy_folder(tmp_path / "source", test_s=())
    script = tmp_path / "data_prep/make_demo.py"
    script.parent.mkdir()
    script.write_text("raise SystemExit('no disk')\n")
    assert "make_demo.py failed (no disk)" in error(lambda: find(tmp_path / "work"))
    script.write_text("import shutil, sys\nassert sys.argv[1] == '--out'\n"
                      f"shutil.copytree({str(source)!r}, sys.argv[2])\n")
    assert find(tmp_path / "work").folder == tmp_path / "work/demo"
    script.write_text("raise SystemExit('built twice')\n")
    assert find(Workspace(tmp_path / "work")).classes == LABELS


@pytest.mark.parametrize("year, gone, says", [
    (2024, "sample_submission.csv", "sample_submission.csv is missing: it names the classes"),
    (2025, "sample_submission.csv", "sample_submission.csv is missing: it names the classes"),
    (2024, "train_metadata.csv", "has no train.csv (2025, 2026) and no train_metadata.csv (2024)"),
    (2025, "train.csv", "has no train.csv (2025, 2026) and no train_metadata.csv (2024)"),
    (2026, "taxonomy.csv", "taxonomy.csv is missing"),
])
def test_missing_files(tmp_path, year, gone, says):
    folder = toy_folder(tmp_path / "data", year, test_s=())
    (folder / gone).unlink()
    assert says in error(lambda: Competition.find(folder))


def test_wrong_folder(tmp_path):
    says = "nowhere is not a folder: give the competition folder as data="
    assert says in error(lambda: Competition.find(tmp_path / "nowhere"))
    assert "has no train.csv" in error(lambda: Competition.find(tmp_path))


@pytest.mark.parametrize("text, says", [
    ("", "does not begin with row_id"), ("id,owl1\n", "does not begin with row_id"), ("row_id\n", "names no class"),
    ("row_id,owl1,owl1\n", "more than once: 1 (owl1)"),
    ("row_id,owl1,\n", "does not begin with row_id and class names"),
    ("row_id,Parus major\n", "has spaces in names of classes: 1 (Parus major)"),
])
def test_sample_submission(tmp_path, text, says):
    folder = toy_folder(tmp_path / "data", test_s=())
    (folder / "sample_submission.csv").write_text(text)
    assert says in error(lambda: Competition.find(folder))


@pytest.mark.parametrize("year", YEARS)
@pytest.mark.parametrize("change, says", [
    (dict(primary_label="ibis"), "row 2: primary_label 'ibis' is not a column of sample_submission.csv"),
    (dict(primary_label="47144.0"), "row 2: primary_label '47144.0' is not a column of sample_submission.csv"),
    (dict(primary_label=None), "row 2: primary_label is empty"),
    (dict(filename=None), "row 2: filename is empty"),
    (dict(secondary_labels="owl1"), "row 2: secondary_labels 'owl1' is not a list"),
])
def test_broken_cells(tmp_path, year, change, says):
    folder = toy_folder(tmp_path / "data", year, test_s=())
    clips(year).assign(**change).to_csv(clip_file(folder), index=False)
    message = error(lambda: Competition.find(folder).recordings)
    assert says in message and clip_file(folder).name in message


@pytest.mark.parametrize("year", YEARS)
def test_broken_tables(tmp_path, year):
    folder = toy_folder(tmp_path / "data", year, test_s=())
    for table, says in ((clips(year)[:0], "has no rows"),
                        (clips(year).drop(columns="filename"), "lacks columns: 1 (filename)"),
                        (clips(year).drop(columns="primary_label"), "lacks columns: 1 (primary_label)")):
        table.to_csv(clip_file(folder), index=False)
        message = error(lambda: Competition.find(folder).recordings)
        assert says in message and clip_file(folder).name in message
    clip_file(folder).write_text("")
    assert "not a readable table" in error(lambda: Competition.find(folder).recordings)


@pytest.mark.parametrize("text, says", [
    ("filename,start,end\na.ogg,0,5\n", "lacks columns: 1 (primary_label)"),
    ("filename,start,end,primary_label\n", "has no rows"),
    ("filename,start,end,primary_label\na.ogg,0,soon,owl1\n", "row 2: time 'soon' is neither HH:MM:SS nor seconds"),
    ("filename,start,end,primary_label\na.ogg,5,0,owl1\n", "row 2: end '0' is not after the window's start"),
])
def test_broken_soundscape_labels(tmp_path, text, says):
    folder = toy_folder(tmp_path / "data", 2026, test_s=())
    (folder / "train_soundscapes_labels.csv").write_text(text)
    message = error(lambda: Competition.find(folder).soundscape_labels)
    assert says in message and "train_soundscapes_labels.csv" in message


def test_light_imports():
    heavy = "{'torch', 'timm', 'librosa', 'sklearn', 'scipy', 'matplotlib', 'audiomentations'}"
    code = f"import sys, birdkit.competition, birdkit.check; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
