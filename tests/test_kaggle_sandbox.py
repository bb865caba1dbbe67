"06_infer on a machine like Kaggle's: no network, an image without birdkit, inputs read-only, two CPUs, a time limit."
import json, os, re, subprocess, sys
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import ROOT
from sandbox import LACKS, command_in_sandbox, image_venv, usable_namespaces
from toys import LABELS, toy_export, toy_folder

from birdkit.check import check_submission
from birdkit.kaggle import join_notebooks
from birdkit.wheels import LOCK, PINNED, TAGS, birdkit_wheel, fetch_wheels, write_pins

LIMIT_S = 180                                                     # Of one run; it takes a tenth of that


def cannot(reason):
    "Skip where a machine does not allow it; GitHub's do (.github/workflows/test.yml), so there it is a failure."
    (pytest.fail if os.environ.get("GITHUB_ACTIONS") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    "The dataset birdkit-wheels, for this Python."
    folder, tag = tmp_path_factory.mktemp("wheels"), f"cp{sys.version_info.major}{sys.version_info.minor}"
    if tag not in TAGS: pytest.skip(f"no wheels are pinned for {tag}: Kaggle's image has had no such Python")
    faults = fetch_wheels(ROOT / "kaggle_datasets/birdkit-wheels" / PINNED, folder, [tag])
    if faults: cannot(f"OpenVINO's wheel cannot be downloaded: {faults}")
    birdkit_wheel(ROOT, folder)
    write_pins(folder / LOCK, folder.glob("*.whl"))
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    "The dataset birdkit-models."
    return toy_export(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    "Kaggle's image: its Python, and the namespaces the kernel allows."
    namespaces, reason = usable_namespaces(tmp_path_factory.mktemp("probe"))
    if not namespaces: cannot(f"the kernel allows no mount and network namespaces: {reason}")
    return SimpleNamespace(python=image_venv(tmp_path_factory.mktemp("image") / "venv"), namespaces=namespaces, home=tmp_path_factory.mktemp("home"))


@pytest.fixture
def kaggle(image, tmp_path):
    "An empty session: attach(...) puts folders under /kaggle/input, run() runs 06_infer there."
    inputs, working = tmp_path / "input", tmp_path / "working"
    for folder in (inputs, working): folder.mkdir()
    (working / "in.ipynb").write_text(json.dumps(join_notebooks([ROOT / "nbs/06_infer.ipynb"])))

    def attach(source, place):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", source, tmp_path / place], check=True)

    def sandboxed(*command):
        environment = dict(PATH=f"{image.python.parent}:/usr/bin:/bin:/usr/sbin:/sbin", HOME=str(image.home), MPLCONFIGDIR=str(image.home),
                           PIP_CONFIG_FILE=os.devnull, KAGGLE_KERNEL_RUN_TYPE="Batch")
        line = command_in_sandbox(tmp_path / "root", inputs, working, [image.python, *command], image.namespaces)
        return subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S, env=environment, stdin=subprocess.DEVNULL)

    def run():
        return sandboxed("-m", "papermill", "in.ipynb", "out.ipynb", "-k", "python3", "--no-progress-bar")

    return SimpleNamespace(attach=attach, sandboxed=sandboxed, run=run, inputs=inputs, working=working)


def _text(working):
    "What the executed notebook printed."
    outputs = [o for c in json.loads((working / "out.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
    return "".join("".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", "")) for o in outputs)


def _competition(path, year, **options):
    "A competition folder as in the hidden run: its sample submission names every row."
    seconds = options.setdefault("test_s", (240, 240) if year == 2024 else (60, 60, 59.98))
    folder = toy_folder(path, year, **options)
    stems = sorted(f.stem for f in (folder / "test_soundscapes").glob("*.ogg"))
    rows = [f"{stem}_{end}" for stem, s in zip(stems, seconds) for end in range(5, round(s) + 1, 5)]
    if rows: pd.DataFrame({"row_id": rows, **dict.fromkeys(LABELS, .25)}).to_csv(folder / "sample_submission.csv", index=False)
    return folder


@pytest.mark.parametrize("there, outcome", [("true", "Failed"), ("", "Skipped")])
def test_on_github_nothing_here_is_skipped(monkeypatch, there, outcome):
    monkeypatch.setenv("GITHUB_ACTIONS", there)
    with pytest.raises(BaseException) as told: cannot("no namespaces")
    assert (type(told.value).__name__, str(told.value)) == (outcome, "no namespaces")


def test_the_image_has_neither_birdkit_nor_network(kaggle, image):
    probe = f"""import importlib.util as u, os, socket
print([n for n in {LACKS!r} if u.find_spec(n)], sorted(os.listdir('/kaggle')), len(os.sched_getaffinity(0)) <= 2)
for act in (lambda: open('/kaggle/input/x', 'w'), lambda: socket.create_connection(('1.1.1.1', 53), 2)):
    try: act(); print('could')
    except OSError as error: print(error.strerror)"""
    lacks = kaggle.sandboxed("-c", probe)
    assert lacks.stdout.splitlines() == ["[] ['input', 'working'] True", "Read-only file system", "Network is unreachable"], lacks.stderr


def test_without_the_wheels_it_says_what_to_attach(kaggle, models, tmp_path):
    kaggle.attach(_competition(tmp_path / "comp", 2025, test_s=()), "input/birdclef-2025")
    kaggle.attach(models, "input/birdkit-models")
    done = kaggle.run()
    assert done.returncode and "birdkit is not installed: attach the dataset birdkit-wheels with Add Input" in done.stderr


LAYOUTS = {2024: ("input/birdclef-2024", "input/birdkit-wheels", "input/birdkit-models"),
           2025: ("input/competitions/birdclef-2025", "input/datasets/ada/birdkit-wheels", "input/datasets/ada/birdkit-models"),
           2026: ("input/competitions/birdclef-2026", "input/datasets/ada/my-own-wheels/wheels", "input/datasets/grace/models/third-try")}


@pytest.mark.parametrize("year", LAYOUTS)
def test_hidden_run(kaggle, wheels, models, tmp_path, year):
    comp = _competition(tmp_path / "comp", year)
    broken = sorted((comp / "test_soundscapes").iterdir())[0]
    broken.write_text("<html>not sound</html>")
    (kaggle.working / "submission.csv").write_text("row_id,left,over\n")
    for source, place in zip((comp, wheels, models), LAYOUTS[year]): kaggle.attach(source, place)
    done = kaggle.run()
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(kaggle.working / "submission.csv")
    assert check_submission(table, comp / "sample_submission.csv") == []
    assert len(table) == (96 if year == 2024 else 36)
    prior = table.row_id.str.startswith(broken.stem + "_")
    assert (table[prior].iloc[:, 1:] == .1).all(axis=None) and not (table[~prior].iloc[:, 1:] == .1).any(axis=None)
    text = _text(kaggle.working)
    assert f"installed from /kaggle/{LAYOUTS[year][1]}" in text and f"competition birdclef-{year}" in text and f"{broken.name}" in text
    assert not list(kaggle.working.rglob("*.part"))


@pytest.mark.parametrize("year", LAYOUTS)
def test_public_run(kaggle, wheels, models, tmp_path, year):
    comp = _competition(tmp_path / "comp", year, test_s=())
    for source, place in zip((comp, wheels, models), LAYOUTS[year]): kaggle.attach(source, place)
    done = kaggle.run()
    assert done.returncode == 0, done.stderr
    assert check_submission(kaggle.working / "submission.csv", comp / "sample_submission.csv") == []
    text = _text(kaggle.working)
    assert "rehearsing on" in text and "the sample's 1 rows; the hidden run will take about" in text and "of 86 minutes" in text


def test_without_the_models_it_says_what_to_attach(kaggle, wheels, tmp_path):
    kaggle.attach(_competition(tmp_path / "comp", 2025, test_s=()), "input/birdclef-2025")
    kaggle.attach(wheels, "input/birdkit-wheels")
    done = kaggle.run()
    assert done.returncode and "attach the dataset birdkit-models" in done.stderr


@pytest.mark.parametrize("wheel, done_without", [("miniaudio", True), ("birdkit", False)])
def test_a_wheel_that_cannot_be_installed_costs_what_needs_it(kaggle, wheels, models, tmp_path, wheel, done_without):
    comp = _competition(tmp_path / "comp", 2025)
    for source, place in zip((comp, wheels, models), LAYOUTS[2025]): kaggle.attach(source, place)
    for path in (kaggle.inputs.parent / LAYOUTS[2025][1]).glob(f"{wheel}-*.whl"): path.unlink()
    kaggle.sandboxed("-m", "pip", "uninstall", "-qy", "birdkit", "miniaudio")               # the image is that of the tests before
    done = kaggle.run()
    assert (done.returncode == 0) == done_without, done.stderr
    if not done_without: return
    assert check_submission(kaggle.working / "submission.csv", comp / "sample_submission.csv") == []
    text = _text(kaggle.working)
    assert re.search(rf"NOT INSTALLED: {wheel}==\S+ on Python 3\.\d+\.\d+\n", text)
    assert "NO MODEL WAS USED" not in text and "3 of 3 soundscapes were heard" in text


def test_changed_wheels_are_refused(kaggle, wheels, tmp_path):
    kaggle.attach(wheels, "input/birdkit-wheels")
    for wheel in kaggle.inputs.glob("birdkit-wheels/openvino_telemetry*.whl"): wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    attached = "/kaggle/input/birdkit-wheels"
    install = ["-m", "pip", "install", "--no-index", "--no-deps", "--require-hashes", "--target", "/kaggle/working/site"]
    done = kaggle.sandboxed(*install, "--find-links", attached, "-r", f"{attached}/{LOCK}")
    assert done.returncode and "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
