"""How fast training is, and whether it waits for its data: the same step on batches from the store and on synthetic batches in memory.

    python tests/bench/training.py                                  tf_efficientnet_b0 SED, batch 64, 5-s clips
    python tests/bench/training.py --backbone mnasnet_small --batch 16
    python tests/bench/training.py --recipe birdclef2025_05         another recipe, with random weights
    python tests/bench/training.py --layouts                        channels last against channels first, for several backbones
    python tests/bench/training.py --precisions                     on a CPU: memory handed back or kept, float32 or bfloat16
"""
import argparse, statistics, tempfile, time
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from birdkit.audio import SR, write_ogg
from birdkit.batches import Batches, Clips, Scapes
from birdkit.learner import Learner
from birdkit.optimiser import make_optimiser
from birdkit.precision import choose_precision, half_precision, layout_times
from birdkit.recipe import find_recipe
from birdkit.steps import hears_beside, supervised
from birdkit.store import build_store
from birdkit.trained import TrainedModel, choose_device, keep_memory

CLASSES = 206
KEYS, SCAPES = [f"clip{i}" for i in range(96)], ["scape0", "scape1"]
BACKBONES = "tf_efficientnet_b0", "tf_efficientnetv2_b0", "eca_nfnet_l0", "resnet18d", "regnety_008", "hgnetv2_b0", "convnext_tiny", "mobilenetv3_large_100"


def make_store(folder, seconds=20):
    "Recordings of noise as an audio store."
    rng, folder = np.random.default_rng(0), Path(folder)
    files = {key: write_ogg(folder / f"{key}.ogg", rng.normal(0, .05, int(SR * seconds)).astype("float32")) for key in (*KEYS, *SCAPES)}
    return build_store(files, folder / "store")


def make_batches(store, recipe, batch):
    "Batches of a recipe over that store, long enough epochs."
    keys = np.array(KEYS * 64, object)
    primary = np.arange(len(keys)) % CLASSES
    spans = [np.array([[0, store.length(k)]]) for k in keys]
    clips = Clips(keys, spans, np.eye(CLASSES, dtype="float32")[primary], np.ones(len(keys), "float32"), primary)
    scapes = Scapes(np.array(SCAPES, object), np.array([store.length(k) for k in SCAPES]))
    return Batches(store, clips, recipe.sampling, batch, scapes, beside=hears_beside(recipe, scapes, supervised))


class Waves:
    "Synthetic batches that are in memory already, on the device."
    def __init__(self, like, device): self.batch = replace(like, **{k: None if v is None else v.clone() for k, v in vars(like).items()}).to(device)
    def __len__(self): return 1
    def __iter__(self): return self
    def __next__(self): return self.batch


def sides(recipe, batch, device, folder):
    "A learner, and endless batches of both kinds."
    batches = make_batches(make_store(folder), recipe, batch)
    model = TrainedModel(recipe.but({"model.weights": "none"}), [f"c{i}" for i in range(CLASSES)])
    model.dtype = choose_precision(recipe.model, device, recipe.optim.precision)
    learner = Learner(model, batches, supervised, make_optimiser(model), device=device)
    learner.epochs = 10**6
    learner.seed_epoch(0)
    model.train()
    real = chain.from_iterable(batches.epoch(number) for number in count())
    return learner, dict(real=real, synthetic=Waves(next(real), device))


def measure(learner, kinds, turns, steps):
    "Seconds of a step of each kind, in turn."
    times = {kind: [] for kind in kinds}
    for turn in range(turns + 1):
        for kind, batches in kinds.items():
            begin = time.perf_counter()
            for _ in range(steps): learner.one_batch(next(batches).to(learner.device))
            if learner.device.type == "cuda": torch.cuda.synchronize()
            if turn: times[kind].append((time.perf_counter() - begin) / steps)
    return {kind: statistics.median(t) for kind, t in times.items()}


def layouts(device, batch):
    "Forward and backward pass of several backbones in both memory layouts."
    print(f"| backbone, batch of {batch}, {device} | channels last, ms | channels first, ms | ratio |\n|---|---|---|---|")
    for name in BACKBONES:
        model = TrainedModel(find_recipe("base", {"model.backbone": name, "model.weights": "none"}), ["a", "b"]).to(device)
        times = layout_times(model, [torch.randn(batch, *s, device=device) for s in model.shapes.values()])
        last, first = times[torch.channels_last], times[torch.contiguous_format]
        print(f"| {name} | {1e3 * last:.0f} | {1e3 * first:.0f} | {first / last:.2f} |", flush=True)


def step_s(model, pictures, context):
    "Time of a forward and backward pass."
    begin = time.perf_counter()
    with context(): clip, frames = model(pictures)
    clip.float().mean().backward()
    return time.perf_counter() - begin


def precisions(name, batch, turns):
    "What keeping memory and bfloat16 save on a CPU, in two sizes of picture; memory once kept stays so, then the precisions take turns."
    torch.set_flush_denormal(True)
    sizes, times, half = ((128, 313), (224, 512)), {}, torch.bfloat16
    models = [TrainedModel(find_recipe("base", {"model.backbone": name, "model.weights": "none", "frontend.n_mels": h}), ["a", "b"]) for h, _ in sizes]
    pictures = [torch.randn(batch, 1, *size).contiguous(memory_format=torch.channels_last) for size in sizes]
    first = {"float32, memory handed back": nullcontext}
    then = {"float32": nullcontext, "torch's bfloat16": lambda: torch.autocast("cpu", half), "bfloat16": lambda: half_precision("cpu", half)}
    for ways, prepare in ((first, lambda: None), (then, keep_memory)):
        prepare()
        for turn in range(turns + 1):
            for way, context in ways.items():
                found = [step_s(model, x, context) for model, x in zip(models, pictures)]
                if turn: times.setdefault(way, []).append(found)
    lines = [[way, *(f"{s:.2f}" for s in np.median(found, 0))] for way, found in times.items()]
    print(pd.DataFrame(lines, columns=[f"{name}, batch of {batch}", *(f"{h} x {w}, s" for h, w in sizes)]).to_markdown(index=False, disable_numparse=True))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recipe", default="base", help="name of a recipe")
    p.add_argument("--backbone", default="tf_efficientnet_b0", help='timm id; "" leaves the recipe\'s')
    p.add_argument("--batch", type=int, default=64, help="clips")
    p.add_argument("--precision", default="auto", help="f32, fp16, bf16 or auto")
    p.add_argument("--turns", type=int, default=5, help="turns; the median counts")
    p.add_argument("--steps", type=int, default=1, help="steps of a turn; 20 on a GPU")
    p.add_argument("--layouts", action="store_true", help="time memory layouts instead")
    p.add_argument("--precisions", action="store_true", help="time memory and precision on a CPU instead")
    a = p.parse_args()
    if a.precisions: return precisions(a.backbone, a.batch, a.turns)
    device = choose_device()
    if a.layouts: return layouts(device, a.batch)
    changes = {"model.weights": "none", "optim.precision": a.precision} | ({"model.backbone": a.backbone} if a.backbone else {})
    recipe = find_recipe(a.recipe, changes)
    with tempfile.TemporaryDirectory() as folder:
        learner, kinds = sides(recipe, a.batch, device, folder)
        times = measure(learner, kinds, a.turns, a.steps)
    windows = f"{a.batch} windows of {recipe.sampling.window_s:g} s"
    print(f"{recipe.model.backbone}, {windows}, {device}, {learner.model.dtype or torch.float32}, {torch.get_num_threads()} threads\n")
    print("| batches | s a step | clips a second |\n|---|---|---|")
    for kind, t in times.items(): print(f"| {kind} | {t:.3f} | {a.batch / t:.1f} |")
    print(f"\nreal batches reach {times['synthetic'] / times['real']:.1%} of the rate with synthetic ones")


if __name__ == "__main__":
    main()
