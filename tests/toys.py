"Tiny competition folders in the layouts of 2024, 2025 and 2026, and a model folder to hear them with."
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.audio import SR, write_ogg
from birdkit.core import write_json
from birdkit.recipe import Recipe
from birdkit.runtime import MANIFEST, file_sha256

LABELS = ["1139490", "47144", "owl1", "redwin"]
NAMES = {"1139490": ("Ragoniella pulchella", "Katydid", "Insecta"),
         "47144": ("Canis familiaris", "Domestic Dog", "Mammalia"),
         "owl1": ("Strix aluco", "Tawny Owl", "Aves"), "redwin": ("Turdus iliacus", "Redwing", "Aves")}
SECONDARY = {2024: ["[]", "['owl1', 'zzz']"], 2025: ["['']", "['owl1', '47144', 'zzz']"],
             2026: ["[]", "['']", "['owl1']"]}


def noise(seconds, seed=0):
    "Quiet noise, (T,) float32."
    return np.random.default_rng(seed).normal(0, .05, int(seconds * SR)).astype("float32")


def clips(year, labels=LABELS, per_class=2):
    "The table of focal clips as that year writes it."
    n = len(labels) * per_class
    who = [label for label in labels for _ in range(per_class)]
    table = pd.DataFrame(dict(primary_label=who, secondary_labels=(SECONDARY[year] * n)[:n], latitude=4.5,
                              longitude=-74., author="A. Person", rating=4.5,
                              filename=[f"{label}/XC{i}.ogg" for i, label in enumerate(who)]))
    if year != 2024: table["collection"] = "XC"
    if year != 2026:
        table = table.assign(type="['song']", license="cc-by-nc-sa 4.0",
                             url=[f"https://xeno-canto.org/{i}" for i in range(n)],
                             scientific_name=[NAMES[x][0] for x in who], common_name=[NAMES[x][1] for x in who])
    return table


def toy_folder(path, year=2025, audio=False, test_s=(10, 60), labels=LABELS):
    "Write a competition folder; `audio` adds focal clips of 6 s, `test_s` is the length of each test file, s."
    path = Path(path)
    name = "BC2026_Test_{:04}_S05_20250227_010002" if year == 2026 else "soundscape_{}"
    test = [name.format(i + 1) for i in range(len(test_s))]
    other = path / ("unlabeled_soundscapes" if year == 2024 else "train_soundscapes")
    for folder in (path / "train_audio", path / "test_soundscapes", other): folder.mkdir(parents=True)
    table = clips(year, labels)
    table.to_csv(path / ("train_metadata.csv" if year == 2024 else "train.csv"), index=False)
    first = test[0] if test else "soundscape_8358733"
    sample = pd.DataFrame({"row_id": [f"{first}_5"], **dict.fromkeys(labels, 1 / len(labels))})
    sample.to_csv(path / "sample_submission.csv", index=False)
    if year == 2024: (path / "eBird_Taxonomy_v2021.csv").write_text("SPECIES_CODE,SCI_NAME\nowl1,Strix aluco\n")
    else:
        taxa = [(x, i, *NAMES[x]) for i, x in enumerate(labels)]
        columns = ["primary_label", "inat_taxon_id", "scientific_name", "common_name", "class_name"]
        pd.DataFrame(taxa, columns=columns).to_csv(path / "taxonomy.csv", index=False)
    if year == 2026:
        rows = "BC2026_Train_0001_S08_20250606_030007.ogg,00:00:00,00:00:05,47144;owl1\n"
        (path / "train_soundscapes_labels.csv").write_text("filename,start,end,primary_label\n" + 2 * rows)
    for i, stem in enumerate(test): write_ogg(path / f"test_soundscapes/{stem}.ogg", noise(test_s[i], i))
    for i in range(2): write_ogg(other / f"BC2026_Train_000{i + 1}_S08_20250606_030007.ogg", noise(10, 10 + i))
    if audio:
        for i, name in enumerate(table.filename): write_ogg(path / "train_audio" / name, noise(6, 100 + i))
    return path


def toy_export(folder, labels=LABELS):
    "An exported model folder without training: each class's chance is a fixed function of each frame's level."
    import openvino as ov
    ops, folder = ov.opset13, Path(folder)
    recipe = Recipe("toy").but({"frontend.n_mels": 16, "frontend.hop": 3200, "infer.stride_s": 5., "infer.post": []})
    picture = ops.parameter([-1, *recipe.frontend.shape(recipe.sampling.window_s)], np.float32)      # (B, 1, mels, frames)
    level = ops.unsqueeze(ops.reduce_mean(picture, np.array([1, 2])), np.array(2))
    frames = ops.sigmoid(ops.multiply(level, np.linspace(.5, 2, len(labels), dtype="float32").reshape(1, 1, -1)))
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(ov.Model([ops.reduce_max(frames, np.array([1])), frames], [picture]), folder / "toy.xml", compress_to_fp16=False)
    digests = {name: file_sha256(folder / name) for name in ("toy.xml", "toy.bin")}
    entry = dict(name="toy", file="toy.xml", recipe=asdict(recipe), weight=1., ms_per_window=1., sha256=digests)
    write_json(folder / MANIFEST, dict(classes=list(labels), prior=[.1] * len(labels), models=[entry]))
    return folder


def tones(path, per_class=5, seconds=6, seed=0, year=2025):
    "A competition whose classes are tones of their own pitch, of four animal classes; in 2026 with labelled soundscapes."
    path, rng = toy_folder(path, year, test_s=(10, 10)), np.random.default_rng(seed)
    t = np.arange(seconds * SR) / SR
    for k, label in enumerate(LABELS):
        for i in range(per_class):
            x = .2 * np.sin(2 * np.pi * (1200 + 1500 * k) * t) * (np.sin(2 * np.pi * (1 + i / 5) * t) > 0) + rng.normal(0, .02, len(t))
            write_ogg(path / f"train_audio/{label}/XC{10 * k + i}.ogg", x.astype("float32"))
    rows = [dict(primary_label=c, secondary_labels="[]", filename=f"{c}/XC{10 * k + i}.ogg",
                 collection="XC", rating=4., url=f"https://x/{k}-{i}", author=f"P{i}", license="cc0",
                 latitude=4.5, longitude=-74., type="", scientific_name=NAMES[c][0], common_name=NAMES[c][1])
            for k, c in enumerate(LABELS) for i in range(per_class)]
    pd.DataFrame(rows).to_csv(path / "train.csv", index=False)
    taxa = [(c, i, *NAMES[c][:2], kind) for i, (c, kind) in enumerate(zip(LABELS, ("Insecta", "Mammalia", "Amphibia", "Aves")))]
    pd.DataFrame(taxa, columns=["primary_label", "inat_taxon_id", "scientific_name", "common_name", "class_name"]).to_csv(path / "taxonomy.csv", index=False)
    return path
