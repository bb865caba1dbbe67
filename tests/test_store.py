"Decoding and the audio store: exact windows, parts of recordings, processes that die, runs that are killed, disks that are full."
import json, os, pickle, signal, subprocess, sys, threading, time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from toys import noise

from birdkit.audio import SR, cut, decode, decode_window, n_rows, seconds_of, write_ogg
from birdkit.store import AudioStore, build_store

FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "aiff": "PCM_24", "mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}


def recordings(folder, n, seconds=2.):
    "Files of noise by key, each of another length."
    return {f"{i}.ogg": write_ogg(folder / f"{i}.ogg", noise(seconds + .1 * (i % 7), i)) for i in range(n)}


def lines(store):
    "Where each recording lies."
    return AudioStore(store).index[["shard", "offset"]].apply(tuple, axis=1).to_dict()


def script(folder, text):
    "A plain script without a main guard."
    path = folder / "script.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("sr", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("ending", FORMATS)
def test_any_format_and_rate_keeps_its_duration_and_pitch(tmp_path, ending, sr):
    n = int(2.3 * sr) + 1
    tone = np.sin(2 * np.pi * 440 * np.arange(n) / sr)
    path = tmp_path / f"tone.{ending}"
    sf.write(path, np.stack([.4 * tone, .2 * tone], 1).astype("float32"), sr, subtype=FORMATS[ending])
    clip = decode(path)
    assert abs(len(clip.samples) - sf.info(path).frames * SR / sr) <= 1 and clip.flaws == ()
    spectrum = np.abs(np.fft.rfft(clip.samples[:SR]))
    assert spectrum.argmax() == 440                                      # never reinterpreted at another rate
    assert abs(np.abs(clip.samples[SR // 2:SR]).max() - .3) < .03        # the mean of the channels


@pytest.mark.parametrize("samples, rows", [(round(59.98 * SR), 12), (round(60.02 * SR), 12), (SR // 10, 1), (5 * SR, 1), (5 * SR + 1, 1)])
def test_window_counts(tmp_path, samples, rows):
    sf.write(tmp_path / "x.flac", np.full(samples, .1, "float32"), SR)
    store = build_store({"x": tmp_path / "x.flac"}, tmp_path / "store")
    assert store.length("x") == samples and n_rows(store.length("x") / SR) == rows
    last = store.window("x", 5 * SR * (rows - 1), 5 * SR)
    assert len(last) == 5 * SR and np.count_nonzero(last) == min(samples - 5 * SR * (rows - 1), 5 * SR)


def test_no_samples_at_all(tmp_path):
    sf.write(tmp_path / "x.wav", np.zeros(0), SR)
    store = build_store({"x": tmp_path / "x.wav"}, tmp_path / "store")
    assert "x" not in store and "holds no samples" in store.bad["x"] and n_rows(0) == 1


def test_hardly_any_sound(tmp_path):
    sf.write(tmp_path / "x.wav", np.ones(SR // 20), SR)
    assert "holds 50 ms of sound: remove it" in build_store({"x": tmp_path / "x.wav"}, tmp_path / "store").bad["x"]


def test_a_flac_that_was_streamed_does_not_tell_its_length(tmp_path):
    sf.write(tmp_path / "told.flac", noise(3), SR)
    head = bytearray((tmp_path / "told.flac").read_bytes())
    head[21], head[22:26] = head[21] & 0xf0, bytes(4)                                    # 36 bits of STREAMINFO hold the number of samples
    (tmp_path / "x.flac").write_bytes(head)
    assert sf.info(tmp_path / "x.flac").frames > 2**40 and 2.96 < seconds_of(tmp_path / "x.flac") <= 3
    told, untold = decode(tmp_path / "told.flac"), decode(tmp_path / "x.flac")
    assert np.array_equal(told.samples[:len(untold.samples)], untold.samples) and untold.duration_s > 2.96 and untold.flaws == ()
    assert np.array_equal(decode_window(tmp_path / "x.flac", SR, 3 * SR), cut(untold.samples, SR, 3 * SR))
    assert build_store({"x": tmp_path / "x.flac"}, tmp_path / "store").length("x") == len(untold.samples)


@pytest.mark.parametrize("ending, sr", [("ogg", SR), ("ogg", 44_100), ("flac", SR), ("flac", 44_100), ("wav", SR), ("wav", 22_050), ("mp3", 44_100)])
def test_windows_of_a_file_and_of_the_store_are_slices_of_the_whole(tmp_path, ending, sr):
    rng = np.random.default_rng(0)
    path, x = tmp_path / f"x.{ending}", rng.normal(0, .1, (9 * sr + 777, 2)).astype("float32")
    with sf.SoundFile(path, "w", sr, 2, subtype=FORMATS[ending]) as f:
        for i in range(0, len(x), sr): f.write(x[i:i + sr])
    whole, store = decode(path).samples, build_store({"x": path}, tmp_path / "store")
    starts = np.r_[rng.integers(-SR, 9 * SR, 50), len(whole) - rng.integers(1, SR, 20)]      # many near the end, where Vorbis seeks go wrong
    for start, length in zip(starts, rng.integers(1, 5 * SR, 70)):
        slice_ = cut(whole, start, length)
        assert np.abs(decode_window(path, start, length) - slice_).max() < 1e-4
        assert np.abs(store.window("x", start, length) - slice_).max() <= store.index.scale["x"] * .505


def test_a_flawed_file_is_told_and_finite(tmp_path):
    x = noise(3)
    x[[5, 9]] = np.nan, -np.inf
    sf.write(tmp_path / "x.wav", x, SR, subtype="FLOAT")
    store = build_store({"x": tmp_path / "x.wav"}, tmp_path / "store")
    assert store.flaws.to_dict() == {"x": "2 NaN, inf or huge samples"} and np.isfinite(store.window("x")).all()
    assert np.isfinite(decode_window(tmp_path / "x.wav", 0, 20)).all()


def test_best_part_holds_the_loud_stretches(tmp_path):
    x = noise(30) * .01
    x[12 * SR:14 * SR] = noise(2, 1)
    write_ogg(tmp_path / "x.ogg", x)
    store = build_store({"x": tmp_path / "x.ogg"}, tmp_path / "store", 5, "best")
    assert (store.index.spans["x"], store.index.full_s["x"], store.length("x")) == ("10-15", 30, 5 * SR)
    assert np.abs(store.window("x") - decode(tmp_path / "x.ogg").samples[10 * SR:15 * SR]).max() < 1e-4
    assert abs(store.index.rms_db["x"] - 20 * np.log10(.05 * (2 / 5)**.5)) < .5      # of what is kept


@pytest.mark.parametrize("room", [None, 0], ids=["kept", "read from its own file"])
def test_best_part_at_the_end_is_cut_as_well(tmp_path, room):
    x = noise(20) * .01
    x[15 * SR:] = noise(5, 1)
    write_ogg(tmp_path / "x.ogg", x)
    store = build_store({"x": tmp_path / "x.ogg"}, tmp_path / "store", 5, "best", room=room)
    assert (store.index.spans["x"], store.index.full_s["x"], store.length("x")) == ("15-20", 20, 5 * SR)
    assert np.abs(store.window("x") - decode(tmp_path / "x.ogg").samples[15 * SR:]).max() < 1e-4
    assert abs(store.index.rms_db["x"] - 20 * np.log10(.05)) < .5      # of what is kept


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    files = recordings(tmp_path, 12)
    path = script(tmp_path, f"""
from pathlib import Path
from birdkit.store import build_store
print("script runs")
store = build_store({{p.name: p for p in Path({str(tmp_path)!r}).glob("*.ogg")}}, {str(tmp_path / "store")!r}, workers=3)
print(len(store.index), "in", store.index["shard"].nunique(), "shards")
""")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("script runs") == 1 and "12 in 3 shards" in done.stdout
    assert done.stdout.splitlines()[1].startswith("decode 12 recordings: about 2")    # before it starts
    for key, path in files.items(): assert abs(AudioStore(tmp_path / "store").length(key) - len(decode(path).samples)) == 0


def test_inside_a_notebook(tmp_path):
    import nbformat
    from nbclient import NotebookClient
    recordings(tmp_path, 4)
    code = f"""
from pathlib import Path
from birdkit.store import build_store
print(len(build_store({{p.name: p for p in Path({str(tmp_path)!r}).glob("*.ogg")}}, {str(tmp_path / "store")!r}, workers=2).index))
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert notebook.cells[0].outputs[-1].text.splitlines()[-1] == "4"


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    files, store = recordings(tmp_path, 3, 8.), tmp_path / "store"
    for i in range(3, 150):
        files[f"{i}.ogg"] = tmp_path / f"{i}.ogg"
        os.link(files[f"{i % 3}.ogg"], files[f"{i}.ogg"])
    path = script(tmp_path, f"""
import json
from birdkit.store import build_store
build_store(json.load(open({str(tmp_path / "files.json")!r})), {str(store)!r}, workers=2)
""")
    (tmp_path / "files.json").write_text(json.dumps({k: str(p) for k, p in files.items()}))
    run = subprocess.Popen([sys.executable, path], stdout=subprocess.DEVNULL)
    deadline, index = time.monotonic() + 60, store / "index.csv"
    while time.monotonic() < deadline and (not index.exists() or index.read_text().count("\n") < 12): time.sleep(.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = lines(store)
    assert 11 <= len(done) < 150
    again = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert f"decode {150 - len(done)} recordings" in again.stdout          # no finished one is decoded again
    after = lines(store)
    assert len(after) == 150 and {k: after[k] for k in done} == done
    assert sum(p.stat().st_size for p in store.glob("*.i16")) == 2 * AudioStore(store).index.samples.sum()     # nothing half done is left
    for key in list(files)[::30]: assert np.abs(AudioStore(store).window(key) - decode(files[key]).samples).max() < 1e-4
    assert subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120).stdout == ""


def children():
    "Processes that this one has started and that still run."
    tasks = os.listdir("/proc/self/task")
    return [int(pid) for t in tasks for pid in Path(f"/proc/self/task/{t}/children").read_text().split()]


def test_a_file_that_kills_its_decoder_costs_no_other(tmp_path):
    files, before = recordings(tmp_path, 40), set(children())
    os.mkfifo(tmp_path / "deadly.ogg")                                     # opening it waits for ever
    files = {"deadly.ogg": tmp_path / "deadly.ogg", **files}

    def crash():
        store, first = tmp_path / "store/index.csv", None
        while not store.exists() or store.read_text().count("\n") < 6: time.sleep(.002)
        while not first:
            with suppress(FileNotFoundError, ProcessLookupError):          # a process that ends meanwhile
                first = next((pid for pid in set(children()) - before if Path(f"/proc/{pid}/cmdline").read_text().split("\0")[-2:-1] == ["0"]), None)
        os.kill(first, signal.SIGSEGV)                                     # the first decoder has the first file

    thread = threading.Thread(target=crash)
    thread.start()
    store = build_store(files, tmp_path / "store", workers=2)
    thread.join()
    assert list(store.bad.index) == ["deadly.ogg"] and "crashed its decoder (SIGSEGV)" in store.bad["deadly.ogg"]
    assert all(key in store for key in files if key != "deadly.ogg") and not set(children()) - before
    os.unlink(tmp_path / "deadly.ogg")
    write_ogg(tmp_path / "deadly.ogg", noise(2))
    assert "deadly.ogg" in build_store(files, tmp_path / "store")          # it is tried again


def test_where_processes_do_not_start_it_decodes_here(tmp_path, monkeypatch, capsys):
    (tmp_path / "python").write_text("#!/bin/sh\necho killed >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert len(build_store(recordings(tmp_path, 3), tmp_path / "store", workers=2).index) == 3
    assert "decoding processes do not start (killed): decode with workers=1, as this process does now" in capsys.readouterr().out


def test_what_does_not_fit_is_read_from_its_own_file(tmp_path, capsys):
    files = recordings(tmp_path, 6, 11.)
    build = lambda **options: build_store(files, tmp_path / "store", whole=["5.ogg"], **options)
    store = build(room=3 * 13 * 2 * SR)
    assert "of 6 recordings are read from their own files" in capsys.readouterr().out
    assert store.index["shard"].tolist()[:2] == [0, 0] and store.index["shard"].tolist()[-1] == -1
    for key, path in files.items():
        whole = decode(path).samples
        assert store.length(key) == len(whole)                             # nothing is cut
        for start in (-9, 3 * SR, len(whole) - SR // 2): assert np.abs(store.window(key, start, SR) - cut(whole, start, SR)).max() < 1e-4
    assert store.index.rms_db.notna().all()                                # also measured
    before = lines(tmp_path / "store")
    build()
    assert capsys.readouterr().out.startswith(f"{sum(shard < 0 for shard, _ in before.values())} of 6 recordings are read from their own files because they "
                                              "did not fit: free some space")
    assert lines(tmp_path / "store") == before                             # what is done stays


def test_a_store_of_many_recordings_is_looked_through_in_no_time(tmp_path):
    path = write_ogg(tmp_path / "x.ogg", noise(1))
    line = build_store({"0": path}, tmp_path / "store").index.reset_index()
    many = line.loc[np.zeros(5_000, int)].assign(key=np.arange(5_000).astype(str))
    many.to_csv(tmp_path / "store/index.csv", index=False)
    begun = time.process_time()
    build_store(dict.fromkeys(many.key, path), tmp_path / "store")
    assert time.process_time() - begun < 4                                 # .2 s; with a set made for each recording 26 s


def test_what_tells_of_the_store_goes_before_anything_is_decoded(tmp_path):
    files, facts = recordings(tmp_path, 2), tmp_path / "prepared.json"
    build = lambda **options: build_store(files, tmp_path / "store", outdated=[facts], **options)
    build()
    facts.touch()
    build()
    assert facts.exists()                                                  # nothing was decoded
    build(seconds=1.)
    assert not facts.exists()


def test_a_disk_that_is_full_all_the_same_costs_no_recording(tmp_path):
    files = recordings(tmp_path, 8, 4.)
    path = script(tmp_path, f"""
import resource
from pathlib import Path
from birdkit.store import build_store
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))              # files of the system end here
build_store({{p.name: p for p in Path({str(tmp_path)!r}).glob("*.ogg")}}, {str(tmp_path / "store")!r}, workers=2)
""")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    store = AudioStore(tmp_path / "store")
    assert (store.index["shard"] < 0).sum() >= 4 and (store.index["shard"] >= 0).sum() >= 2 and store.bad.empty
    for key, file in files.items(): assert np.abs(store.window(key) - decode(file).samples).max() < 1e-4


def test_store_travels_to_another_process_as_its_folder(tmp_path):
    store = build_store(recordings(tmp_path, 2), tmp_path / "store")
    store.window("0.ogg")
    assert len(pickle.dumps(store)) < 1000 and pickle.loads(pickle.dumps(store)).length("1.ogg") == store.length("1.ogg")
