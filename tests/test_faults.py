"What a real folder can do to a kit: each case goes through, or is one line."
import numpy as np
import pandas as pd
import pytest
from toys import toy_folder

from birdkit.anytime import run_submission
from birdkit.batches import make_clips
from birdkit.check import check_submission
from birdkit.clean import clean
from birdkit.cleaning import Cleaning, lay_segments
from birdkit.competition import Competition
from birdkit.core import Clock, KitError, Workspace
from birdkit.prepare import prepare
from birdkit.recipe import Recipe
from birdkit.runtime import Export, Member
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
    ids = [i for f in comp.test_files for i in comp.row_ids(f.stem, rows)]
    assert check_submission(table, find_sample(comp), row_ids=ids) == []


def test_public_run_without_test_files_rehearses(tmp_path, capsys):
    toy_folder(tmp_path, 2025, audio=True, test_s=())
    files = find_soundscapes(Competition.find(str(tmp_path)))
    assert files and all("train_soundscapes" in str(f) for f in files)
    assert "rehearsing" in capsys.readouterr().out


def test_no_readable_recording_is_one_line(tmp_path):
    toy_folder(tmp_path / "data", 2025)
    with pytest.raises(KitError, match="no recording of .* is readable: see .*bad_files.csv"):
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
