"The whole demo with its own recipe: the pipeline learns what simple statistics cannot."
import json, subprocess, sys

from conftest import ROOT


def test_demo_scores_well_above_simple_statistics(tmp_path):
    for command in (["data_prep/make_demo.py", "--out", tmp_path / "demo"],
                    ["-m", "birdkit.notebooks", "-p", "data", tmp_path / "demo", "-p", "work", tmp_path / "work"]):
        done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    auc = json.loads((tmp_path / "work/infer.json").read_text())["auc"]
    simple = subprocess.run([sys.executable, "tests/bench/baseline.py", str(tmp_path / "demo")], cwd=ROOT, capture_output=True, text=True, check=True)
    simple = float(simple.stdout.split()[-1])                           # .658 here
    assert simple <= .80 and auc >= .89 and auc >= simple + .15, (auc, simple)      # .924 here; seeds and machines differ by some .03
