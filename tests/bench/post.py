"""Milliseconds of every post-processing step and blend on a submission of 700 files of 12 rows and 206 classes.

    python tests/bench/post.py [MODELS]      float32 scores; blends of MODELS models (3)
"""
import argparse, os, time

import numpy as np

from birdkit.blend import BLENDS, blend
from birdkit.post import POST, apply_post

FILES, ROWS, CLASSES, RUNS = 700, 12, 206, 7


def median_ms(
    work,  # Function of nothing
):         # Median of RUNS runs after one to warm up, ms
    "How long something takes."
    spent = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        work()
        spent.append(1000 * (time.perf_counter() - start))
    return float(np.median(spent[1:]))


def main(
    models,  # Models in a blend
):           # Lines of a table
    "Measure every entry of POST and BLENDS."
    rng = np.random.default_rng(0)
    scores = rng.random((models, FILES * ROWS, CLASSES), "float32") ** 4
    facts = dict(genus=(np.arange(CLASSES) // 2).astype(str), taxon=np.resize(["Aves", "Aves", "Amphibia", "Insecta"], CLASSES),
                 prior=rng.random((FILES, CLASSES)))
    needs = dict(class_smooth=("taxon",), group_mix=("genus",), group_max=("genus",), add_prior=("prior",))
    probs = scores[0].reshape(FILES, ROWS, CLASSES)
    gaps = np.where(rng.random((models, FILES * ROWS, 1)) < .01, np.nan, scores).astype("float32")
    yield f"{FILES * ROWS:,} rows, {CLASSES} classes, {os.cpu_count()} cores: median of {RUNS} runs"
    yield from (f"{name:16}{median_ms(lambda: apply_post(probs, [(name, *needs.get(name, ()))], **facts)):7.1f} ms" for name in POST)
    yield f"{models} models{'':8}   whole   1 % unheard"
    for how in BLENDS:
        whole, gappy = (median_ms(lambda: blend(stack, how=how, fallback=scores[0])) for stack in (scores, gaps))
        yield f"{how:16}{whole:7.1f}{gappy:10.1f} ms"


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", metavar="MODELS", type=int, nargs="?", default=3, help="models in a blend (default %(default)s)")
    for line in main(p.parse_args().models): print(line)
