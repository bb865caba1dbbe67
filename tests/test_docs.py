"What the README, its companions and the committed notebooks say is what is there."
import json, re

import pandas as pd
import pytest
from conftest import ROOT

from birdkit.notebooks import take_picture
from birdkit.recipe import list_recipes

DOCS = ("README.md", "MEASURED.md", "CONTRIBUTING.md", "data_prep/README.md", "kaggle_datasets/README.md", "kaggle_datasets/birdkit-train/README.md")
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "nbs").rglob("[0-9]*.ipynb"))


def outputs(path):
    "All outputs of a notebook."
    return [out for cell in json.loads(path.read_text())["cells"] for out in cell.get("outputs", [])]


def test_the_readme_lists_the_recipes_as_they_are():
    lines = README[README.index("| recipe | year |"):].split("\n\n")[0].splitlines()[2:]
    told = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    table = list_recipes().query("recipe != 'plain'").drop(columns="about")
    cost = lambda v: "" if pd.isna(v) else f"{v:.1f}" if v < 10 and v % 1 else f"{v:,.0f}"
    as_told = dict(backbones=table.backbones.str.replace("efficientnet", "eff"), minutes=table.minutes.map(cost), train_pflop=table.train_pflop.map(cost))
    rows = table.assign(**as_told).astype(str).to_numpy().tolist()
    assert told == rows, "README.md must list\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows if row not in told)


def test_the_overview_shows_the_recipes_as_they_are():
    cells = lambda html: re.findall(r"<t[hd]>(.*?)</t[hd]>", html)
    with pd.option_context("display.max_rows", 60): wanted = list_recipes().drop(columns="about").set_index("recipe")._repr_html_()
    shown = "".join(next(out for out in outputs(ROOT / "nbs/lib/30e_overview.ipynb") if "text/html" in out.get("data", {}))["data"]["text/html"])
    assert cells(shown) == cells(wanted), "run nbs/lib/30e_overview.ipynb again and commit it"


@pytest.mark.parametrize("name", DOCS)
def test_files_and_headings_that_are_linked_exist(name):
    folder, slug = (ROOT / name).parent, lambda heading: re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / name).read_text()):
        path, _, anchor = link.partition("#")
        target = folder / path if path else ROOT / name
        assert target.exists(), link
        if anchor: assert anchor in map(slug, re.findall(r"^#+ (.*)", target.read_text(), re.M)), link


def source(script):
    "A script's text, with that of what it imports beside it."
    text = script.read_text()
    beside = {script.with_name(f"{module}.py") for module in re.findall(r"^(?:from|import) \.?(\w+)", text, re.M)}
    return text + "".join(p.read_text() for p in beside if p.exists())


@pytest.mark.parametrize("name", DOCS)
def test_commands_exist_with_their_options(name):
    text = (ROOT / name).read_text().replace("\\\n", " ")
    commands = re.findall(r"python (-m birdkit\.\w+|(?:tests/bench|data_prep)/\w+\.py)([^`\n#]*)", text)
    for program, words in commands:
        script = ROOT / (program.removeprefix("-m ").replace(".", "/") + ".py" if program.startswith("-m") else program)
        assert script.exists() and '__name__ == "__main__"' in script.read_text(), program
        known = set(re.findall(r'"(?:--)?(\w[\w-]*)"', source(script)))                  # some add --data and --work in a loop over their names
        assert [option for option in re.findall(r"(?<!\S)--(\w[\w-]*)", words) if option not in known] == [], program
    assert [path for path in re.findall(r"papermill (\S+\.ipynb)", text) if not (ROOT / path).exists()] == []


def test_committed_outputs_are_clean():
    loud = [path.name for path in NOTEBOOKS for out in outputs(path) if out["output_type"] == "error" or out.get("name") == "stderr"]
    assert loud == [] and all(outputs(path) for path in (ROOT / "nbs").glob("0*.ipynb"))


def test_code_cells_keep_to_the_length_of_lines():
    most = int(re.search(r"^line-length = (\d+)", (ROOT / "ruff.toml").read_text(), re.M)[1])         # ruff itself sees the modules alone
    width = {path: 110 if path.parent.name == "nbs" else most for path in NOTEBOOKS}                  # the six are read on a web page
    code = [(path, line) for path in NOTEBOOKS for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"
            for line in "".join(cell["source"]).splitlines()]
    assert [f"{path.name}: {line}" for path, line in code if len(line) > width[path]] == []


@pytest.mark.parametrize("name", ["README.md", "kaggle_datasets/README.md"])
def test_commands_fit_on_a_page(name):
    blocks = re.findall(r"^ *```\n(.*?)^ *```", (ROOT / name).read_text(), re.M | re.S)
    assert len(blocks) > 3 and [line for block in blocks for line in block.splitlines() if len(line) > 100] == []


def test_committed_outputs_have_no_progress_bars():
    bars = {path.name for path in NOTEBOOKS for out in outputs(path) if "it/s]" in "".join(out.get("text", ""))}
    assert bars == {"00_core.ipynb"}, "set BIRDKIT_QUIET in the hidden cell of imports"            # there the bar is the example


def test_the_readme_shows_the_picture_of_the_committed_demo_run(tmp_path):
    take_picture(ROOT / "nbs/06_infer.ipynb", tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes() == (ROOT / "nbs/images/scores.png").read_bytes()       # `make outputs` writes both


def test_the_readme_tells_the_score_of_the_committed_demo_run():
    said = "".join("".join(out.get("text", "")) for out in outputs(ROOT / "nbs/06_infer.ipynb"))
    told = next(line for line in README.splitlines() if line.startswith("| demo: "))
    assert abs(float(told.split("|")[-2]) - float(re.search(r"Macro ROC-AUC (\d\.\d+)", said)[1])) < .0006
