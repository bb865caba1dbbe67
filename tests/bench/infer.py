"""How fast are soundscapes heard on this CPU, and how fast could they be? All ways in one run, with the same weights, on the same files.

    python tests/bench/infer.py                     four ways for three networks, 100 one-minute files: half an hour
    python tests/bench/infer.py --ensemble 6 --files 700       six B0 models, pass by pass: wall time against the floor, and the first submission
    python tests/bench/infer.py --memory --files 1100          peak memory of 1,100 files of four minutes

a  public notebooks: a pool of four threads, each takes a file, and each of its windows goes by itself through librosa and torch (eager, plain memory layout)
b  ONNX Runtime, one mel for the whole file, file by file
c  birdkit, float32
d  birdkit, int8
Rows are printed for each network: milliseconds a file (median over rounds), how often faster than a and b, and the process's largest memory.
Ctrl-C ends with a table of the rounds that were done.
"""
import argparse, resource, statistics, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import librosa
import numpy as np
import pandas as pd
import torch

from birdkit.anytime import run_submission
from birdkit.audio import SR, decode, write_ogg
from birdkit.convert import real_windows, to_onnx, to_openvino
from birdkit.core import Clock
from birdkit.distill import FinalModel
from birdkit.export import export_runs
from birdkit.faster import quantise
from birdkit.hear import hear_files
from birdkit.mel import log_mel, scale_picture
from birdkit.recipe import Recipe
from birdkit.rows import listen, score_rows, window_inputs
from birdkit.runtime import fastest, load_export, load_network
from birdkit.trained import TrainedModel

NETS = ("tf_efficientnet_b0", "tf_efficientnetv2_s", "eca_nfnet_l0")
ROWS = 12


def make_files(folder, count, seed=0, distinct=100, minutes=1):
    "Soundscapes: coloured noise with chirps; above `distinct` they are links to the first ones."
    rng, t = np.random.default_rng(seed), np.arange(60 * minutes * SR) / SR
    paths = [folder / f"soundscape_{k}.ogg" for k in range(count)]
    for path in paths[:distinct]:
        noise = np.cumsum(rng.normal(0, .02, len(t))) * .02 + rng.normal(0, .02, len(t))
        chirp = .2 * np.sin(2 * np.pi * (2000 + rng.uniform(0, 4000)) * t) * (np.sin(2 * np.pi * rng.uniform(.1, 2) * t) > .7)
        write_ogg(path, (noise - noise.mean() + chirp).clip(-1, 1).astype("float32"))
    for k, path in enumerate(paths[distinct:]): path.hardlink_to(paths[k % distinct])
    return paths


def make_model(net, classes=206):
    "A random SED network; weights do not change the speed."
    torch.manual_seed(0)
    recipe = Recipe(net).but({"model.backbone": net, "model.weights": "none", "infer.stride_s": 5., "infer.post": [], "frontend.htk": False})
    return TrainedModel(recipe, [f"c{i}" for i in range(classes)]).eval()


def public_way(model, files):
    "Four threads take files; each window by itself goes through librosa and torch, as in the public inference notebooks of 2025."
    mel = model.recipe.frontend

    def picture(wave):
        power = librosa.feature.melspectrogram(y=wave, sr=SR, n_fft=mel.n_fft, hop_length=mel.hop, n_mels=mel.n_mels,
                                               fmin=mel.fmin_hz, fmax=mel.fmax_hz, pad_mode="constant")
        return scale_picture(log_mel(power[:, :mel.frames(5)], mel, np), mel, np)[None, None]

    def one(path):
        sound, _ = librosa.load(path, sr=SR)
        windows = np.pad(sound, (0, max(0, 60 * SR - len(sound))))[:60 * SR].reshape(ROWS, -1)
        with torch.no_grad(): return np.concatenate([model(torch.from_numpy(picture(w)))[0].sigmoid().numpy() for w in windows])

    with ThreadPoolExecutor(4) as pool: return list(pool.map(one, files))


def onnx_way(session, recipe, files):
    "File by file, one mel for all windows, ONNX Runtime on all cores."
    return [score_rows(listen(decode(path).samples, ROWS, recipe), ROWS, recipe, session) for path in files]


def kit_way(network, recipe, files):
    "What 06_infer does in one pass."
    return [scores for scores, _ in hear_files(files, [ROWS] * len(files), recipe, network)]


def ways_of(net, files, folder):
    "The four ways of one network, as functions of a list of files; and the int8 and float32 paths."
    model = make_model(net)
    to_openvino(model, folder / f"{net}.xml")
    inputs = real_windows(model.recipe, np.concatenate([decode(f).samples for f in files[:5]]), 60)
    eight = quantise(folder / f"{net}.xml", inputs, folder / f"{net}-int8.xml")
    source = lambda: window_inputs(listen(decode(files[0]).samples, ROWS, model.recipe), ROWS, model.recipe)
    full, small, session = fastest(folder / f"{net}.xml", source)[0], fastest(eight, source)[0], load_network(to_onnx(model, folder / f"{net}.onnx"))
    print(f"{net}: fastest settings {tuple(full.setting)} (float32), {tuple(small.setting)} (int8), as (streams, batch)", flush=True)
    plain = make_model(net).to(memory_format=torch.contiguous_format)
    return dict(a=lambda some: public_way(plain, some), b=lambda some: onnx_way(session, model.recipe, some),
                c=lambda some: kit_way(full, model.recipe, some), d=lambda some: kit_way(small, model.recipe, some))


def _saved(model, folder):
    "A run's folder."
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    return folder


def take_turns(net, files, folder, rounds):
    "Milliseconds a file of each way, round by round; in each the ways take turns with all files."
    ways = ways_of(net, files, folder)
    for way in ways.values(): way(files[:2])
    for _ in range(rounds):
        times = {}
        for name, way in ways.items():
            begin = time.perf_counter()
            way(files)
            times[name] = 1e3 * (time.perf_counter() - begin) / len(files)
        print("  " + ", ".join(f"{name} {t:.0f}" for name, t in times.items()) + " ms a file", flush=True)
        yield times | dict(memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def _line(net, turns):
    "Medians of one network."
    ms = {name: statistics.median(t[name] for t in turns) for name in "abcd"}
    return {"network": net, "rounds": len(turns), **{f"{k}, ms a file": v for k, v in ms.items()},
            "a / c": ms["a"] / ms["c"], "b / c": ms["b"] / ms["c"], "c / d": ms["c"] / ms["d"],
            "memory, GB": turns[-1]["memory"]}


def table_of(nets, files, folder, rounds):
    "One line for each network; Ctrl-C ends it with the rounds that were done."
    done = {}
    try:
        for net in nets:
            for times in take_turns(net, files, folder, rounds): done.setdefault(net, []).append(times)
    except KeyboardInterrupt: print("stopped")
    return pd.DataFrame([_line(net, turns) for net, turns in done.items()])


def floor_s(paths, files, recipe, cores):
    """Decode and mel of a file on one core, bare OpenVINO requests of a file on each core at once: summed, divided by the cores.

    The mel counts once, since the models share it.
    """
    import openvino as ov
    config = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores}
    requests = [[net.create_infer_request() for _ in range(cores)] for net in (ov.Core().compile_model(str(p), "CPU", config) for p in paths)]
    inputs = window_inputs(listen(decode(files[0]).samples, ROWS, recipe), ROWS, recipe)[0]
    bare = lambda request: [request.infer([inputs[i:i + 2]]) for i in range(0, ROWS, 2)]

    def seconds(work, items):
        for item in items[:2]: work(item)
        begin = time.perf_counter()
        for item in items: work(item)
        return (time.perf_counter() - begin) / len(items)

    with ThreadPoolExecutor(cores) as pool:
        network = sum(seconds(lambda _: list(pool.map(bare, r)), range(10)) for r in requests) / cores
    sounds = [decode(f).samples for f in files[:10]]
    each = dict(decode=seconds(decode, files[:10]) / cores, mel=seconds(lambda x: listen(x, ROWS, recipe), sounds) / cores, network=network)
    return {k: v * len(files) for k, v in each.items()}


def _competition(classes, rows=ROWS):
    "As much of a competition as a submission needs."
    taxa = pd.DataFrame(dict(primary_label=classes, scientific_name="", class_name=""))
    return SimpleNamespace(classes=classes, rows=lambda f: rows, taxonomy=taxa, soundscape_labels=pd.DataFrame())


def ensemble(count, files, folder, cores=2, net="tf_efficientnet_b0"):
    "Models of one frontend, pass by pass."
    model = make_model(net)
    folder.mkdir(exist_ok=True)
    runs = {f"{net}-{k}": FinalModel(_saved(model, folder / f"run{k}")) for k in range(count)}
    export_runs(runs, folder / "export", decode(files[0]).samples, np.full(206, 1 / 206))
    export = load_export(folder / "export")
    floors = [floor_s([m.path for m in export.members], files, export.members[0].recipe, cores)]
    begin = time.perf_counter()
    sheet, report = run_submission(_competition(export.classes), export, files, folder / "submission.csv", Clock(90))
    wall = time.perf_counter() - begin
    floors.append(floor_s([m.path for m in export.members], files, export.members[0].recipe, cores))
    print(report.round(2).to_string(index=False))
    for when, floor in zip(("before", "after"), floors):
        print(f"floor {when} it {sum(floor.values()):.1f} s ({', '.join(f'{k} {v:.1f}' for k, v in floor.items())}): "
              f"the run took {wall / sum(floor.values()) - 1:+.0%}")
    print(f"wall {wall:.1f} s, of which passes {report.seconds.sum():.1f} s; passes predicted {report.predicted_s.sum():.1f} s, "
          f"{report.predicted_s.sum() / report.seconds.sum() - 1:+.0%}")
    first = wall - report.seconds.sum() + report.seconds[0]
    one, more = 700 / len(files) * report.seconds[0], 700 / len(files) * report.seconds[1:].mean()
    print(f"a submission with the first model after {first:.0f} s for {len(files)} files; 700 files: "
          f"{one:.0f} s the first pass, {more:.0f} s each further one; "
          f"{1 + int((90 * 60 - 60 - one) // more)} passes fit into 90 minutes; "
          f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def long_run(count, folder):
    "How much memory a whole BirdCLEF 2024 takes: files of four minutes, two small models, 182 classes."
    files, rows = make_files(folder, count, distinct=4, minutes=4), 48
    model = make_model("mnasnet_small", 182)
    runs = {f"small-{k}": FinalModel(_saved(model, folder / f"run{k}")) for k in range(2)}
    export_runs(runs, folder / "export", decode(files[0]).samples, np.full(182, 1 / 182))
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sheet, report = run_submission(_competition(load_export(folder / "export").classes, rows),
                                   load_export(folder / "export"), files, folder / "submission.csv", Clock(90))
    print(report.round(2).to_string(index=False))
    print(f"{count} files of 4 minutes, {len(sheet.ids)} rows in {(time.perf_counter() - begin) / 60:.1f} min; "
          f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB, {before:.1f} GB of it before the run (training libraries)")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nets", nargs="*", default=NETS, help="timm names")
    p.add_argument("--files", type=int, default=100, help="one-minute files")
    p.add_argument("--rounds", type=int, default=3, help="the four ways take this many turns with all files")
    p.add_argument("--ensemble", type=int, default=0, help="this many B0 models pass by pass instead")
    p.add_argument("--memory", action="store_true", help="memory of a run over --files files of four minutes instead")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if a.memory: return long_run(a.files, folder)
        files = make_files(folder, a.files)
        if a.ensemble: ensemble(a.ensemble, files, folder)
        else: print(table_of(a.nets, files, folder, a.rounds).round(2).to_markdown(index=False))


if __name__ == "__main__":
    main()
