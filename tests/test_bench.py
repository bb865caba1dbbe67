"The benchmarks run, small: both sides do the same work, and the tables have their lines."
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from toys import LABELS, toy_export, toy_folder

from birdkit.audio import SR, decode, write_ogg
from birdkit.averages import batch_norms
from birdkit.convert import real_windows
from birdkit.core import KitError
from birdkit.distill import FinalModel
from birdkit.export import export_runs
from birdkit.recipe import Recipe, find_recipe
from birdkit.trained import TrainedModel

sys.path.insert(0, str(ROOT / "tests" / "bench"))


@pytest.fixture(scope="module")
def infer():
    import infer
    return infer


def melody(path, rows, seed):
    "A file in which every row is another tone."
    rng, t = np.random.default_rng(seed), np.arange(5 * SR) / SR
    tone = lambda: .2 * np.sin(2 * np.pi * rng.uniform(500, 12_000) * t) * (np.sin(2 * np.pi * rng.uniform(.5, 8) * t) > 0) + rng.normal(0, .01, len(t))
    write_ogg(path, np.concatenate([tone() for _ in range(rows)]).astype("float32"))
    return path


@torch.no_grad()
def awake(model, samples):
    "An untrained network that tells windows apart: norms of these samples, logits of zero mean and unit spread."
    inputs, last = [torch.from_numpy(x) for x in real_windows(model.recipe, samples, 24)], model.head.attend.classify
    for norm in batch_norms(model): norm.momentum = 1.
    model.train()(*inputs)
    last.weight.normal_()
    logits = model.eval()(*inputs)[0] - last.bias
    last.weight.div_(logits.std(0).mean())
    last.bias.copy_(-logits.mean(0) / logits.std(0).mean())
    return model


def test_four_ways_say_the_same(infer, tmp_path, monkeypatch):
    files = [melody(tmp_path / f"{k}.ogg", infer.ROWS, k) for k in range(2)]
    samples, make = np.concatenate([decode(f).samples for f in files]), infer.make_model
    monkeypatch.setattr(infer, "make_model", lambda net: awake(make(net), samples))
    said = {name: np.stack(way(files)).reshape(2, infer.ROWS, -1) for name, way in infer.ways_of("mnasnet_small", files, tmp_path).items()}
    assert said["a"].shape == (2, 12, 206) and min(x.std((0, 1)).mean() for x in said.values()) > .1
    assert np.abs(said["b"] - said["c"]).max() < 1e-4           # ONNX Runtime and OpenVINO
    about = {name: (x - x.mean((0, 1))).ravel() for name, x in said.items()}
    # the public way hears each window by itself, int8 is near; windows in another order have 0
    for name in "ad": assert np.corrcoef(about[name], about["c"])[0, 1] > .4


def test_table_and_ensemble(infer, tmp_path, capsys):
    files = infer.make_files(tmp_path, 4)
    table = infer.table_of(["mnasnet_small"], files, tmp_path, 1)
    assert (table.filter(like="ms a file") > 0).all(axis=None) and len(table) == 1
    infer.ensemble(2, files, tmp_path / "e", net="mnasnet_small")
    said = capsys.readouterr().out
    assert all(part in said for part in ("passes fit into 90 minutes", "floor before it", "floor after it"))


def test_an_interrupted_table_holds_what_was_done(infer, tmp_path, monkeypatch):
    def turns(net, *rest):
        yield dict(a=8., b=4., c=2., d=1., memory=.5)
        raise KeyboardInterrupt
    monkeypatch.setattr(infer, "take_turns", turns)
    assert infer.table_of(["one", "two"], [], tmp_path, 3).iloc[0].to_dict() == {
        "network": "one", "rounds": 1, "a, ms a file": 8, "b, ms a file": 4, "c, ms a file": 2,
        "d, ms a file": 1, "a / c": 4, "b / c": 2, "c / d": 2, "memory, GB": .5}


def test_links_stand_for_many_files(infer, tmp_path):
    files = infer.make_files(tmp_path, 5, distinct=2)
    assert len(files) == 5 and len({f.stat().st_ino for f in files}) == 2


def test_frontend_table(capsys, monkeypatch):
    import frontend
    monkeypatch.setattr(sys, "argv", ["frontend", "--batch", "2", "--repeats", "1"])
    frontend.main()
    assert capsys.readouterr().out.count("|") >= 12


def test_validation_ranks_variants(demo, tmp_path):
    import validation
    validation.main(["--data", str(demo), "--work", str(tmp_path), *"--recipe tiny --epochs 1 --only plain short student --seeds 1 --most 2 --turns 5".split()])
    assert (tmp_path / "validation.csv").read_text().count("\n") == 4
    toy = pd.DataFrame(dict(name=list("abcd"), public=[.5, .6, .7, .8], focal=[.9, .8, .7, .6], scene=[.5, .6, .8, .7]))
    found = validation.rank_agreement(toy)
    assert np.allclose(found.loc["focal"], -1)
    assert np.allclose(found.loc["scene"], [1 - 6 * 2 / (4 * 15), (5 - 1) / 6])      # one of six pairs is the wrong way round


def test_store_table(tmp_path):
    import store
    reads = store.table(tmp_path, 3, 8, 5, .05)
    assert reads["audio store"] > 10 * reads["OGG, soundfile seek and read"]
    assert set(store.whole_files(tmp_path, ["0", "1", "2"], 1)) == {"soundfile.read", "decode", "librosa.load"}


def test_models_table(capsys, monkeypatch):
    import models
    monkeypatch.setattr(models, "BATCH", 2)
    monkeypatch.setattr(models, "SIZE", (32, 64))
    monkeypatch.setattr(sys, "argv", ["models", *"--backbones mnasnet_small --heads pool deep --under mnasnet_small --repeats 1".split()])
    models.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[0] == ["", "parameters, M", "MACs, G", "torch, ms", "OpenVINO f32, ms", "ratio"]
    assert [row[0] for row in rows[2:]] == ["mnasnet_small", "head pool", "head deep"] and all(float(row[1]) > 0 for row in rows[2:])


def test_post_table(monkeypatch):
    import post
    for name, value in dict(FILES=3, CLASSES=8, RUNS=1).items(): monkeypatch.setattr(post, name, value)
    first, *lines = post.main(2)
    assert first.startswith("36 rows, 8 classes") and [line.split()[0] for line in lines] == [*post.POST, "2", *post.BLENDS]


def test_modes_table(tmp_path, capsys, monkeypatch):
    import modes
    data, rows = toy_folder(tmp_path / "data"), [f"soundscape_{k}_{end}" for k, s in ((1, 10), (2, 60)) for end in range(5, s + 1, 5)]
    sure = np.random.default_rng(0).random((len(rows), len(LABELS))) > .5
    pd.concat([pd.Series(rows, name="row_id"), pd.DataFrame(sure.astype(int), columns=LABELS)], axis=1).to_csv(data / "test_soundscapes_truth.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["modes", str(data), str(toy_export(tmp_path / "export")), "--turns", "1"])
    modes.main()
    said = capsys.readouterr().out
    assert said.startswith("toy on 2 files of data")
    assert [name for name in modes.MODES if f"| {name} " in said] == [name for name in modes.MODES if "dense" not in name]
    recipe, run = Recipe("run").but({"model.backbone": "mnasnet_small", "model.weights": "none",
                                     "frontend": dict(n_mels=32, hop=1600, wave="none", scale="log"), "infer.post": []}), tmp_path / "run"
    run.mkdir()
    TrainedModel(recipe, LABELS).save(run)
    export_runs({"net": FinalModel(run)}, tmp_path / "refused", np.zeros(12 * SR, "float32"), [.1] * len(LABELS))
    monkeypatch.setattr(sys, "argv", ["modes", str(data), str(tmp_path / "refused"), "--turns", "1", "--run", str(run)])
    modes.main()
    said = capsys.readouterr().out
    assert [name for name in modes.MODES if f"| {name} " in said] == list(modes.MODES)          # its halves are heard, though the export has none


def test_costs_are_one_command(tmp_path, capsys, monkeypatch):
    import birdkit.costs as costs
    lite = find_recipe("tiny", {"model.backbone": "mobilenetv3_small_050", "model.weights": "none"})
    for place in ("costs", "recipe"): monkeypatch.setattr(f"birdkit.{place}.all_recipes", lambda: {"tiny": lite})
    costs.main(["--files", "7", "--out", str(tmp_path / "costs.md")])
    text = (tmp_path / "costs.md").read_text()
    assert text in capsys.readouterr().out and [line.split(" | ")[0] for line in text.splitlines()] == ["| recipe", "| ---", "| tiny"]


def test_prepare_measures_both_sides(tmp_path):
    import prepare
    found = prepare.measure(prepare.make_files(tmp_path / "recordings", 8), 2, 1, tmp_path)
    assert found["sound"] > 80 and found["peak"] > 1e7
    table = prepare.stages(sorted((tmp_path / "recordings").iterdir()), tmp_path / "stages")
    assert table.files.tolist() == [2, 2, 8, 8] and (table.cores > 0).all()


def test_the_ladder_adds_up_gains_and_spread():
    import ladder
    means = {"supervised": .80, "+ round 1": .83, "+ round 2": .84, "+ soup": .835}
    runs = pd.DataFrame([(step, score + d) for step, score in means.items() for d in (-.01, 0, .01)], columns=["step", "score"])
    table = ladder.ladder(runs)
    assert table.step.tolist() == list(means) and table.runs.tolist() == [3] * 4
    np.testing.assert_allclose(table[["score", "spread", "gain"]][1:3], [[.83, .01, .03], [.84, .01, .04]])
    assert ladder.ladder(runs[:1]).spread.isna().tolist() == [True]


def test_ladder_has_its_steps(demo, tmp_path):
    import ladder
    ladder.main(["--data", str(demo), "--work", str(tmp_path), *"--recipe tiny --seeds 1 --rounds 1".split()])
    assert (tmp_path / "ladder.csv").read_text().count("\n") == 5 and (tmp_path / "ladder.png").exists()


@pytest.fixture
def league(monkeypatch, request):
    "The league with a backbone of seconds."
    import league
    for field, value in (("backbone", "test_resnet"), ("weights", "none")): monkeypatch.setitem(league.EQUAL, f"model.{field}", value)
    monkeypatch.setattr(league, "run_jobs", lambda script, argv, jobs, work: [league_job(script, argv, job) for job in jobs] and [])
    return league


def league_job(script, argv, job):
    "A job in this process, where the backbone is small."
    import importlib
    importlib.import_module(script.rpartition("/")[2].removesuffix(".py")).main([*argv, "--job", job])


def test_league_judges_what_was_submitted(league, demo, tmp_path):
    words = ["--data", str(demo), "--work", str(tmp_path), *"--minutes .01 --systems tiny birdclef2025_03 --turns 20".split()]
    league.main(words)
    table = pd.read_csv(tmp_path / "league.csv").set_index("system")
    assert set(table.index) == {"tiny", "birdclef2025_03"} and table.gain["tiny"] == 0
    assert table.spread.isna().all()                                         # of one seed nobody knows it
    assert (table.low <= table.auc + .1).all() and (table.low <= table.high).all() and (table.infer_s > 0).all() and (table.passes > 0).all()
    before = (tmp_path / "tiny-seed0/done.json").stat().st_mtime_ns
    league.main(words)                                                       # nothing is trained twice
    assert (tmp_path / "tiny-seed0/done.json").stat().st_mtime_ns == before and (tmp_path / "league.png").exists()
    with pytest.raises(KitError, match="tiny-seed0 was planned with other values of minutes: delete it, or give another --work"):
        league.main([*words, "--minutes", ".02"])


def test_the_truth_may_stand_in_any_order(tmp_path):
    from contest import known_rows
    rows, paths = ["b_5", "b_10", "a_10", "a_5"], [tmp_path / "a.ogg", tmp_path / "b.ogg"]
    comp = SimpleNamespace(folder=tmp_path, classes=["owl"], test_files=paths, truth=lambda: pd.DataFrame({"row_id": rows, "owl": [1, 2, 4, 3]}))
    assert {path.stem: values[:, 0].tolist() for path, values in known_rows(comp).items()} == {"a": [3, 4], "b": [1, 2]}


def test_another_recipe_is_cleaned_by_its_own_rules(tmp_path):
    from contest import open_world
    toy_folder(tmp_path / "data", audio=True)
    whole, loud = find_recipe("tiny", {"data.clean": []}), find_recipe("tiny", {"data.clean": [["loudness", .5]]})
    opened = lambda recipe: open_world(str(tmp_path / "data"), str(tmp_path / "work"), "rounds-seed0", recipe)
    kept = lambda recipe: pd.read_csv(opened(recipe).space.clean / "segments.csv").keep.mean()
    assert kept(whole) == 1 and kept(loud) < 1 and kept(whole) == 1


def test_a_job_is_not_taken_for_another(league, tmp_path, monkeypatch):
    recipe, world = league.level(find_recipe("tiny")), SimpleNamespace(space=SimpleNamespace(root=tmp_path, clean=tmp_path / "clean"))
    (tmp_path / "clean").mkdir()
    monkeypatch.setattr(league, "learn", lambda world, recipe, space: ([], [pd.DataFrame(dict(seconds=[1.]))]))
    first = league.plan(world, recipe, 1.)
    assert league.plan(world, recipe.but(about="said otherwise"), 1.) == first
    for said, wanted, minutes in (("optim.lr, loss.name", recipe.but({"optim.lr": 1., "loss.name": "bce"}), 1.), ("minutes", recipe, 2.)):
        with pytest.raises(KitError) as told: league.plan(world, wanted, minutes)
        assert str(tmp_path) in str(told.value) and all(name in str(told.value) for name in said.split(", "))
    (tmp_path / "recipe.json").unlink()                                      # killed before it was planned to the end
    with pytest.raises(KitError, match="delete it, or give another --work"): league.plan(world, recipe, 2.)
    first.save(tmp_path / "recipe.json")
    (tmp_path / "planned.json").unlink()                                     # planned before this was kept
    assert league.plan(world, recipe, 2.) == first and not (tmp_path / "planned.json").exists()


def test_a_plan_of_another_version_is_named(league, tmp_path):
    (tmp_path / "planned.json").write_text('{"minutes": 1, "recipe": {"name": "tiny", "gone": 1}}')
    with pytest.raises(KitError, match=f"{tmp_path}: recipe tiny was written by another version.*delete it, or give another --work"):
        league.check_planned(tmp_path, find_recipe("tiny"), 1)


def test_students_are_alike_too(league):
    recipe = find_recipe("tiny").but({"pseudo.student": (("optim.batch", 320), ("model.drop_path", .15))})
    assert league.level(recipe).pseudo.student == (("model.drop_path", .15),)
    for name in ("birdclef2024_03", "birdclef2025_11"):
        system = league.level(find_recipe(name))
        assert system.but(dict(system.pseudo.student)).optim.batch == league.EQUAL["optim.batch"]


def test_ablations_of_two_recipes_share_no_folder(league):
    import ablation
    chosen = [set(ablation.choose(SimpleNamespace(recipe=name, without=list(ablation.WITHOUT)))) for name in ("small", "best", "base")]
    assert all(len(names) > 5 for names in chosen) and len(set.union(*chosen)) == sum(map(len, chosen))


def test_the_league_stretches_restarts_by_whole_cycles(league):
    once, again = (SimpleNamespace(schedule=name, cycle_epochs=5) for name in ("cosine", "restarts"))
    assert [league.stretched(once, 15, f) for f in (.01, .75, 2.)] == [1, 11, 30]
    assert [league.stretched(again, 15, f) for f in (.01, .75, 2.)] == [5, 10, 30]


def test_a_technique_is_taken_out(league, demo, tmp_path):
    import ablation
    ablation.main(["--data", str(demo), "--work", str(tmp_path), *"--recipe tiny --minutes .01 --without students post --seeds 1 --turns 5".split()])
    table = pd.read_csv(tmp_path / "ablation.csv").set_index("system")
    assert table.epochs.astype(str).str.count(r"\+").to_dict() == {"tiny": 1, "tiny-without-students": 0, "tiny-without-post": 1}
    assert not (tmp_path / "tiny-without-post-seed0").exists() and table.auc["tiny-without-post"] != table.auc["tiny"]     # the same models, heard otherwise


def test_speech_is_found_and_a_hum_is_not(tmp_path):
    import speech
    for seed in range(2): melody(tmp_path / f"{seed}.ogg", 2, seed)
    table, cut = speech.measure(sorted(tmp_path.glob("*.ogg")), mixes=4)
    assert table.index.tolist() == list(speech.SETTINGS) and not table.clips.any() and not cut
    assert table.loc["Silero's", "5 dB"] > .5 and (table["5 dB"] >= table["-10 dB"]).all()
    assert speech.found_share([(0., 1.), (2., 3.)], 1.5) == 1 / 3
