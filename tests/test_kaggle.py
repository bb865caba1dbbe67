"What goes to Kaggle: built from the checkout, and accepted by Kaggle's own client with its network call replaced."
import json, os, subprocess, sys, tempfile
from importlib.util import find_spec
from shutil import copy, copytree, ignore_patterns

import pytest
from conftest import ROOT
from toys import toy_export

from birdkit.core import KitError
from birdkit.kaggle import FILL, KEPT, build, main, push_upload, required
from birdkit.notebooks import notebook_parameters
from birdkit.recipe import all_recipes
from birdkit.uploads import META, check_upload, kernel_problems, read_upload, submission_problems
from birdkit.wheels import PINNED, TAGS, read_pins

needs_client = pytest.mark.skipif(not find_spec("kaggle"), reason="Kaggle's client is not installed")     # to import it is to log in
SETS, KERNELS = ("birdkit-models", "birdkit-wheels", "birdkit-demo"), ("birdkit-train", "birdkit-submit")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "A checkout of what is needed, and everything in it built but the wheels, which are a download."
    project = tmp_path_factory.mktemp("project")
    for name in ("kaggle_datasets", "nbs"): copytree(ROOT / name, project / name, ignore=ignore_patterns("build"))
    copy(ROOT / "settings.ini", project)
    toy_export(project / "work/export/toy")
    (project / "work/demo/train_audio").mkdir(parents=True)
    (project / "work/demo/train.csv").write_text("primary_label,filename\n")
    return {u.name: u for u in build([n for n in FILL if n != "birdkit-wheels"], project, owner="ada", competition="birdclef-2025")}


def test_every_upload_is_described_and_sound():
    for name in FILL:
        upload = read_upload(ROOT / "kaggle_datasets" / name, "ada")
        assert upload.name == name and (upload.folder / "README.md").exists()
        if upload.kind == "dataset": check_upload(upload)
    assert {p.parent.name for p in (ROOT / "kaggle_datasets").glob("birdkit-*/*-metadata.json")} == set(FILL)


def test_pins_cover_every_python():
    pins = read_pins(ROOT / "kaggle_datasets/birdkit-wheels" / PINNED)
    assert {name: len(hashes) for (name, _), hashes in pins.items()} == {"openvino": len(TAGS), "openvino-telemetry": 1, "miniaudio": len(TAGS)}


def test_all_is_built(built):
    assert set(built) == set(FILL) - {"birdkit-wheels"}
    assert (built["birdkit-models"].folder / "manifest.json").exists() and "06_infer" in built["birdkit-models"].meta["description"]
    submit, train = built["birdkit-submit"], built["birdkit-train"]
    assert submission_problems(submit.meta) == [] and submit.meta["dataset_sources"] == ["ada/birdkit-wheels", "ada/birdkit-models"]
    assert train.meta["competition_sources"] == ["birdclef-2025"] and train.meta["enable_gpu"] == "true"


def test_the_notebooks_are_the_pipeline(built):
    submit, train = (built[n].folder / f"{n}.ipynb" for n in ("birdkit-submit", "birdkit-train"))
    assert notebook_parameters(submit) == notebook_parameters(ROOT / "nbs/06_infer.ipynb")
    assert notebook_parameters(train) == ["data", "work", "recipe", "overrides", "seed", "scores", "past", "minutes", "fold", "rounds"]
    for path in (submit, train):
        cells = json.loads(path.read_text())["cells"]
        code = [c for c in cells if c["cell_type"] == "code"]
        first = code[0]["source"]
        assert "birdkit-wheels.txt" in first and not any(line.startswith(("from birdkit", "import birdkit")) for line in first.splitlines())
        assert not any(c["outputs"] for c in code) and len({c["id"] for c in cells}) == len(cells)


def test_parameters_are_written_into_the_notebooks(tmp_path):
    for name in ("kaggle_datasets", "nbs"): copytree(ROOT / name, tmp_path / name, ignore=ignore_patterns("build"))
    copy(ROOT / "settings.ini", tmp_path)
    wanted = dict(recipe="birdclef2025_01", fold=2, overrides={"optim.epochs": 3}, budget_min=80)
    train, submit = build(KERNELS, tmp_path, parameters=wanted)
    for upload, own in ((train, ("recipe", "fold", "overrides")), (submit, ("recipe", "overrides", "budget_min"))):
        cells, known = json.loads((upload.folder / upload.meta["code_file"]).read_text())["cells"], {}
        exec(next(c["source"] for c in cells if "parameters" in c["metadata"].get("tags", [])), known)
        assert {k: known[k] for k in own} == {k: wanted[k] for k in own} and known["seed"] == 0 and known["data"] == "auto"
    with pytest.raises(KitError, match="-p recipe is for notebooks, and none was built"): build([], tmp_path, parameters=dict(recipe="small"))
    with pytest.raises(KitError, match="no notebook has a parameter 'fold'; "): build(["birdkit-submit"], tmp_path, parameters=dict(fold=2))
    with pytest.raises(KitError, match="parameter budget_min='80' is of type str"): build(["birdkit-submit"], tmp_path, parameters=dict(budget_min="80"))
    with pytest.raises(KitError, match="minutes='auto540' is not a time"): build(["birdkit-train"], tmp_path, parameters=dict(minutes="auto540"))
    for wrong, told in ((dict(recipe="smal"), "recipe 'smal' is unknown; did you mean small"), (dict(fold=5), 'fold=5 does not exist: give 0 to 4, or "all"'),
                        (dict(fold="0"), "fold='0' does not exist"), (dict(overrides={"optim.epoch": 3}), "optim.epoch"),
                        (dict(overrides={"model.head": "sad"}), "model.head='sad' is unknown; did you mean sed"),
                        (dict(rounds="atuo"), "rounds='atuo' is not a number of rounds"), (dict(scores="nwe"), "scores='nwe' is unknown; did you mean new")):
        with pytest.raises(KitError, match=told): build(["birdkit-train"], tmp_path, ["birdkit-train"], wrong)
    outside = {"pseudo": dict(how="embed", options=[["path", "/kaggle/input/perch/perch.onnx"]])}
    for right in (dict(fold="all"), dict(overrides=outside), dict(fold=7, overrides={"data.folds": 8}), dict(recipe="/kaggle/input/mine/recipe.json")):
        assert build(["birdkit-train"], tmp_path, parameters=right)
    assert build(["birdkit-train", "birdkit-submit"], tmp_path, ["birdkit-submit"], dict(recipe="mine"))           # the name of an export


def packages_of(recipe):
    "What a recipe needs beyond what every training does."
    words = {recipe.infer.precision, *(step for step, *_ in (*recipe.data.clean, *recipe.augment.wave))}
    needs = dict(int8="nncf", audiomentations="audiomentations", label_issues="cleanlab", speech="silero-vad", silence_split="silero-vad")
    return {needs[word] for word in words & set(needs)}


def test_training_on_kaggle_has_every_package(built):
    cells = json.loads((built["birdkit-train"].folder / "birdkit-train.ipynb").read_text())["cells"]
    source = [c["source"] for c in cells if c["cell_type"] == "code"][1]
    wanted = required(ROOT)
    assert all(json.dumps(r) in source for name, r in wanted.items() if name not in KEPT) and not any(json.dumps(wanted[name]) in source for name in KEPT)
    needed = {name for recipe in all_recipes().values() for m in recipe.members() for name in packages_of(m)}
    assert needed == {"nncf", "audiomentations", "cleanlab", "silero-vad"} and needed < set(wanted)


def test_names_may_stand_behind_options(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("birdkit.kaggle.build", lambda names, **options: asked.append((names, options)) or [])
    for words in ("--owner ada --competition birdclef-2025 -p fold 2 "
                  "birdkit-submit birdkit-wheels", "birdkit-submit --owner ada birdkit-wheels -p fold 2 --competition birdclef-2025"):
        main(["build", *words.split()])
    assert asked == [(["birdkit-submit", "birdkit-wheels"],
                      dict(owner="ada", models=None, competition="birdclef-2025", after=[], attach=[],
                           needed=["birdkit-submit", "birdkit-wheels"], parameters=dict(fold=2)))] * 2
    with pytest.raises(SystemExit): main(["build", "--ownr", "ada", "birdkit-submit"])
    assert "--ownr" in capsys.readouterr().err


def test_what_is_missing_is_one_line(tmp_path, capsys):
    copytree(ROOT / "kaggle_datasets", tmp_path / "kaggle_datasets", ignore=ignore_patterns("build"))
    assert build(["birdkit-models", "birdkit-demo"], tmp_path) == []
    assert capsys.readouterr().out.splitlines() == [
        "birdkit-models: left out, no exported models in work/export: run 05_distill, or give --models FOLDER",
        "birdkit-demo: left out, no demo in work/demo: run python data_prep/make_demo.py --out work/demo"]
    assert not (tmp_path / "kaggle_datasets/build/birdkit-models").exists()


@pytest.mark.parametrize("needed", [(), ("birdkit-models",)])
def test_models_in_the_build_folder_are_refused_and_stay(tmp_path, monkeypatch, needed):
    copytree(ROOT / "kaggle_datasets", tmp_path / "kaggle_datasets", ignore=ignore_patterns("build"))
    folder = tmp_path / "kaggle_datasets/build/birdkit-models"
    toy_export(folder)
    files = sorted(folder.iterdir())
    monkeypatch.chdir(folder)
    for models in (folder, ".", f"{tmp_path}/nbs/../kaggle_datasets/build/birdkit-models/"):
        with pytest.raises(KitError, match="lies in .*/kaggle_datasets/build, whose folders are emptied: copy it elsewhere"):
            build(["birdkit-models"], tmp_path, needed, models=str(models))
        assert len(files) > 2 and sorted(folder.iterdir()) == files


def test_what_was_named_must_be_built(tmp_path, monkeypatch, capsys):
    copytree(ROOT / "kaggle_datasets", tmp_path / "kaggle_datasets", ignore=ignore_patterns("build"))
    for name, stand_in in dict(find_owner=lambda: "ada", project_root=lambda: tmp_path).items(): monkeypatch.setattr(f"birdkit.kaggle.{name}", stand_in)
    with pytest.raises(SystemExit, match="KitError: no exported models in work/export"): main(["build", "birdkit-models"])
    monkeypatch.setitem(FILL, "birdkit-wheels", lambda folder, *rest: None)        # no download
    for name in KERNELS: monkeypatch.delitem(FILL, name)
    main(["build"])
    assert "birdkit-models: left out, no exported models" in capsys.readouterr().out
    for words, told in ((["--competition", "Bird CLEF"], "'Bird CLEF' is no competition's slug"),
                        (["--attach", "BirdCLEF"], "'BirdCLEF' is no competition's slug"),
                        (["--owner", "Me Me"], "--owner 'Me Me' is no Kaggle name"), (["--after", "mine"], "'mine' is not owner/slug")):
        with pytest.raises(SystemExit, match=told): main(["build", "birdkit-demo", *words])


@pytest.mark.parametrize("names, options", [([], []), (["birdkit-wheels", "birdkit-models"], []), ([], ["--models", "gone"])])
def test_nothing_is_pushed_without_models(tmp_path, monkeypatch, names, options):
    copytree(ROOT / "kaggle_datasets", tmp_path / "kaggle_datasets", ignore=ignore_patterns("build"))
    pushed = []
    for name, stand_in in dict(find_owner=lambda: "ada", project_root=lambda: tmp_path, push_upload=pushed.append).items():
        monkeypatch.setattr(f"birdkit.kaggle.{name}", stand_in)
    monkeypatch.setitem(FILL, "birdkit-wheels", lambda folder, *rest: None)        # no download
    with pytest.raises(SystemExit, match="KitError: .*(05_distill|gone)"): main(["push", *names, *options])
    assert pushed == [] and not (tmp_path / "kaggle_datasets/build/birdkit-models").exists()
    with pytest.raises(SystemExit, match="KitError: no demo in work/demo"): main(["push", "birdkit-wheels", "birdkit-demo"])
    assert pushed == []
    main(["push", "birdkit-wheels"])                                             # asked for alone, it needs no models
    assert [u.name for u in pushed] == ["birdkit-wheels"]


def test_datasets_are_pushed_before_the_notebooks_that_need_them(monkeypatch):
    pushed = []
    read = lambda names, **options: [read_upload(ROOT / "kaggle_datasets" / name, "ada") for name in names]
    for name, stand_in in dict(find_owner=lambda: "ada", build=read, push_upload=pushed.append).items(): monkeypatch.setattr(f"birdkit.kaggle.{name}", stand_in)
    main("push birdkit-submit birdkit-wheels birdkit-train birdkit-models".split())
    assert [u.name for u in pushed] == ["birdkit-wheels", "birdkit-models", "birdkit-submit", "birdkit-train"]


def test_pushing_needs_credentials(tmp_path, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="KitError: no Kaggle credentials: run `kaggle auth login`"): main(["push"])


CLIENT = """
import json, sys
from kaggle.api.kaggle_api_extended import KaggleApi
from requests.exceptions import HTTPError

def refuse(*a, **k): raise HTTPError("404")

class Captured(Exception): pass

class Client:
    "Takes the request instead of the network."
    def __enter__(self): return self
    def __exit__(self, *error): return False
    def __getattr__(self, name): return self
    def __call__(self, request): raise Captured(type(request).__name__, request)

api = KaggleApi()
api.config_values = dict(username="ada")
api.build_kaggle_client = Client
api.dataset_status = refuse
api.with_retry = lambda call: call
files = []
api.upload_files = lambda request, resources, folder, *rest: files.append(folder)
kind, folder = sys.argv[1:]
try: api.dataset_create_new(folder, quiet=True, dir_mode="zip") if kind == "dataset" else api.kernels_push(folder)
except Captured as captured:
    name, request = captured.args
    asked = dict(dataset=("title", "license_name", "is_private"),
                 kernel=("slug", "enable_gpu", "enable_internet", "dataset_data_sources", "competition_data_sources"))[kind]
    print(json.dumps({key: getattr(request, key) for key in asked} | dict(request=name)))
"""


def ask_client(upload):
    "What Kaggle's client would send; it logs in when imported, so it gets a process of its own, a name that is nobody's and a home without a login."
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KAGGLE_")} | dict(KAGGLE_USERNAME="ada", KAGGLE_KEY="none")
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run([sys.executable, "-c", CLIENT, upload.kind, str(upload.folder)],
                              capture_output=True, text=True, env=environment | dict(HOME=home), timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    *warnings, last = done.stdout.splitlines()
    return warnings, json.loads(last)


@needs_client
def test_kaggles_client_takes_all_of_it(built):
    wheels = check_upload(read_upload(ROOT / "kaggle_datasets/birdkit-wheels", "ada"))
    for upload in (*(built[n] for n in SETS if n in built), wheels):
        licence = upload.meta["licenses"][0]["name"]
        sends = dict(title=upload.meta["title"], license_name=licence, is_private=True, request="ApiCreateDatasetRequest")
        assert ask_client(upload) == ([], sends)
    for name, gpu in zip(KERNELS, (True, False)):
        warnings, sent = ask_client(built[name])
        assert warnings == [] and sent["slug"] == f"ada/{name}" and sent["competition_data_sources"] == ["birdclef-2025"]
        assert (sent["enable_gpu"], sent["enable_internet"]) == (gpu, gpu) and sent["dataset_data_sources"] == built[name].meta["dataset_sources"]


@needs_client
@pytest.mark.parametrize("change", [dict(language="julia"), dict(kernel_type="book"), dict(code_file="gone.ipynb"),
                                    dict(dataset_sources=["birdkit-wheels"])])
def test_kaggles_client_refuses_what_we_refuse(built, tmp_path, change):
    copytree(built["birdkit-submit"].folder, tmp_path / "kernel")
    meta = built["birdkit-submit"].meta | change
    (tmp_path / "kernel" / META["kernel"]).write_text(json.dumps(meta))
    assert len(kernel_problems(meta, tmp_path / "kernel")) == 1
    with pytest.raises(AssertionError, match="ValueError"): ask_client(read_upload(tmp_path / "kernel"))


def test_a_push_keeps_what_is_attached(tmp_path, kaggle_server, monkeypatch):
    "Kaggle's client sends all inputs with every push, so what was attached on the site is gone if it is not among them."
    for name in ("kaggle_datasets", "nbs"): copytree(ROOT / name, tmp_path / name, ignore=ignore_patterns("build"))
    copy(ROOT / "settings.ini", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    kaggle_server.answers |= dict(IntrospectToken=dict(active=True, username="ada"),
                                  SaveKernel=dict(ref="/ada/birdkit-train", url="https://www.kaggle.com/ada/birdkit-train", versionNumber=2))
    main("push birdkit-train -p fold 1 --after ada/birdkit-train --attach grace/bird-weights --attach birdclef-2025".split())
    sent = json.loads(next(body for path, body in kaggle_server.asked if path.endswith("SaveKernel")))
    assert sent["kernelDataSources"] == ["ada/birdkit-train"] and sent["datasetDataSources"] == ["ada/birdkit-wheels", "grace/bird-weights"]
    assert sent["competitionDataSources"] == ["birdclef-2026", "birdclef-2025"]
    assert "data = 'birdclef-2026' " in (tmp_path / "kaggle_datasets/build/birdkit-train/birdkit-train.ipynb").read_text()
    for option in ("--after birdkit-train", "--attach grace/Bird_Weights"):
        with pytest.raises(SystemExit, match=f"{option.split()[1]}' is not owner/slug"): main(f"push birdkit-train {option}".split())


def test_kaggles_client_pushes_all_of_it(built, kaggle_server, monkeypatch):
    there = {}                                                                   # the number of each dataset's current version
    def upload(fields):
        slug = fields.get("slug") or fields["datasetSlug"]
        there[slug] = there.get(slug, 0) + 1
        return dict(status="ok", url="https://www.kaggle.com/ada", ref="ada")

    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    kaggle_server.answers |= dict(
        IntrospectToken=dict(active=True, username="ada"), CreateDataset=upload, CreateDatasetVersion=upload,
        StartBlobUpload=lambda fields: dict(token="t", createUrl=os.environ["FAKE_KAGGLE"] + "/blob"),
        GetDatasetStatus=lambda fields: dict(status="ready") if fields["datasetSlug"] in there else (404, "none"),
        GetDataset=lambda fields: dict(currentVersionNumber=there[fields["datasetSlug"]]),
        SaveKernel=dict(ref="/ada/birdkit-submit", url="https://www.kaggle.com/ada/birdkit-submit", versionNumber=1))
    for name in ("birdkit-models", "birdkit-demo"):
        assert "is being created" in push_upload(built[name])
        assert "version is being created" in push_upload(built[name])
    assert push_upload(built["birdkit-submit"]).startswith("Kernel version 1 successfully pushed")
    asked = [path.rpartition("/")[2] for path, _ in kaggle_server.asked]
    calls = [n for n in asked if n.startswith(("Create", "Save")) or n == "GetDataset"]
    assert calls == ["CreateDataset", "GetDataset", "CreateDatasetVersion", "GetDataset"] * 2 + ["SaveKernel"]
    sent = [json.loads(body)["name"] for path, body in kaggle_server.asked if path.endswith("StartBlobUpload")]
    assert {"manifest.json", "train_audio.zip", "train.csv"} <= set(sent) and len(sent) == asked.count("blob")
