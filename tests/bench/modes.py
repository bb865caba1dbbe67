"""What each way of cutting a soundscape into windows costs, and what it is worth.

    python tests/bench/modes.py DATA EXPORT         a competition folder with the truth of its test soundscapes, and an exported model folder

One table: milliseconds a file (median over turns in which the modes alternate) and macro ROC-AUC.
The dense mode is listed where the export holds a network in two halves; with --run also where it was refused.
"""
import argparse, statistics, tempfile, time
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.competition import Competition
from birdkit.faster import to_trunk_and_head
from birdkit.hear import hear_files
from birdkit.metrics import macro_auc
from birdkit.post import apply_sheet
from birdkit.rows import input_shapes, listen, window_inputs
from birdkit.audio import decode
from birdkit.runtime import DenseNetwork, fastest, load_export, load_network, trunk_and_head
from birdkit.submit import find_sample, find_soundscapes, make_sheet
from birdkit.trained import load_model

MODES = {
    "windows of 5 s": {"infer.stride_s": 5.},
    "every 2.5 s (2024 4th, 2025 5th)": {"infer.stride_s": 2.5},
    "every 1.25 s": {"infer.stride_s": 1.25},
    "every 2.5 s, frames averaged (2025 1st)": {"infer.stride_s": 2.5, "infer.average": "frames"},
    "every 2 s, frames averaged": {"infer.stride_s": 2., "infer.average": "frames"},
    "delta-shift of 1 frame (2023 2nd)": {"infer.stride_s": 5., "infer.shift_frames": 1},
    "clip output only": {"infer.stride_s": 5., "infer.output": "clip"},
    "loudest frame only": {"infer.stride_s": 5., "infer.output": "frames"},
    "dense, every 2.5 s": {"infer.stride_s": 2.5, "infer.dense": True},
    "dense, every 1.25 s": {"infer.stride_s": 1.25, "infer.dense": True},
}


def halves(
    run,     # Folder of a trained run
    recipe,  # Recipe, as it is heard
):           # DenseNetwork
    "A run's network in two halves."
    with tempfile.TemporaryDirectory() as scratch:
        parts = to_trunk_and_head(load_model(Path(run)), Path(scratch) / "network.xml", False)
        return DenseNetwork(*map(load_network, parts), input_shapes(recipe)[0][2])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", help="competition folder")
    p.add_argument("export", help="exported model folder; its first model is used")
    p.add_argument("--run", help="folder of the run that was exported, such as work/runs/small/fold0: its dense mode is heard, good enough or not")
    p.add_argument("--turns", type=int, default=3, help="how often every mode is run")
    a = p.parse_args()
    comp, export = Competition.find(a.data), load_export(a.export)
    member, files = export.members[0], find_soundscapes(comp, sample=find_sample(comp))
    sheet = make_sheet(comp, files, pd.Series(export.prior, list(export.classes)))
    rows, truth = [s.stop - s.start for s in sheet.spans], comp.truth()
    base = member.recipe.but({"infer.dense": False})
    network = fastest(member.path, lambda: window_inputs(listen(decode(files[0]).samples, rows[0], base), rows[0], base))[0]
    dense = halves(a.run, base) if a.run else network if trunk_and_head(member.path)[0].exists() else None
    modes = {name: base.but(change) for name, change in MODES.items() if "dense" not in name or dense}
    times, scores = {name: [] for name in modes}, {}
    try:
        for name, recipe in list(modes.items()) * a.turns:
            begin = time.perf_counter()
            found = np.concatenate([s for s, _ in hear_files(files, rows, recipe, dense if recipe.infer.dense else network)])
            times[name].append(1e3 * (time.perf_counter() - begin) / len(files))
            scores[name] = apply_sheet(found, sheet.spans, recipe.infer.post)
    except KeyboardInterrupt: print("stopped: fewer turns")
    table = lambda s: pd.concat([pd.Series(sheet.ids, name="row_id"), pd.DataFrame(s, columns=list(export.classes))], axis=1)
    lines = [dict(mode=n, ms_a_file=statistics.median(times[n]), macro_auc=macro_auc(truth, table(scores[n]))) for n in scores]
    print(f"{member.name} on {len(files)} files of {Path(a.data).name}\n\n{pd.DataFrame(lines).round(4).to_markdown(index=False)}")


if __name__ == "__main__":
    main()
