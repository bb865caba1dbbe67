"What the tests share: a small demo, and the pipeline run on it once."
import json, os, subprocess, sys
from pathlib import Path

import pytest
from fake_kaggle import fake_kaggle

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data_prep"))
os.environ["BIRDKIT_QUIET"] = "1"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"      # the servers of the tests are on this machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")     # threads that wait for work leave the cores to others
if "PYTEST_XDIST_WORKER" in os.environ: os.environ.setdefault("OMP_NUM_THREADS", "1")     # several workers have a core each


def pytest_configure(config):
    "The markers of these tests."
    config.addinivalue_line("markers", "slow: large networks; leave them out with -m 'not slow'")


@pytest.fixture(autouse=True)
def same_environment():
    "A test leaves the environment as it was: a Dask cluster sets one thread for all that comes after it."
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def papermill(*arguments, **options):
    "Run the papermill command in the checkout."
    options = dict(stdin=subprocess.DEVNULL) | options
    return subprocess.run([Path(sys.executable).parent / "papermill", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=600, **options)


def notebook_sources():
    "Bytes of every pipeline notebook."
    return {p.name: p.read_bytes() for p in sorted((ROOT / "nbs").glob("0*.ipynb"))}


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    "A demo competition of a fifth of the size, with two files that are not sound."
    from make_demo import make_demo
    return make_demo(tmp_path_factory.mktemp("demo") / "valley", scale=.2, faults=True)[0]


@pytest.fixture(scope="session")
def pipeline(demo, tmp_path_factory):
    "The workspace after all six notebooks, the output of the command, and the notebooks' bytes before it."
    work, before = tmp_path_factory.mktemp("work"), notebook_sources()
    (demo / "test_soundscapes/soundscape_9999999.ogg").write_text("not sound")
    command = [sys.executable, "-m", "birdkit.notebooks", "-p", "data", demo, "-p", "work", work, "-p", "recipe", "tiny"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=1200, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return dict(work=work, text=done.stdout, before=before, report=json.loads((work / "infer.json").read_text()))


@pytest.fixture
def kaggle_server(tmp_path, monkeypatch):
    "A server that Kaggle's own client takes for Kaggle, and nobody logged in; see fake_kaggle.py."
    pytest.importorskip("kagglesdk", reason="Kaggle's client is not installed")
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "KAGGLE_USERNAME", "KAGGLE_KEY"): monkeypatch.delenv(name, raising=False)
    with fake_kaggle(tmp_path) as (handler, environment):
        for name, value in environment.items(): monkeypatch.setenv(name, value)
        yield handler
