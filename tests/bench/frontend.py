"""What mel and augmentation cost a training step: beside the forward and backward pass of tf_efficientnet_b0, on the same batch.

    python tests/bench/frontend.py                  64 clips of 5 s, medians of 5 turns
"""
import argparse, statistics, time

import torch

from birdkit.audio import SR
from birdkit.augment import apply_picture, apply_power, apply_wave
from birdkit.mixing import Sample
from birdkit.recipe import Recipe
from birdkit.trained import TrainedModel, choose_device


def paths(batch, device):
    "The two sides, as functions."
    recipe = Recipe("bench").but({"model.backbone": "tf_efficientnet_b0", "model.weights": "none"})
    model, gen = TrainedModel(recipe, [f"c{i}" for i in range(206)]).to(device).train(), torch.Generator(device).manual_seed(0)
    wave, scape = torch.randn(2, batch, int(recipe.sampling.window_s * SR), device=device)
    targets, a, front = torch.zeros(batch, 206, device=device), recipe.augment, model.frontend

    @torch.no_grad()
    def prepare():
        sample = apply_wave(Sample(wave, targets, scape=scape), a, gen)
        sample = apply_power(Sample(front.mel.power(sample.x), targets), a, gen)
        return apply_picture(Sample(front.mel.picture(sample.x), targets), a, gen).x

    picture = prepare().contiguous(memory_format=torch.channels_last)

    def step():
        model.zero_grad()
        clip, frames = model(picture)
        (clip.mean() + frames.mean()).backward()

    return {"mel and augmentation": prepare, "forward and backward of tf_efficientnet_b0": step}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch", type=int, default=64, help="clips")
    p.add_argument("--repeats", type=int, default=5, help="turns; the median counts")
    a = p.parse_args()
    sides, device = paths(a.batch, choose_device()), choose_device()
    times = {name: [] for name in sides}
    for turn in range(a.repeats + 1):
        for name, run in sides.items():
            begin = time.perf_counter()
            run()
            if device == "cuda": torch.cuda.synchronize()
            if turn: times[name].append(time.perf_counter() - begin)
    print(f"batch of {a.batch} clips of 5 s on {device}, {torch.get_num_threads()} threads\n\n| | ms |\n|---|---|")
    for name, t in times.items(): print(f"| {name} | {1e3 * statistics.median(t):.0f} |")


if __name__ == "__main__":
    main()
