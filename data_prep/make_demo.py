"""Make the demo competition: a valley of 12 invented species in the file layout of BirdCLEF+ 2025, with its truth.

    python data_prep/make_demo.py --out work/demo

All sound is computed, nothing is downloaded. The same seed gives the same samples.
"""
import math, os, shutil, time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.audio import ROW_S, SR, cut, decode, n_rows, write_ogg
from birdkit.core import KitError, read_json, write_json, write_table
from birdkit.threads import ahead
from tables import at_least, run_script, script_parser
from synth import (FRAME_S, Note, Species, at_snr, background, bout, equalise, individual, reverberate, song, sounding,
                   speech)

VERSION = 2
MARKER = ".demo.json"   # Of a folder that this script made
SOUNDSCAPE_S = 60
HEARD_S = .2   # s of its own sound within a row make a class true there
EVENTS = (0, .08, .12, .2, .2, .2, .2)   # Chance of 0, 1, ... 6 songs of a species in a soundscape
SINGERS = (3, 4, 2, 5, 1, 4, 5, 0)       # Species in a soundscape, in turn
TRAIN_SITES, TEST_SITES = ("V01", "V02", "V03", "V04"), ("V05", "V06", "V07")

# Species share bands on purpose: the trillets differ in the rate and direction of a sweep, the pipers in the order of
# two notes, so that an average spectrum does not tell them apart.
VALLEY = (
    Species("valtri1", "Vallicola celer", "Valley Trillet", "Aves", (Note(4900, 3000, .032, (16, 30), .026),)),
    Species("slatri1", "Vallicola lentus", "Slate Trillet", "Aves", (Note(4900, 3000, .080, (7, 12), .065),)),
    Species("ambtri1", "Vallicola succineus", "Amber Trillet", "Aves", (Note(3000, 4900, .080, (7, 12), .065),)),
    Species("bropip1", "Fistularis rivi", "Brook Piper", "Aves", (
        Note(2750, 2650, .36, gap_s=.09), Note(2050, 1980, .46))),
    Species("ridpip1", "Fistularis jugi", "Ridge Piper", "Aves", (
        Note(2050, 1980, .46, gap_s=.09), Note(2750, 2650, .36))),
    Species("neebir1", "Acicula tenuis", "Needlebird", "Aves", (
        Note(6100, 6700, .26, (3, 6), .12, bend=.05, step=.985),)),
    Species("thobuz1", "Stridula spinae", "Thorn Buzzer", "Aves", (
        Note(5900, 6300, .62, (1, 3), .22, tremble=(75, .13)),)),
    Species("moswre1", "Muscicolus praeceps", "Mossback Wren", "Aves", (
        Note(4700, 4000, .11, (10, 16), .06, step=.955, hurry=.95),)),
    Species("lanthr1", "Lucerna vespertina", "Lantern Thrush", "Aves", (
        Note(2300, 3300, .22), Note(3500, 2500, .18, (1, 2)), Note(2600, 2600, .35, bend=.3),
        Note(2100, 2100, .3, tremble=(14, .1)), Note(4400, 3400, .06, (3, 5), .04), Note(3000, 3050, .3, bend=-.3)),
        pause_s=(1., 2.6), pick=4),
    Species("9000417", "Lacunara cava", "Hollow Frog", "Amphibia", (
        Note(780, 700, .55, (1, 3), .3, pulse=(27, .95), partials=(.5, 1, .6, .25)),), pause_s=(.8, 2.5)),
    Species("pebfro1", "Calculana parva", "Pebble Frog", "Amphibia", (
        Note(1750, 2750, .2, (3, 6), .32, pulse=(48, .8)),), pause_s=(.6, 2.)),
    Species("silcri1", "Argentogryllus noctis", "Silver Cricket", "Insecta", (
        Note(6250, 6100, .17, (10, 18), .17, pulse=(31, .9)),), pause_s=(.8, 2.5)),
)
# Focal recordings of each: a long tail
CLIPS = {"lanthr1": 40, "valtri1": 30, "bropip1": 22, "pebfro1": 17, "slatri1": 13, "ridpip1": 11, "silcri1": 9,
         "ambtri1": 8, "neebir1": 7, "thobuz1": 5, "moswre1": 4, "9000417": 3}
STRANGERS = ("Ashtail", "Bellwing", "Copper Chat", "Dusk Tinker", "Elder Finch", "Fernhopper", "Glass Warbler",
             "Heath Rattler", "Ink Dove", "Juniper Tit", "Kettle Toad", "Loam Frog", "Mist Sparrow", "Nettle Cricket",
             "Orchard Shrike", "Pine Whistler")
AUTHORS = ("Ada Fern", "Bo Lindqvale", "Cleo Marsh", "Dario Penna", "Edda Quill", "Farid Ostrow", "Greta Holm",
           "Hugo Valmy", "Ines Torvald", "Jonas Wick", "Kaya Brandt", "Leo Sandoval")
LICENCES = ("cc-by 4.0", "cc-by-sa 4.0", "cc-by-nc-sa 4.0", "cc0 1.0")
COLUMNS = ("primary_label", "secondary_labels", "type", "filename", "collection", "rating", "url", "latitude",
           "longitude", "scientific_name", "common_name", "author", "license")
PLACE = """The valley
Country: none; the valley, its species and its recordists are invented
Latitude: -31.42
Longitude: -122.85
"""


@dataclass(frozen=True)
class Take:
    "Plan of one focal recording."
    species: Species
    filename: str
    seconds: float       # Duration of the animal's part, s
    other: object        # Species in the background, or None
    talk: str            # "", "start" or "end": where an announcement is
    talk_s: float        # Its duration, s
    still_s: float       # Near-silence after the songs, s
    key: tuple           # Seeds the sound


def strangers(
    seed,  # Seed
):         # Tuple of 16 Species that do not live in the valley
    "Draw the species of the past year from wide ranges of the same parameters."
    def draw(name, rng):
        kind = "Amphibia" if name.endswith(("Toad", "Frog")) else "Insecta" if name.endswith("Cricket") else "Aves"
        words = name.lower().split()
        label = (words[0][:6] if len(words) == 1 else words[0][:3] + words[1][:3]) + "9"
        notes = tuple(_any_note(kind, rng) for _ in range(rng.integers(1, 4)))
        return Species(label, f"Peregrina {words[0]}ensis", name, kind, notes)
    return tuple(draw(name, np.random.default_rng([seed, 9, i])) for i, name in enumerate(STRANGERS))


def _any_note(kind, rng):
    "A random note that suits the class of animal."
    low, high = dict(Aves=(1800, 6500), Amphibia=(500, 2500), Insecta=(4500, 8000))[kind]
    start, fast = np.exp(rng.uniform(np.log(low), np.log(high))), rng.random() < .5
    length = rng.uniform(.03, .1) if fast else rng.uniform(.15, .6)
    fewest = int(rng.integers(5, 12)) if fast else 1
    return Note(
        start, start * 2 ** rng.uniform(-.6, .6), length, (fewest, fewest + (8 if fast else 2)),
        gap_s=rng.uniform(.3, 1) * length, bend=rng.choice([0, rng.uniform(-.3, .3)]),
        tremble=(rng.uniform(10, 90), rng.choice([0, 0, rng.uniform(.03, .15)])),
        pulse=(rng.uniform(20, 60), rng.choice([0, 0, .9]) if kind == "Aves" else .9),
        partials=(1., rng.choice([0, .4])), step=rng.uniform(.96, 1.03))


def plan_takes(
    species,  # Tuple of Species
    counts,   # Recordings of each, {label: n}
    lengths,  # Shortest and longest, s
    extras,   # True adds announcements, silences and background species
    seed,     # Tuple of ints
):            # List of Take
    "Decide what every focal recording holds."
    rng, takes = np.random.default_rng(seed), []
    for animal in species:
        for _ in range(counts[animal.label]):
            source = rng.choice(["XC", "XC", "XC", "iNat", "CSA"] if animal.class_name == "Aves" else ["iNat", "XC"])
            other, end = species[rng.integers(len(species))], str(rng.choice(["start", "end"]))
            talk, still, company = rng.random(3) < (.18, .1, .15) if extras else (False,) * 3
            takes.append(Take(
                animal, f"{animal.label}/{source}{900_000 + 1000 * seed[1] + len(takes)}.ogg", rng.uniform(*lengths),
                other=other if company and other is not animal else None, talk=end if talk else "",
                talk_s=rng.uniform(2, 4), still_s=rng.uniform(4, 9) if still else 0., key=(*seed, len(takes))))
    return takes


def render_take(
    take,  # Take
):         # (T,) float32
    "Sing one focal recording: an individual near the microphone, in the noise of its place."
    rng = np.random.default_rng(take.key)
    sing_s = max(3.5, take.seconds - take.still_s - (take.talk_s if take.talk else 0))
    n = round(sing_s * SR)
    near = str(rng.choice(["stream", "insects"]))
    levels = {"wind": rng.normal(0, 3), "hiss": rng.uniform(-26, -10), near: rng.uniform(-30, -12)}
    noise = background(n, levels, rng)
    x = at_snr(bout(individual(take.species, rng), sing_s, rng), noise, rng.uniform(8, 30))
    if take.other: x = x + at_snr(bout(individual(take.other, rng), sing_s, rng), noise, rng.uniform(0, 6))
    x = equalise(reverberate(x, rng.uniform(.2, .6), rng.uniform(-22, -8), rng) + noise, _response(rng, 2.5))
    x *= 10 ** (rng.uniform(-14, -1) / 20) / np.abs(x).max()
    if take.still_s: x = np.r_[x, background(round(take.still_s * SR), {"hiss": rng.uniform(-75, -60)}, rng)]
    if take.talk:
        voice = .5 * speech(take.talk_s, rng) + .01 * background(round(take.talk_s * SR), {"wind": 0, "hiss": -15}, rng)
        x = np.r_[voice, x] if take.talk == "start" else np.r_[x, voice]
    return x.astype("float32")


def _response(rng, sd_db):
    "A microphone's frequency response, as a curve of (Hz, dB) points."
    return [(hz, rng.normal(0, sd_db)) for hz in (60, 250, 1000, 2000, 4000, 8000, 15000)]


def describe(
    takes,  # List of Take
    seed,   # Tuple of ints
):          # DataFrame in the columns of train.csv
    "Invent recordists, ratings, licences and coordinates."
    rng, n = np.random.default_rng(seed), len(takes)
    author = rng.choice(AUTHORS, n, p=np.arange(len(AUTHORS), 0, -1) / sum(range(len(AUTHORS) + 1)))
    stems = [Path(t.filename).stem for t in takes]
    known = rng.random(n) < .9
    frame = pd.DataFrame(dict(
        primary_label=[t.species.label for t in takes],
        secondary_labels=[str([t.other.label if t.other else ""]) for t in takes],
        type=[str([kind]) for kind in rng.choice(["song", "call", ""], n, p=[.6, .3, .1]).tolist()],
        filename=[t.filename for t in takes], collection=[s.rstrip("0123456789") for s in stems],
        rating=np.where(rng.random(n) < .12, 0, rng.integers(4, 11, n) / 2 - [.5 * bool(t.other) for t in takes]),
        url=[f"https://example.org/{s}" for s in stems],
        latitude=np.where(known, (-31.42 + rng.normal(0, .05, n)).round(4), np.nan),
        longitude=np.where(known, (-122.85 + rng.normal(0, .05, n)).round(4), np.nan),
        scientific_name=[t.species.scientific_name for t in takes], common_name=[t.species.common_name for t in takes],
        author=author, license=rng.choice(LICENCES, n)))
    return frame[list(COLUMNS)]


def write_focal(
    folder,   # Competition folder
    species,  # Tuple of Species
    takes,    # List of Take
    seed,     # Tuple of ints
):            # DataFrame, train.csv before the duplicates
    "Write the focal recordings and taxonomy.csv."
    def job(take): return write_ogg(folder / "train_audio" / take.filename, render_take(take))
    for _ in ahead(job, takes): pass
    taxonomy = pd.DataFrame([vars(s) for s in species]).rename(columns={"label": "primary_label"})
    codes = [s.label if s.label.isdigit() else 9_100_000 + 1000 * seed[1] + i for i, s in enumerate(species)]
    columns = ["primary_label", "inat_taxon_id", "scientific_name", "common_name", "class_name"]
    write_table(folder / "taxonomy.csv", taxonomy.assign(inat_taxon_id=codes)[columns].sort_values("primary_label"))
    for name in ("train_soundscapes", "test_soundscapes"): (folder / name).mkdir()
    (folder / "recording_location.txt").write_text(PLACE)
    return describe(takes, seed)


def add_duplicates(
    folder,  # Competition folder
    train,   # train.csv so far
):           # train.csv with three more rows
    "Upload three recordings of the commonest species again: the same bytes, another gain, encoded twice."
    rows = train[train.primary_label == train.primary_label.value_counts().index[0]].head(3).copy()
    audio, fresh = folder / "train_audio", []
    for i, name in enumerate(rows.filename):
        fresh.append(f"{Path(name).parent}/XC{990_000 + i}.ogg")
        if i: write_ogg(audio / fresh[-1], decode(audio / name).samples * (1, .4, 1)[i])
        else: shutil.copyfile(audio / name, audio / fresh[-1])
    urls = [f"https://example.org/{Path(name).stem}" for name in fresh]
    return pd.concat([train, rows.assign(filename=fresh, collection="XC", url=urls)], ignore_index=True)


def add_faults(
    folder,  # Competition folder
    train,   # train.csv so far
):           # train.csv with two more rows
    "Add an empty file and a text that is called .ogg."
    rows = train.head(2).assign(collection="XC", url="")
    rows["filename"] = [f"{label}/XC{999_000 + i}.ogg" for i, label in enumerate(rows.primary_label)]
    for name, text in zip(rows.filename, ("", "This is not a recording.\n")):
        (folder / "train_audio" / name).write_text(text)
    return pd.concat([train, rows], ignore_index=True)


@dataclass(frozen=True)
class Scene:
    "Plan of one soundscape."
    path: Path           # Where to write it
    site: str            # Its site, which has one room, one response and one mixture of weather
    species: tuple       # Who sings
    key: tuple           # Seeds the sound


def plan_scenes(
    folder,  # Competition folder
    n_train,  # Unlabelled soundscapes
    n_test,   # Test soundscapes
    seed,     # Seed
):            # List of Scene, those of the test set last
    "Decide where every soundscape is recorded and who sings: none to five species, all species about equally often."
    rng, scenes = np.random.default_rng([seed, 2]), []
    numbers = iter(100_000 + rng.permutation(900_000)[:n_test])
    for part, n, sites in (("train", n_train, TRAIN_SITES), ("test", n_test, TEST_SITES)):
        used = np.zeros(len(VALLEY))
        for i in range(n):
            chosen = np.argsort(used + 1.5 * rng.random(len(VALLEY)))[:SINGERS[i % len(SINGERS)]]
            used[chosen] += 1
            site = sites[i % len(sites)]
            month, day, hour, minute = rng.integers((3, 1, 4, 0), (7, 29, 21, 60))
            when = f"2025{month:02d}{day:02d}_{hour:02d}{minute:02d}00"
            name = f"{site}_{when}" if part == "train" else f"soundscape_{next(numbers)}"
            path = folder / f"{part}_soundscapes" / f"{name}.ogg"
            scenes.append(Scene(path, site, tuple(VALLEY[c] for c in chosen), (seed, 3, len(scenes))))
    return scenes


def _site(name, seed):
    "Echo, response and weather of a site, the same in all of its soundscapes."
    rng = np.random.default_rng([seed, 4, int(name[1:])])
    mixtures = ("wind", "insects"), ("stream", "wind"), ("rain", "wind"), ("wind", "insects", "stream")
    kinds = mixtures[int(name[1:]) % len(mixtures)]
    echo = dict(rt60_s=rng.uniform(.4, 1.1), wet_db=rng.uniform(-12, -3))
    return rng, echo, _response(rng, 4), {kind: rng.uniform(-14, 0) for kind in kinds}


def render_scene(
    scene,  # Scene
    seed,   # Seed of the sites
):          # (60 s,) float32 and the seconds that each species sounds in each row, {label: (12,)}
    "Sing one soundscape: individuals at a distance, one over another, in the echo and weather of the site."
    rng, n = np.random.default_rng(scene.key), SOUNDSCAPE_S * SR
    room, echo, response, weather = _site(scene.site, seed)
    levels = {kind: db + rng.normal(0, 3) for kind, db in weather.items()} | {"hiss": rng.uniform(-30, -18)}
    noise = background(n, levels, rng)
    dry, truth = np.zeros(n, "float32"), {}
    for species in scene.species:
        singer, heard = individual(species, rng), np.zeros(round(SOUNDSCAPE_S / FRAME_S), bool)
        for _ in range(rng.choice(7, p=EVENTS)):
            x = equalise(song(singer, rng), [(1000, 0), (10_000, -rng.uniform(0, 12))])
            start = int(rng.integers(0, n - len(x) // 2))
            x = at_snr(x, cut(noise, start, len(x)), rng.triangular(-6, 7, 12))[:n - start]
            dry[start:start + len(x)] += x
            first = start // round(FRAME_S * SR)
            frames = sounding(x)[:len(heard) - first]
            heard[first:first + len(frames)] |= frames
        truth[species.label] = heard.reshape(n_rows(SOUNDSCAPE_S), -1).sum(1) * FRAME_S
    mix = equalise(reverberate(dry, rng=room, **echo) + noise, response)
    gain = 10 ** (rng.uniform(-38, -26) / 20) / np.sqrt(np.mean(np.square(mix)))
    return (mix * np.float32(gain)).clip(-1, 1), truth


def write_scenes(
    folder,  # Competition folder
    scenes,  # List of Scene
    labels,  # Classes in order
    seed,    # Seed of the sites
):           # DataFrame: row_id and a 0/1 column per class, 1 where the class sounds for 0.2 s or more
    "Write all soundscapes, the truth of the test set and sample_submission.csv."
    def job(scene):
        mix, heard = render_scene(scene, seed)
        write_ogg(scene.path, mix)
        ends = [f"{scene.path.stem}_{ROW_S * (i + 1)}" for i in range(n_rows(SOUNDSCAPE_S))]
        table = {label: heard.get(label, np.zeros(len(ends))) for label in labels}
        return pd.DataFrame(table, pd.Index(ends, name="row_id"))
    seconds = {scene.path: table for scene, table in zip(scenes, ahead(job, scenes))}
    tests = [table for path, table in sorted(seconds.items()) if path.parent.name == "test_soundscapes"]
    truth = (pd.concat(tests) >= HEARD_S).astype(int)
    write_table(folder / "test_soundscapes_truth.csv", truth.reset_index())
    write_submission(folder, truth.index, labels)
    return truth.reset_index()


def write_submission(
    folder,   # Competition folder
    row_ids,  # Rows in order
    labels,   # Classes in order
):            # Path of sample_submission.csv
    "Write sample_submission.csv, where every class is equally likely."
    table = pd.DataFrame(round(1 / len(labels), 6), pd.Index(row_ids, name="row_id"), labels)
    return write_table(folder / "sample_submission.csv", table.reset_index())


def build_valley(
    folder,  # Empty folder
    seed,    # Seed of everything
    faults,  # True adds two files that cannot be read
    scale,   # Factor on the numbers of recordings and soundscapes
):           # None
    "Write the demo competition."
    counts = {label: max(2, round(n * scale)) for label, n in CLIPS.items()}
    takes = plan_takes(VALLEY, counts, (4.5, 18), True, (seed, 0))
    train = add_duplicates(folder, write_focal(folder, VALLEY, takes, (seed, 5)))
    if faults: train = add_faults(folder, train)
    write_table(folder / "train.csv", train.sort_values(["primary_label", "filename"]))
    scenes = plan_scenes(folder, max(2, round(24 * scale)), max(2, round(16 * scale)), seed)
    write_scenes(folder, scenes, sorted(CLIPS), seed)


def build_past(
    folder,  # Empty folder
    seed,    # Seed of everything
    scale,   # Factor on the number of recordings
):           # None
    "Write the past year's competition: 16 other species, no soundscapes."
    species = strangers(seed)
    labels = sorted(s.label for s in species)
    takes = plan_takes(species, dict.fromkeys(labels, max(1, round(10 * scale))), (5, 10), False, (seed, 1))
    train = write_focal(folder, species, takes, (seed, 6))
    write_table(folder / "train.csv", train.sort_values(["primary_label", "filename"]))
    write_submission(folder, [f"soundscape_8000001_{end}" for end in (5, 10, 15)], labels)


def _marked(folder):
    "What a demo's marker says of it; nothing where there is none."
    marker = folder / MARKER
    return read_json(marker, "make the demo again") if marker.exists() else {}


def _check_apart(out, past):
    "Refuse to make one part of a demo within the other, which would go when that is made anew."
    if out.is_relative_to(past) or past.is_relative_to(out): raise KitError(f"{out} and {past} are not apart: give another --past")


def _check_place(folder, part):
    "Refuse to replace anything but this part of a demo."
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()): return
    made = _marked(folder)
    if not made or made.get("part", part) != part: raise KitError(f"{folder} exists and is not a demo's {part}: give another folder or remove it")


def _once(folder, sign, build):
    "Build a folder beside its place and move it there when it is complete; one with the same marker stays."
    if _marked(folder) == sign: return print(f"{folder} is there already")
    start = time.monotonic()
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    part.mkdir(parents=True)
    try:
        build(part)
        write_json(part / MARKER, sign)
        if folder.exists(): folder.rename(old)
        part.rename(folder)
    finally:
        for rest in (part, old): shutil.rmtree(rest, ignore_errors=True)
    sizes = [p.stat().st_size for p in folder.rglob("*.ogg")]
    print(f"{folder}: {len(sizes)} recordings, {sum(sizes) / 1e6:.1f} MB, made in {time.monotonic() - start:.0f} s")


def make_demo(
    out,           # Competition folder to make
    past=None,     # Folder of the past year's competition, by default "<out>-past"
    seed=0,        # Seed of everything
    faults=False,  # True adds an empty file and a text called .ogg
    scale=1.,      # Factor on the numbers of recordings and soundscapes
):                 # Paths (out, past)
    "Make the demo competition and the past year's, each whole or not at all; what is there already stays."
    if not 0 < scale < math.inf: raise KitError(f"--scale {scale:g} makes nothing: give a factor above 0")
    out = Path(out).absolute()
    past = Path(past).absolute() if past else out.parent / f"{out.name}-past"
    _check_apart(out.resolve(), past.resolve())
    for folder, part in ((past, "past"), (out, "valley")): _check_place(folder, part)
    sign = dict(version=VERSION, seed=seed, scale=scale)
    _once(past, sign | {"part": "past"}, lambda folder: build_past(folder, seed, scale))
    _once(out, sign | {"part": "valley", "faults": faults}, lambda folder: build_valley(folder, seed, faults, scale))
    return out, past


def main(
    argv=None,  # Arguments, by default those of the command line
):              # None
    "Read the command line."
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--out", default="work/demo", metavar="FOLDER", help="competition folder to make (default %(default)s)")
    add("--past", metavar="FOLDER", help="folder of the past year's competition (default: <out>-past)")
    add("--seed", type=at_least(0, int), default=0, help="seed of everything (default %(default)s)")
    add("--scale", type=float, default=1., help="factor on the numbers of files (default %(default)s)")
    add("--faults", action="store_true", help="add an empty file and a text called .ogg")
    run_script(make_demo, parser, argv)


if __name__ == "__main__": main()
