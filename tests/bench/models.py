"""How large is each backbone and head, and how fast on this CPU: torch beside OpenVINO, side by side in one run.

    python tests/bench/models.py                                                  all: half an hour
    python tests/bench/models.py --backbones mnasnet_100 --heads sed --repeats 9  one of each

Parameters in millions, multiply-adds in thousands of millions (G) and milliseconds for one window of 5 s: a picture of 128 x 313,
in batches of 12. Heads are measured alone, on the maps of `--under` and with 206 classes. Milliseconds are medians; the two engines
take turns, so that a busy machine is unfair to neither. Weights are random: they change no speed.
"""
import argparse, gc, statistics, time
from itertools import chain

import openvino as ov
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from birdkit.backbones import BACKBONES, Backbone
from birdkit.heads import HEADS

BATCH, SIZE, CLASSES = 12, (128, 313), 206
ENGINE = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
ARCHS = list(dict.fromkeys(name.split(".")[0] for name in BACKBONES))


class Levels(torch.nn.Module):
    "A head that looks at several maps, which reach it as separate inputs; it answers with clip and frame logits."
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, *maps):
        return self.head(maps if len(maps) > 1 else maps[0])[:2]


def macs(net, inputs):
    "Multiply-adds of one window."
    with FlopCounterMode(display=False) as counter, torch.no_grad(): net(*inputs)
    return counter.get_total_flops() / 2 / len(inputs[0])


def to_openvino(net, inputs):
    "The network compiled for this CPU in float32, as a function of the same inputs."
    model = ov.convert_model(net, example_input=inputs, input=[tuple(x.shape) for x in inputs])
    compiled, arrays = ov.compile_model(model, "CPU", ENGINE), [x.numpy() for x in inputs]
    return lambda: compiled(arrays)


def run_torch(net, inputs):
    "One batch without gradients."
    with torch.inference_mode(): return net(*inputs)


def spent_ms(work):
    "Milliseconds of one call."
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def measure(name, net, inputs, repeats):
    "A row of the table."
    net.eval()
    ways = {"torch, ms": lambda: run_torch(net, inputs), "OpenVINO f32, ms": to_openvino(net, inputs)}
    spent = [[spent_ms(work) for work in ways.values()] for _ in range(repeats + 1)][1:]        # the first warms up
    medians = {way: statistics.median(column) / BATCH for way, column in zip(ways, zip(*spent))}
    first, second = medians.values()
    return {"": name, "parameters, M": sum(p.numel() for p in net.parameters()) / 1e6, "MACs, G": macs(net, inputs) / 1e9, **medians, "ratio": first / second}


def backbone_rows(names, repeats):
    "Backbones on pictures."
    picture = torch.randn(BATCH, 1, *SIZE)
    for name in names:
        yield measure(name, Backbone(name, size=SIZE, weights="none"), (picture,), repeats)
        gc.collect()


def head_rows(names, under, repeats):
    "Heads on the maps of a backbone; several maps for a head that wants them."
    backbone = Backbone(under, size=SIZE, weights="none").eval()
    with torch.no_grad(): maps = tuple(m.contiguous() for m in backbone.levels(torch.randn(BATCH, 1, *SIZE)))
    for name in names:
        features, inputs = ([m.shape[1] for m in maps], maps) if name == "deep" else (backbone.features, maps[-1:])
        yield measure(f"head {name}", Levels(HEADS[name](features, CLASSES)), inputs, 10 * repeats)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--backbones", nargs="*", default=ARCHS, help="timm names (all of birdkit.backbones.BACKBONES, each network once)")
    p.add_argument("--heads", nargs="*", default=list(HEADS), choices=list(HEADS), help="names of birdkit.heads.HEADS (all)")
    p.add_argument("--under", default="tf_efficientnet_b0", help="backbone below the heads")
    p.add_argument("--repeats", type=int, default=7, help="batches timed for each engine, ten times as many for heads; the median counts")
    a = p.parse_args()
    rows = []
    try:
        for row in chain(backbone_rows(a.backbones, a.repeats), head_rows(a.heads, a.under, a.repeats)):
            rows.append(row)
            print(f"{row['']}: torch {row['torch, ms']:.2f} ms, OpenVINO {row['OpenVINO f32, ms']:.2f} ms", flush=True)
    except KeyboardInterrupt: print("stopped")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; OpenVINO {ov.__version__.split('-')[0]}; batch {BATCH}, 1 x {SIZE[0]} x {SIZE[1]}\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=("", ".2f", ".3f", ".2f", ".2f", ".1f")))


if __name__ == "__main__":
    main()
