"A folder of recordings, from sound to tables: whole or in parts, killed or not, broken files or none."
import os, pickle, signal, subprocess, sys, time
from concurrent import futures
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import ROOT
from test_light_imports import HEAVY
from toys import LABELS, toy_export

from birdkit import detect as module
from birdkit.audio import decode
from birdkit.core import KitError
from birdkit.detect import detect
from birdkit.rows import score_rows
from birdkit.runtime import load_export, load_network


def calls(seconds, rate, seed=0):
    "Noise that is loud for 5 to 15 s now and then."
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.random(int(seconds // 5) + 2) < .4, 5 * rate)[:int(seconds * rate)]
    return (rng.normal(0, .1, len(loud)) * (.02 + loud)).astype("float32")


def recordings(folder, seconds=(12, 31.4, 66)):
    "Two sites, three formats, three rates; a file that is not sound."
    (folder / "hill").mkdir(parents=True)
    kinds = zip(("hill/a.wav", "hill/b.flac", "c.mp3"), (32_000, 48_000, 22_050), seconds)
    for name, rate, length in kinds: sf.write(folder / name, calls(length, rate), rate)
    (folder / "torn.ogg").write_text("not sound")
    return folder


def small(folder, n):
    "Many short recordings."
    folder.mkdir()
    for i in range(n): sf.write(folder / f"{i:03}.wav", calls(6, 8000, i), 8000)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return toy_export(tmp_path_factory.mktemp("models") / "toy")


def scored(path, models):
    "Rows of a recording heard in one piece, without anything of detect."
    member, samples = load_export(models).members[0], decode(path).samples
    return score_rows(samples, -(-len(samples) // 160_000), member.recipe, load_network(member.path))


def test_rows_are_those_of_the_whole_recording(tmp_path, models):
    folder = recordings(tmp_path / "in", (12, 31.4, 700))
    sf.write(folder / "d.ogg", calls(31, 32_000), 32_000)
    report = detect(folder, models, tmp_path / "out", all_scores=True)
    table = pd.read_csv(tmp_path / "out/scores.csv")
    for name in ("hill/a.wav", "hill/b.flac", "c.mp3", "d.ogg"):
        rows = table[table.recording == name]
        np.testing.assert_allclose(rows[LABELS], scored(folder / name, models), atol=1e-5)
        assert rows.start_s.tolist() == list(range(0, 5 * len(rows), 5))
    assert (report.new, report.kept, report.failed.recording.tolist()) == (4, 0, ["torn.ogg"])


def damaged(path, source, at=.9):
    "A copy with some zeros in it."
    data = bytearray(source.read_bytes())
    begin = int(at * len(data))
    data[begin:begin + 3000] = bytes(3000)
    path.write_bytes(data)
    return path


def test_a_fault_costs_what_lies_behind_it(tmp_path, models):
    folder = tmp_path / "in"
    folder.mkdir()
    sf.write(tmp_path / "whole.flac", calls(150, 32_000) + np.random.default_rng(1).normal(0, .01, 150 * 32_000), 32_000)
    path = damaged(folder / "night.flac", tmp_path / "whole.flac")
    report, clip = detect(folder, models, tmp_path / "out", all_scores=True), decode(path)
    assert 120 < clip.duration_s < 140 and report.failed.empty and report.hours * 3600 == pytest.approx(clip.duration_s)
    assert report.flaws.values.tolist() == [["night.flac", clip.flaws[0]]] and "of 150.0 s (" in clip.flaws[0]
    table = pd.read_csv(tmp_path / "out/scores.csv")
    np.testing.assert_allclose(table[LABELS], scored(path, models), atol=1e-5)
    assert table.end_s.max() == pytest.approx(clip.duration_s, abs=1e-3) and (table.end_s > table.start_s).all()
    again = detect(folder, models, tmp_path / "out")                           # kept with the scores
    assert (again.new, again.kept) == (0, 1) and again.flaws.equals(report.flaws)


def test_a_stream_without_length_is_heard(tmp_path, models):
    (tmp_path / "in").mkdir()
    sf.write(tmp_path / "in/told.flac", calls(67.3, 32_000), 32_000)
    data = bytearray((tmp_path / "in/told.flac").read_bytes())
    data[21] &= 0xf0
    data[22:26] = bytes(4)                                                     # number of samples: 0 is unknown
    (tmp_path / "in/untold.flac").write_bytes(data)
    report = detect(tmp_path / "in", models, tmp_path / "out", all_scores=True)
    told, untold = (rows.drop(columns="recording").reset_index(drop=True) for _, rows in pd.read_csv(tmp_path / "out/scores.csv").groupby("recording"))
    assert told.equals(untold) and len(told) == 14 and report.flaws.empty and report.hours == pytest.approx(2 * 67.3 / 3600)


def test_the_last_seconds_are_heard(tmp_path, models):
    (tmp_path / "in").mkdir()
    sf.write(tmp_path / "in/a.wav", calls(7.4, 32_000), 32_000)
    detect(tmp_path / "in", models, tmp_path / "out", all_scores=True)
    table = pd.read_csv(tmp_path / "out/scores.csv")
    assert table[["start_s", "end_s"]].values.tolist() == [[0, 5], [5, 7.4]]


def test_samples_that_are_no_numbers_are_told(tmp_path, models):
    (tmp_path / "in").mkdir()
    sound = calls(20, 32_000)
    sound[10 * 32_000:] = np.nan
    sf.write(tmp_path / "in/a.wav", sound, 32_000, subtype="FLOAT")
    report = detect(tmp_path / "in", models, tmp_path / "out")
    assert report.flaws.values.tolist() == [["a.wav", "320000 NaN, inf or huge samples"]] == pd.read_csv(tmp_path / "out/flaws.csv").values.tolist()


def test_a_few_milliseconds_are_no_row(tmp_path, models):
    (tmp_path / "in").mkdir()
    sf.write(tmp_path / "in/a.wav", calls(5.0003, 32_000), 32_000)
    sf.write(tmp_path / "in/b.flac", calls(5.0005, 44_100), 44_100)
    detect(tmp_path / "in", models, tmp_path / "out", all_scores=True)
    table = pd.read_csv(tmp_path / "out/scores.csv")
    assert table[["recording", "start_s", "end_s"]].values.tolist() == [["a.wav", 0, 5], ["b.flac", 0, 5]]


def test_one_at_a_time_in_one_folder(tmp_path, models, monkeypatch):
    folder, find = small(tmp_path / "in", 2), module._find

    def second(*given):
        with pytest.raises(KitError, match="out is being written by another process: wait for it or give another folder"):
            detect(folder, models, tmp_path / "out")
        return find(*given)

    monkeypatch.setattr(module, "_find", second)
    assert detect(folder, models, tmp_path / "out").new == 2


def test_the_home_folder(tmp_path, models, monkeypatch):
    small(tmp_path / "in", 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    module.main(["~/in", f"--models={models}", "--out=~/out"])
    assert detect("~/in", models, "~/out").kept == 1 and not (tmp_path / "~").exists() and (tmp_path / "out/detections.csv").exists()


def test_tables_have_the_order_of_the_names(tmp_path, models, monkeypatch):
    folder, hear = small(tmp_path / "in", 3), module.hear_here
    for name in ("a.wav", "b.wav", "zz.wav"): (folder / name).write_text("not sound")
    monkeypatch.setattr(module, "hear_here", lambda *arguments: reversed(list(hear(*arguments))))      # whatever is done first
    report = detect(folder, models, tmp_path / "out", 0.)
    assert report.failed.recording.tolist() == ["a.wav", "b.wav", "zz.wav"] == pd.read_csv(tmp_path / "out/failed.csv").recording.tolist()
    assert report.detections.recording.unique().tolist() == ["000.wav", "001.wav", "002.wav"]


def test_long_writing_shows_how_far_it_is(tmp_path, models, monkeypatch):
    bars, progress = [], module.progress
    monkeypatch.setattr(module, "progress", lambda items, label, *more, **named: bars.append((label, named)) or progress(items, label, *more, **named))
    detect(small(tmp_path / "in", 2), models, tmp_path / "out", all_scores=True)
    assert bars == [("hear", {}), ("write", dict(delay_s=5)), ("write", dict(delay_s=5))]


def test_several_folders(tmp_path, models):
    recordings(tmp_path / "in")
    (tmp_path / "in/pond").mkdir()
    sf.write(tmp_path / "in/pond/d.wav", calls(6, 32_000), 32_000)
    module.main([str(tmp_path / "in/hill"), str(tmp_path / "in/pond"), "--models", str(models), "--out", str(tmp_path / "out")])
    parts = sorted(p.relative_to(tmp_path / "out/parts").as_posix() for p in (tmp_path / "out/parts").rglob("*.npz"))
    assert parts == ["hill/a.wav.npz", "hill/b.flac.npz", "pond/d.wav.npz"]
    assert pd.read_csv(tmp_path / "out/failed.csv").empty


def test_raven_and_audacity_say_what_the_table_says(tmp_path, models):
    folder, out = recordings(tmp_path / "in"), tmp_path / "out"
    threshold = float(np.quantile(np.concatenate([scored(folder / n, models) for n in ("hill/a.wav", "c.mp3")]), .7))
    found = detect(folder, models, out, threshold).detections
    assert len(found) > 3 and (found.score >= threshold).all()
    for name, nyquist in (("hill/a.wav", 16_000), ("c.mp3", 11_025)):
        mine = found[found.recording == name]
        raven = pd.read_csv(out / f"raven/{name}.selections.txt", sep="\t", dtype={"Species": str})
        assert raven["Begin Time (s)"].tolist() == mine.start_s.tolist() and raven.Species.tolist() == mine.label.tolist()
        assert raven.Selection.tolist() == list(range(1, len(mine) + 1)) and set(raven["High Freq (Hz)"]) <= {nyquist}
        lines = (out / f"audacity/{name}.txt").read_text().splitlines()
        assert [line.split("\t")[2] for line in lines] == mine.label.tolist()
    for (_, label), rows in found.groupby(["recording", "label"]): assert (rows.start_s.to_numpy()[1:] > rows.end_s.to_numpy()[:-1]).all(), label


def test_only_what_changed_is_heard_again(tmp_path, models):
    folder, out = recordings(tmp_path / "in"), tmp_path / "out"
    counts = lambda **options: detect(folder, options.pop("models", models), out, **options)[2:4]
    assert [counts(), counts(), counts(threshold=.1)] == [(3, 0), (0, 3), (0, 3)]
    os.utime(folder / "c.mp3", (1, 1))
    (out / "parts/hill/a.wav.npz").write_bytes(b"damaged")
    assert counts() == (2, 1)
    other = toy_export(tmp_path / "other", LABELS[:3])
    assert [counts(models=other), counts(models=other), counts()] == [(3, 0), (0, 3), (3, 0)]


@pytest.mark.parametrize("fault", ["broken", "gone"])
def test_labels_are_those_of_what_was_heard(tmp_path, models, fault):
    folder, out = recordings(tmp_path / "in"), tmp_path / "out"
    detect(folder, models, out)
    (folder / "hill/b.flac").write_text("not sound") if fault == "broken" else (folder / "hill/b.flac").unlink()
    (out / "raven/mine.txt").write_text("a table of one's own")
    report = detect(folder, models, out)
    assert ("hill/b.flac" in report.failed.recording.tolist()) == (fault == "broken")
    left = sorted(p.relative_to(out).as_posix() for kind in ("raven", "audacity") for p in (out / kind).rglob("*.txt"))
    assert left == ["audacity/c.mp3.txt", "audacity/hill/a.wav.txt", "raven/c.mp3.selections.txt", "raven/hill/a.wav.selections.txt", "raven/mine.txt"]


def test_labels_that_a_person_changed_stay(tmp_path, models):
    folder, out = small(tmp_path / "in", 3), tmp_path / "out"
    detect(folder, models, out, 0.)
    mine, old = (out / f"{name}.wav.selections.txt" for name in ("raven/000", "raven/001"))
    mine.write_text("corrected")
    assert detect(folder, models, out, 1.).changed == 1 and mine.read_text() == "corrected" and len(old.read_text().splitlines()) == 1
    report = detect(folder / "002.wav", models, out, 1., formats=["csv"])                        # neither that recording nor that format
    assert (report.changed, report.gone) == (1, 2) and [p.name for p in (out / "raven").iterdir()] == [mine.name]
    mine.unlink()
    assert detect(folder, models, out).changed == 0 and mine.exists()


def test_a_name_as_long_as_disks_take_costs_nothing(tmp_path, models):
    folder, names = small(tmp_path / "in", 2), ["\u00e4" * 120 + f"{end}.wav" for end in "ab"]
    for i, name in enumerate(names): os.rename(folder / f"{i:03}.wav", folder / name)
    assert [detect(folder, models, tmp_path / "out")[2:4] for _ in range(2)] == [(2, 0), (0, 2)]
    assert len(list((tmp_path / "out/raven").iterdir())) == len(list((tmp_path / "out/audacity").iterdir())) == 2
    assert set(pd.read_csv(tmp_path / "out/detections.csv").recording) == set(names)


def test_a_killed_run_goes_on_where_it_ended(tmp_path, models):
    folder, out, n = small(tmp_path / "in", 150), tmp_path / "out", 150
    command = [sys.executable, "-m", "birdkit.detect", folder, "--models", models, "--threshold", ".3", "--out"]
    process = subprocess.Popen([*command, out], cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list((out / "parts").glob("*.npz"))) < 5: time.sleep(.002)
    process.kill()
    process.wait()
    first = {p.name: p.stat().st_mtime_ns for p in (out / "parts").glob("*.npz")}
    assert 5 <= len(first) < n and not (out / "detections.csv").exists()
    done = subprocess.run([*command, out], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and f"{n - len(first)} heard now, {len(first)} heard before" in done.stdout, done.stdout + done.stderr
    assert all((out / "parts" / name).stat().st_mtime_ns == at for name, at in first.items())
    detect(folder, models, tmp_path / "whole", .3)
    for name in ("detections.csv", "failed.csv", "raven/007.wav.selections.txt"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_ctrl_c_waits_for_no_long_recording(tmp_path, models):
    folder, out = small(tmp_path / "in", 3), tmp_path / "out"
    sf.write(folder / "night.wav", np.zeros(8000), 8000, subtype="PCM_16")
    with open(folder / "night.wav", "r+b") as f:                               # a day of zeros that takes no disk
        for at, size in ((4, 36 + 86_400 * 16_000), (40, 86_400 * 16_000)): f.seek(at), f.write(size.to_bytes(4, "little"))
        f.truncate(44 + 86_400 * 16_000)
    command = [sys.executable, "-m", "birdkit.detect", folder, "--models", models, "--out", out]
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)      # what is started in the background may have been told to ignore it
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    while run.poll() is None and len(list((out / "parts").glob("*.npz"))) < 3: time.sleep(.01)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=20)[1] == "stopped; the same command goes on\n" and run.returncode == 1
    sf.write(folder / "night.wav", calls(6, 8000), 8000)
    assert detect(folder, models, out)[2:4] == (1, 3)


def test_the_command_tells_mistakes_in_one_line(tmp_path, models):
    run = lambda *arguments: subprocess.run([sys.executable, "-m", "birdkit.detect", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert "--threshold" in run("--help").stdout
    gone = run(tmp_path / "gone", "--models", models, "--out", tmp_path / "out")
    assert gone.returncode == 1 and len(gone.stderr.splitlines()) == 1
    assert gone.stderr.startswith("KitError: ") and "gone is missing: give folders, or sound files" in gone.stderr


def test_a_command_that_could_hear_nothing_has_failed(tmp_path, models, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/words.ogg").write_text("no sound")
    with pytest.raises(SystemExit) as end: module.main([str(tmp_path / "in"), "--models", str(models), "--out", str(tmp_path / "out")])
    assert end.value.code == 1 and "1 could not be heard, such as words.ogg" in capsys.readouterr().out


def test_formats_are_checked_before_anything_is_heard(tmp_path, models, monkeypatch):
    with pytest.raises(KitError, match="did you mean audacity"): detect(tmp_path, models, tmp_path, formats=["audacty"])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="pip install pyarrow"): detect(tmp_path, models, tmp_path, formats=["parquet"])


def test_parquet_holds_the_same(tmp_path, models):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    found = detect(recordings(tmp_path / "in"), models, tmp_path / "out", .3, formats=["csv", "parquet"], all_scores=True).detections
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out/detections.parquet"), found, check_dtype=False)
    assert len(pd.read_parquet(tmp_path / "out/scores.parquet")) == len(pd.read_csv(tmp_path / "out/scores.csv"))


class StandIn(futures.ThreadPoolExecutor):
    "As much of a Dask client as is used; tasks are pickled, and the third one loses its worker for good."
    def submit(self, work, *arguments, retries, pure):
        self.asked = getattr(self, "asked", 0) + 1
        return super().submit(_lost if self.asked == 3 else pickle.loads(pickle.dumps(work)), *arguments)


def _lost(*arguments): raise RuntimeError("lost")


def test_dask_tasks_are_recordings(tmp_path, models, monkeypatch):
    dask = ModuleType("dask")
    dask.distributed = ModuleType("dask.distributed")
    dask.distributed.as_completed = futures.as_completed
    monkeypatch.setitem(sys.modules, "dask", dask)
    monkeypatch.chdir(recordings(tmp_path / "in  field").parent)
    folder, here = "in  field", detect(recordings(tmp_path / "same"), models, tmp_path / "here", .3)
    with StandIn(2) as client: report = detect(folder, models, tmp_path / "out", .3, client=client)
    assert str(tmp_path) not in " ".join(report.failed.reason)                                           # each by the name that the table has
    assert (report.new, len(report.failed)) == (2, 2) and "RuntimeError: lost" in report.failed.reason.tolist()
    with StandIn(2) as client: report = detect(folder, models, tmp_path / "out", .3, client=client)      # what was lost is heard
    assert (report.new, report.kept) == (1, 2)
    pd.testing.assert_frame_equal(report.detections, here.detections)


def test_dask_survives_a_lost_worker(tmp_path, models):
    distributed = pytest.importorskip("dask.distributed", reason="dask.distributed is not installed")
    folder, here = small(tmp_path / "in", 30), detect(tmp_path / "in", models, tmp_path / "here", .3)
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster, distributed.Client(cluster) as client:
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        report = detect(folder, models, tmp_path / "out", .3, client=client)
    assert (report.new, len(report.failed)) == (30, 0)
    pd.testing.assert_frame_equal(report.detections, here.detections)


def test_dask_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(SystemExit, match="pip install 'dask"): module.main(["x", "--models", "m", "--out", "o", "--dask", "tcp://10.0.0.1:8786"])


def test_a_scheduler_that_does_not_answer(tmp_path, models, monkeypatch):
    distributed = pytest.importorskip("dask.distributed", reason="dask.distributed is not installed")
    real, command = distributed.Client, [str(tmp_path / "in"), "--models", str(models), "--out", str(tmp_path / "out"), "--dask", "tcp://127.0.0.1:9"]
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: real(address, timeout=1))
    with pytest.raises(SystemExit, match="in is missing"): module.main(command)                         # before anybody is called
    small(tmp_path / "in", 1)
    with pytest.raises(SystemExit, match="KitError: no Dask scheduler answers at tcp://127.0.0.1:9: .* leave out --dask"): module.main(command)


def test_nothing_heavy_is_imported():
    code = f"import sys\nfor name in {HEAVY!r} + ('matplotlib', 'dask'): sys.modules[name] = None\nimport birdkit.detect"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
