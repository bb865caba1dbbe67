"A valid submission at every moment: killed, slow, out of time, many files."
import os, signal, subprocess, sys, threading, time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from birdkit.anytime import one_pass, reserve_s, run_submission
from birdkit.audio import SR, write_ogg
from birdkit.check import check_submission
from birdkit.core import Clock, read_table
from birdkit.recipe import Recipe
from birdkit.runtime import Export, Member, join_exports

CLASSES = ("a", "b")
VALUES = dict(first=.2, second=.4, third=.6)
RECIPE = Recipe("toy").but({"frontend.n_mels": 8, "frontend.hop": 3200, "infer.stride_s": 5., "infer.post": []})


def wanted(count, rows=1):
    "The rows and classes that a submission for these files must have, written by hand."
    return pd.DataFrame({"row_id": [f"s_{k}_{end}" for k in range(count) for end in (5, 10)[:rows]], "a": 0., "b": 0.})


def world(folder, count, rows=1):
    "A competition of `count` files that are all the same sound, and an export of three models."
    write_ogg(folder / "sound.ogg", np.random.default_rng(0).normal(0, .1, 5 * rows * SR).astype("float32"))
    (folder / "test_soundscapes").mkdir()
    files = [folder / f"test_soundscapes/s_{k}.ogg" for k in range(count)]
    for f in files: os.link(folder / "sound.ogg", f)
    taxa = pd.DataFrame(dict(primary_label=CLASSES, scientific_name="", class_name=""))
    comp = SimpleNamespace(classes=CLASSES, rows=lambda f: rows, taxonomy=taxa, soundscape_labels=pd.DataFrame(), recordings=taxa)
    return comp, Export(folder, CLASSES, np.array([.1, .1]), [Member(n, RECIPE, 1., 1., folder / n) for n in VALUES]), files


def stub(tick=lambda name: None):
    "Loads networks that always say the same; `tick` is called with the model's name before each answer."
    def load(path, source, seconds, setting=None):
        def network(x):
            tick(path.name)
            return np.full((len(x), 2), VALUES[path.name]), np.full((len(x), 3, 2), VALUES[path.name])
        return network, []
    return load


def first_value(path):
    "The submission's first score."
    return round(float(read_table(path, "").a[0]), 4)


def kill_in(victim, folder):
    "Run, and die when a model answers while the submission holds what the models before it say: in its pass; the first one in the self-test."
    comp, export, files = world(folder, 4)
    path, before = folder / "submission.csv", list(VALUES)[:list(VALUES).index(victim)]
    expected = round(np.mean([VALUES[n] for n in before]), 4) if before else .1

    def tick(name):
        if name == victim and first_value(path) == expected: os.kill(os.getpid(), signal.SIGKILL)

    run_submission(comp, export, files, path, Clock(90), load=stub(tick))


def run_here(call, timeout=120):
    "Run a function of this file in a process of its own."
    return subprocess.run([sys.executable, "-c", f"import test_anytime; test_anytime.{call}"],
                          cwd=Path(__file__).parent, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("victim, left", [("first", .1), ("second", .2), ("third", .3)])
def test_killed_in_a_pass_leaves_what_came_before(tmp_path, victim, left):
    done = run_here(f"kill_in({victim!r}, test_anytime.Path({str(tmp_path)!r}))")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert first_value(tmp_path / "submission.csv") == left
    assert check_submission(tmp_path / "submission.csv", wanted(4)) == []


def hang_in(what, folder):
    "Run with three seconds of time; an answer in the self-test, or the sixth one in a pass, does not come for a minute."
    import birdkit.anytime as anytime
    comp, export, files = world(folder, 40)
    begun, answers, clock = [], [], Clock(.05)
    anytime.one_pass = lambda *given: begun.append(1) or one_pass(*given)

    def tick(name):
        if begun: answers.append(name)
        if what == "self-test" or len(answers) == 6: time.sleep(60)

    report = run_submission(comp, export, files, folder / "submission.csv", clock, load=stub(tick))[1]
    print(clock.elapsed_s() <= clock.budget_s, report.files[0], *report.what, sep="\n")


@pytest.mark.parametrize("what, left, why", [("pass", .2, "time was up: "), ("self-test", .1, "left out: the self-test had not ended when time was up")])
def test_an_answer_that_does_not_come_is_not_waited_for(tmp_path, what, left, why):
    done = run_here(f"hang_in({what!r}, test_anytime.Path({str(tmp_path)!r}))", 40)           # nor is it at the end of the program
    in_time, files, first, *_ = done.stdout.splitlines()
    assert done.returncode == 0 and in_time == "True" and first.startswith(why) and (0 < int(files) < 40) == (what == "pass"), done.stdout + done.stderr
    assert first_value(tmp_path / "submission.csv") == left and check_submission(tmp_path / "submission.csv", wanted(40)) == []


def first_requests(path):
    "Two threads make the first requests of a process at once, of a network whose pictures may have any size."
    from birdkit.runtime import Setting, load_network
    network, together = load_network(path, Setting(2, 1)), threading.Barrier(2)
    ask = lambda: together.wait() and None or network(np.zeros((1, 1, 2, 3), "float32"))
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()


def test_the_first_requests_of_a_process_do_not_block_each_other(tmp_path):
    import openvino as ov
    x = ov.opset13.parameter([-1, 1, 2, -1], np.float32)
    ov.save_model(ov.Model([ov.opset13.relu(x)], [x]), tmp_path / "any.xml")
    for _ in range(4):
        assert run_here(f"first_requests({str(tmp_path / 'any.xml')!r})", 60).returncode == 0      # one in three hung without the request at load


class SlowMachine:
    "A clock that moves only when a network answers."
    def __init__(self, **seconds): self.time, self.seconds, self.passes = 0., seconds, False
    def __call__(self): return self.time
    def tick(self, name): self.time += self.seconds[name]


@pytest.mark.parametrize("seconds, heard", [
    (dict(first=1, second=1, third=1), ["first", "second", "third"]),
    (dict(first=1, second=30, third=1), ["first", "third"]),          # the second would break the budget, the third does not
    (dict(first=20, second=1, third=1), ["second", "third"]),         # the first would, the others do not
    (dict(first=20, second=20, third=20, fourth=1), ["fourth"]),      # three that do not fit are no reason to leave out one that does
    (dict(first=20, second=20, third=20), []),                        # all are too slow: a part of the first is kept
    (dict.fromkeys([f"m{i}" for i in range(30)], 20), []),            # nor does trying them take all the time
])
def test_a_slow_model_never_breaks_the_budget(tmp_path, monkeypatch, seconds, heard):
    monkeypatch.setattr("birdkit.threads.cores", lambda: 1)              # more would hear more files in the self-test
    monkeypatch.setattr(sys.modules[__name__], "VALUES", {name: .2 * (i + 1) for i, name in enumerate(seconds)})
    comp, export, files = world(tmp_path, 40)
    machine = SlowMachine(**seconds)
    clock = Clock(10, now=machine)
    sheet, report = run_submission(comp, export, files, tmp_path / "submission.csv", clock, load=stub(machine.tick))
    assert clock.elapsed_s() <= clock.budget_s
    assert report.model[report.what == "heard all files"].tolist() == heard
    assert check_submission(tmp_path / "submission.csv", wanted(40)) == []
    if heard: assert first_value(tmp_path / "submission.csv") == round(np.mean([VALUES[n] for n in heard]), 4)
    else: assert first_value(tmp_path / "submission.csv") == .2 and round(float(sheet.scores[-1, 0]), 4) == .1


def test_a_thousand_files_keep_memory_flat(tmp_path, monkeypatch):
    import birdkit.anytime as anytime
    caches, kind = [], anytime.SoundCache
    monkeypatch.setattr(anytime, "SoundCache", lambda gb: caches.append(kind(gb)) or caches[-1])
    comp, export, files = world(tmp_path, 1000)
    sheet, report = run_submission(comp, export, files, tmp_path / "submission.csv", Clock(90), load=stub(), cache_gb=2e-4)
    assert report.what.tolist() == ["heard all files"] * 3
    assert check_submission(tmp_path / "submission.csv", wanted(1000)) == []
    kept = list(caches[0].kept.values())
    assert len(caches) == 1 and kept and sum(x.nbytes for s in kept for x in (*s.spectra, s.wave, *s.levels.values())) <= 2e5


def test_some_files_missing_or_broken(tmp_path):
    comp, export, files = world(tmp_path, 30)
    files[3].unlink(); files[3].write_bytes(b"no sound"); files[7].unlink()
    sheet, report = run_submission(comp, export, files, tmp_path / "submission.csv", Clock(90), load=stub())
    assert sorted(sheet.bad) == ["s_3.ogg", "s_7.ogg"]
    table = read_table(tmp_path / "submission.csv", "")
    assert check_submission(table, wanted(30)) == []
    assert np.allclose(table.a[[3, 7]], .1) and np.allclose(table.a.drop([3, 7]), .4)


def test_nothing_can_be_heard(tmp_path):
    comp, export, files = world(tmp_path, 3)
    for f in files: f.unlink()
    sheet, report = run_submission(comp, export, files, tmp_path / "submission.csv", Clock(90), load=stub())
    assert check_submission(tmp_path / "submission.csv", wanted(3)) == [] and np.allclose(sheet.scores, .1)


def test_models_of_one_frontend_decode_each_file_once(tmp_path, monkeypatch):
    import birdkit.hear as hear
    comp, export, files = world(tmp_path, 20)
    decoded, decode = [], hear.decode
    monkeypatch.setattr(hear, "decode", lambda path, *given: decoded.append(path) or decode(path, *given))
    monkeypatch.setattr("birdkit.anytime.plan_models", lambda sheet, members, *rest: (members, {m.name: stub()(m.path, None, 0)[0] for m in members},
                                                                                     pd.DataFrame(dict(model=list(VALUES), plan="", minutes=1.))))
    run_submission(comp, export, files, tmp_path / "submission.csv", Clock(90), load=stub())
    assert sorted(decoded) == sorted(files)


def test_a_model_left_out_of_the_plan_takes_no_memory_from_those_in_it(tmp_path, monkeypatch):
    import birdkit.hear as hear
    comp, export, files = world(tmp_path, 20)
    other, heard, listen = RECIPE.but({"frontend.n_mels": 16}), [], hear.listen
    monkeypatch.setattr(hear, "listen", lambda samples, rows, *recipes: heard.append(recipes[0].frontend.n_mels) or listen(samples, rows, *recipes))
    members = [Member(f"{kind}{i}", RECIPE if kind == "a" else other, 1., 1., tmp_path / f"{kind}{i}", 1., CLASSES) for i, kind in enumerate("abba")]
    words = ["", "", "", "left out: no time"]
    network = lambda x: (np.full((len(x), 2), .5), np.full((len(x), 3, 2), .5))
    monkeypatch.setattr("birdkit.anytime.plan_models",
                        lambda *given: (members, {m.name: network for m in members},
                                        pd.DataFrame(dict(model=[m.name for m in members], plan=words, minutes=1.))))
    room_gb = 20 * listen(np.zeros(5 * SR, "float32"), 1, other).bytes / 1e9              # for one sound of all files
    report = run_submission(comp, replace(export, members=members), files, tmp_path / "submission.csv", Clock(90), load=stub(), cache_gb=room_gb)[1]
    assert report.what.tolist() == ["heard all files"] * 4
    assert [heard.count(mels) for mels in (8, 16)] == [40, 20]


@pytest.mark.parametrize("broken", VALUES)
def test_a_model_that_breaks_in_its_pass_costs_only_itself(tmp_path, broken):
    comp, export, files = world(tmp_path, 4)
    lopsided = RECIPE.but({"infer.post": [("smooth", "lopsided")]})
    export = replace(export, members=[replace(m, recipe=lopsided) if m.name == broken else m for m in export.members])
    sheet, report = run_submission(comp, export, files, tmp_path / "submission.csv", Clock(90), load=stub())
    what = dict(zip(report.model, report.what))
    assert what.pop(broken).startswith("left out: kernel 'lopsided' is unknown") and set(what.values()) == {"heard all files"}
    assert first_value(tmp_path / "submission.csv") == round(np.mean([VALUES[n] for n in what]), 4) and sheet.heard == 4


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError, IndexError])
@pytest.mark.parametrize("place, heard, why", [("load", 2, "left out: {}: "), ("post_facts", 3, ""), ("plan", 0, "left out: {}: ")])
def test_what_nobody_foresaw_costs_no_more_than_it_must(tmp_path, monkeypatch, capsys, error, place, heard, why):
    comp, export, files = world(tmp_path, 4)

    def odd(path, *given, **options):
        if place == "load" and path.name != "second": return stub()(path, *given)
        raise error("of another version")

    if place != "load": monkeypatch.setattr(f"birdkit.anytime.{place}", odd)
    report = run_submission(comp, export, files, tmp_path / "submission.csv", Clock(90), load=odd if place == "load" else stub())[1]
    what = dict(zip(report.model, report.what))
    assert list(what.values()).count("heard all files") == heard and check_submission(tmp_path / "submission.csv", wanted(4)) == []
    if why: assert what["second"].startswith(why.format(error.__name__)) and first_value(tmp_path / "submission.csv") == (.4 if heard else .1)
    else: assert f"post-processing knows no more than the scores: {error.__name__}: " in capsys.readouterr().out


def test_a_file_that_one_model_heard_is_not_called_bad(tmp_path, monkeypatch):
    comp, export, files = world(tmp_path, 6)
    files[4].unlink()
    passes = []
    monkeypatch.setattr("birdkit.anytime.one_pass", lambda *given: passes.append(1) or one_pass(*given))

    def load(path, *given):
        says = lambda: np.nan if path.name == "second" and passes else VALUES[path.name]
        return lambda x: (np.full((len(x), 2), says()), np.full((len(x), 3, 2), says())), []

    sheet, report = run_submission(comp, export, files, tmp_path / "submission.csv", Clock(90), load=load)
    assert sheet.heard == 5 and list(sheet.bad) == ["s_4.ogg"] and first_value(tmp_path / "submission.csv") == .4


@pytest.mark.parametrize("weights, value", [((0., 1., 1.), .5), ((0., 0., 1.), .6), ((0., 0., 0.), .4), ((1., 3., 0.), .35)])
def test_models_without_weight_are_left_out(tmp_path, weights, value):
    comp, export, files = world(tmp_path, 4)
    export = replace(export, members=[replace(m, weight=w) for m, w in zip(export.members, weights)])
    report = run_submission(comp, export, files, tmp_path / "submission.csv", Clock(90), load=stub())[1]
    assert first_value(tmp_path / "submission.csv") == value
    assert sorted(report.what) == sorted("left out: its weight is 0" if not w and any(weights) else "heard all files" for w in weights)


def test_the_report_has_the_same_columns_however_it_ends(tmp_path):
    comp, export, files = world(tmp_path, 4)

    def refused(*given): raise RuntimeError("this CPU lacks AVX2")

    for minutes, load, heard in ((90, stub(), 4), (0, stub(), 0), (90, refused, 0)):
        sheet, report = run_submission(comp, export, files, tmp_path / "submission.csv", Clock(minutes), load=load)
        assert list(report) == ["model", "files", "predicted_s", "seconds", "what"] and report.seconds.sum() >= 0
        assert sheet.heard == heard and len(report) == 3


def test_a_second_pass_that_is_cut_is_not_used_and_said_so(tmp_path):
    comp, export, files = world(tmp_path, 40)
    machine, path = SlowMachine(first=.1, second=.1), tmp_path / "submission.csv"

    def tick(name):
        if name == "second" and first_value(path) == .2: machine.time += 30          # in its pass, not in the self-test
        machine.tick(name)

    sheet, report = run_submission(comp, replace(export, members=export.members[:2]), files, path, Clock(2, now=machine), load=stub(tick))
    cut = report.set_index("model").loc["second"]
    assert 0 < cut.files < 40 and cut.what == f"time was up: {cut.files} of 40 files not used"
    assert first_value(path) == .2 and sheet.heard == 40


def test_one_slow_file_costs_no_others(tmp_path, monkeypatch):
    comp, export, files = world(tmp_path, 40)
    machine, waits = SlowMachine(first=.1, wait=80), []
    monkeypatch.setattr("birdkit.anytime.one_pass", lambda *given: waits.append("wait") or one_pass(*given))

    def tick(name):
        if waits: machine.tick(waits.pop())                                          # once, in the pass
        machine.tick(name)

    report = run_submission(comp, replace(export, members=export.members[:1]), files, tmp_path / "submission.csv", Clock(2, now=machine), load=stub(tick))[1]
    assert report.what.tolist() == ["heard all files"] and np.isclose(report.seconds[0], 84)          # of 108


# in the shorter time both go without overlap, so that they share their sound
@pytest.mark.parametrize("minutes, seconds", [(2.2, [54, 36]), (1.75, [48, 24])])
def test_times_are_predicted_as_they_will_be(tmp_path, monkeypatch, minutes, seconds):
    import birdkit.hear as hear
    machine, listen = SlowMachine(first=.1, second=.2, listen=.6), hear.listen
    monkeypatch.setattr("birdkit.threads.cores", lambda: 1)
    monkeypatch.setattr(hear, "listen", lambda *given: machine.tick("listen") or listen(*given))
    comp, export, files = world(tmp_path, 60, rows=2)
    members = [replace(m, recipe=RECIPE.but({"infer.stride_s": 2.5})) for m in export.members[:2]]

    def load(path, *given):
        def network(x):
            machine.time += machine.seconds[path.name] * len(x)
            return np.full((len(x), 2), .3), np.full((len(x), 3, 2), .3)
        return network, []

    report = run_submission(comp, replace(export, members=members), files, tmp_path / "submission.csv", Clock(minutes, now=machine), load=load)[1]
    assert report.what.tolist() == ["heard all files"] * 2 and check_submission(tmp_path / "submission.csv", wanted(60, rows=2)) == []
    assert np.allclose(report.seconds, seconds) and np.allclose(report.predicted_s, seconds, rtol=.03)


def test_more_is_kept_back_on_kaggle(monkeypatch):
    assert [reserve_s(Clock(m)) for m in (1, 90)] == [6, 60]
    monkeypatch.setattr("birdkit.anytime.on_kaggle", lambda: True)
    assert [reserve_s(Clock(m)) for m in (1, 90)] == [6, 240]


def test_exports_are_joined_by_the_names_of_their_classes(tmp_path):
    comp, export, files = world(tmp_path, 2)
    says = dict(ours=(.2, .4), theirs=(.8, .6))                                          # of a and b; of b and a

    def load(path, source, seconds, setting=None):
        return lambda x: (np.tile(says[path.name], (len(x), 1)), np.tile(says[path.name], (len(x), 3, 1))), []

    one, other = (replace(export, folder=tmp_path / name, classes=classes, members=[Member("fold0", RECIPE, weight, 1., tmp_path / name)])
                  for name, classes, weight in (("ours", CLASSES, 1.), ("theirs", CLASSES[::-1], 3.)))
    report = run_submission(comp, join_exports([one, other]), files, tmp_path / "submission.csv", Clock(90), load=load)[1]
    assert sorted(zip(report.model, report.what)) == [("ours/fold0", "heard all files"), ("theirs/fold0", "heard all files")]
    assert read_table(tmp_path / "submission.csv", "")[list(CLASSES)].round(4).to_numpy().tolist() == [[.4, .6]] * 2
