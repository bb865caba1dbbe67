"Each fault that makes Kaggle refuse a submission."
import subprocess, sys

import numpy as np
import pandas as pd
import pytest

from birdkit.check import check_submission

SAMPLE = pd.DataFrame({"row_id": ["a_5", "a_10", "b_5"], "47144": .5, "owl": .5})
GOOD = SAMPLE.assign(owl=[0., .25, 1.])


@pytest.mark.parametrize("table, says", [
    (GOOD.reset_index().rename(columns={"index": "Unnamed: 0"}), "index column 'Unnamed: 0': write with index=False"),
    (GOOD.drop(columns="owl"), "columns missing: 1 (owl)"),
    (GOOD.drop(columns="row_id"), "columns missing: 1 (row_id)"),
    (GOOD.assign(ibis=.1), "columns the sample does not have: 1 (ibis)"),
    (GOOD[["row_id", "owl", "47144"]], "columns in another order than the sample's: column 2 is 'owl', not '47144'"),
    (GOOD[:2], "row_ids missing: 1 (b_5)"), (GOOD.iloc[[2, 0, 1]], "rows in another order"),
    (pd.concat([GOOD, GOOD[:1]]), "row_ids more than once: 1 (a_5)"),
    (GOOD.assign(row_id=["a_5.0", "a_10", "b_5"]), "row_ids that are not asked for: 1 (a_5.0)"),
    (GOOD.assign(owl=[.1, np.nan, .1]), "values that are empty or NaN: 1 in 1 rows, columns 1 (owl)"),
    (GOOD.assign(owl=[.1, -np.inf, .1]), "values that are infinite: 1 in 1 rows, columns 1 (owl)"),
    (GOOD.assign(owl=[.1, 1.001, -.1]), "values that are outside [0, 1]: 2 in 2 rows, columns 1 (owl)"),
    (GOOD.assign(owl=["a", "b", "c"]), "columns that are not numbers: 1 (owl)"),
])
def test_each_problem(table, says, tmp_path):
    assert any(says in problem for problem in check_submission(table, SAMPLE))
    table.to_csv(tmp_path / "submission.csv", index=False)
    assert any(says in problem for problem in check_submission(tmp_path / "submission.csv", SAMPLE))


def test_sound():
    assert check_submission(GOOD, SAMPLE) == check_submission(GOOD, SAMPLE[:1], row_ids=list(SAMPLE.row_id)) == []


def test_command_line(tmp_path):
    SAMPLE.to_csv(tmp_path / "sample.csv", index=False)
    GOOD.to_csv(tmp_path / "good.csv", index=False)
    GOOD.to_csv(tmp_path / "bad.csv")
    command = [sys.executable, "-m", "birdkit.check"]
    run = lambda *names: subprocess.run(command + [tmp_path / n for n in names], capture_output=True, text=True)
    good = run("good.csv", "sample.csv")
    assert (good.returncode, good.stdout) == (0, "ok: 3 rows x 2 classes\n")
    bad = run("bad.csv", "sample.csv")
    assert bad.returncode == 1 and "index=False" in bad.stdout
    gone = run("gone.csv", "sample.csv")
    assert gone.returncode == 1 and "gone.csv is missing" in gone.stdout and "Traceback" not in gone.stderr
    assert run("good.csv").returncode == 2
