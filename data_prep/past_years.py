"""Merge the sets of past years into one collection, to pretrain on or to add recordings of this year's species.

    python data_prep/past_years.py birdclef-2024 birdclef-2023 birdclef-2022 birdclef-2021 --exclude birdclef-2025 --out birdclef-2025-past
    python data_prep/past_years.py birdclef-2024 birdclef-2023 --map birdclef-2025 --out birdclef-2025-more

With --exclude this year's species are left out, by code and by scientific name; 03_pretrain takes the folder when it stands beside the
competition as <competition>-past, or as past=. With --map species are found in this year's taxonomy; the collection then is this year's
competition with more recordings, under its labels and with its soundscapes: give it as data=. With neither, all species are merged.

A recording that several years have (the same xeno-canto number) is taken from the first folder given. Audio is linked, and copied where
that is impossible. Files that are there already are left alone, and a collection is not written anew where recordings that other scripts
added would be lost: run this one first. Recordist, licence and address of each recording are in ATTRIBUTION.csv.
"""
import os, shutil
from pathlib import Path

import pandas as pd

from birdkit.competition import TRUTH_FILES, Competition, audio_files, parse_labels
from birdkit.core import KitError, atomic, few, progress, read_table
from tables import COLUMNS, as_columns, at_least, check_collection, check_inside, run_script, script_parser, write_collection
from taxonomy import match_taxa, read_synonyms, read_taxa

TABLES = ("train.csv", "train_metadata.csv")           # Since 2025; until 2024
AUDIO_FOLDERS = ("train_audio", "train_short_audio")   # Since 2022; 2021
LENT = ("train_soundscapes_labels.csv", "recording_location.txt", *TRUTH_FILES)
GIVE = "give the folder of a BirdCLEF competition, or one of your own: train_audio/<label>/, and a train.csv with filename and primary_label"


def _first(folder, names):
    "The first of these that a folder has."
    found = next((Path(folder) / name for name in names if (Path(folder) / name).exists()), None)
    if found is None: raise KitError(f"{folder} has no {' and no '.join(names)}: {GIVE}")
    return found


def read_year(
    folder,  # Competition folder of any year since 2021
):           # DataFrame with COLUMNS and `source`, the path of each recording
    "Read the recordings of one year."
    path, audio = _first(folder, TABLES), _first(folder, AUDIO_FOLDERS)
    table = read_table(path, GIVE)
    gone = {"primary_label", "filename"} - set(table)
    if gone: raise KitError(f"{path} lacks columns: {few(sorted(gone))}: fetch it again")
    below = table.filename.str.contains("/")                      # in 2021 the folder is the label
    table["filename"] = table.filename.where(below, table.primary_label + "/" + table.filename)
    taxa = read_taxa(folder).set_index("primary_label")
    for column in {"scientific_name", "common_name", "class_name"} - set(table): table[column] = table.primary_label.map(taxa[column])
    if "collection" not in table: table["collection"] = table.filename.str.extract(r"([A-Za-z]+)\d[^/]*$")[0]
    table = as_columns(table, COLUMNS)
    check_inside(path, (table.primary_label + "/" + table.filename).rename("primary_label/filename"))
    return table.assign(source=f"{audio.absolute()}/" + table.filename)


def source_keys(
    filenames,  # Series of <label>/<file>
):              # Series of text
    "What two copies of a recording share: the collection and its number; other names say nothing beyond their folder."
    stems = filenames.str.extract(r"([^/]+?)(?:\.\w+)?$")[0]
    return stems.str.lower().where(stems.str.fullmatch(r"[A-Za-z]+\d[\w-]*"), filenames)


def merge_years(
    folders,  # Competition folders; of a recording in several the first one counts
):            # DataFrames (recordings with `source`, taxa)
    "Put years together."
    years = {Path(folder): read_year(folder) for folder in folders}
    rows = pd.concat(years.values(), ignore_index=True)
    there = rows.source.map(os.path.isfile).to_numpy(bool)
    twice = source_keys(rows.filename).where(there).duplicated().to_numpy() & there
    for folder, table in years.items(): print(f"{folder}: {len(table)} recordings of {table.primary_label.nunique()} species")
    print(f"{twice.sum()} recordings come twice, {(~there).sum()} files are missing")
    taxa = pd.concat([read_taxa(folder) for folder in years]).drop_duplicates("primary_label", ignore_index=True)
    return rows[there & ~twice], taxa


def leave_out(
    rows,         # DataFrame with COLUMNS
    taxa,         # DataFrame with TAXA_COLUMNS, their species
    targets,      # DataFrame with TAXA_COLUMNS, species to leave out
    synonyms={},  # {key of an old name: key of the new one}
):                # DataFrames (rows, taxa) without them
    "Leave out species that others are tested on."
    ours = taxa[match_taxa(taxa, targets, synonyms).to == ""]
    print(f"{len(taxa) - len(ours)} of {len(taxa)} species are left out")
    return rows[rows.primary_label.isin(ours.primary_label)], ours


def relabel(
    rows,         # DataFrame with COLUMNS
    taxa,         # DataFrame with TAXA_COLUMNS, their species
    targets,      # DataFrame with TAXA_COLUMNS, species to keep
    synonyms={},  # {key of an old name: key of the new one}
):                # DataFrame under the labels of `targets`; other species are gone
    "Keep species of another year, under its labels."
    found = match_taxa(taxa, targets, synonyms)
    label = dict(zip(taxa.primary_label[found.to != ""], found.to[found.to != ""]))
    rows = rows[rows.primary_label.isin(label)]
    others = [str([label[x] for x in cell if x in label and x != own]) for own, cell in zip(rows.primary_label, parse_labels(rows.secondary_labels))]
    names = targets.set_index("primary_label")[["scientific_name", "common_name", "class_name"]]
    primary = rows.primary_label.map(label)
    return rows.assign(primary_label=primary, secondary_labels=others, **{c: primary.map(names[c]) for c in names})


def link_file(
    source,      # A file
    target,      # Where it shall be, too
    copy=False,  # Copy it even where it could be linked
):               # Path of the target
    "A hard link, else a symbolic one, else a copy; a target of the same size stays."
    source, target = Path(source).resolve(), Path(target)
    if target.exists() and target.stat().st_size == source.stat().st_size: return target
    with atomic(target) as part: (shutil.copyfile if copy else _link)(source, part)
    return target


def _link(source, target):
    "The first of a hard link, a symbolic one and a copy that the disks allow."
    for way in (os.link, os.symlink):
        try: return way(source, target)
        except OSError: continue
    shutil.copyfile(source, target)


def lend_soundscapes(
    comp,        # Competition
    folder,      # Collection that shall have its soundscapes
    copy=False,  # Copy them even where they could be linked
):               # None
    "Link the soundscapes and copy what is said about them, where that is not there: it may have been added to."
    scapes = "unlabeled_soundscapes" if comp.year == 2024 else "train_soundscapes"
    for old, new in ((scapes, "train_soundscapes"), ("test_soundscapes", "test_soundscapes")):
        if not (comp.folder / old).is_dir(): continue
        if (folder / new).is_symlink(): (folder / new).unlink()
        (folder / new).mkdir(parents=True, exist_ok=True)
        for path in progress(audio_files(comp.folder / old), "link"): link_file(path, folder / new / path.name, copy)
    for name in LENT:
        if (comp.folder / name).exists() and not (folder / name).exists(): link_file(comp.folder / name, folder / name, copy=True)


def _under_target(rows, taxa, comp, out, synonyms):
    "Rows under this year's labels, and its taxa in the order of its classes."
    if out == comp.folder: raise KitError(f"{out} is this year's competition: give another --out")
    targets = read_taxa(comp.folder).set_index("primary_label").reindex(comp.classes, fill_value="").reset_index()
    return relabel(rows, taxa, targets, synonyms), targets


def _check_kept(out, rows):
    "Refuse to write a competition anew, or a collection without recordings that it has."
    check_collection(out)
    if not (out / "train.csv").exists(): return
    had = read_table(out / "train.csv", "delete it to write the collection anew").filename
    lost = had[~source_keys(had).isin(source_keys(rows.filename))].tolist()
    if lost: raise KitError(f"{out} has recordings that would be lost: {few(lost)}: give another --out, "
                            "or delete its train.csv and afterwards run again the scripts that added them")


def enough(
    rows,   # DataFrame with COLUMNS
    taxa,   # DataFrame with TAXA_COLUMNS
    least,  # Recordings a species must have
):          # DataFrames (rows, taxa); the species in the order of their labels
    "Leave out species with few recordings, and those with none."
    counts = rows.primary_label.value_counts()
    kept = taxa[taxa.primary_label.isin(counts[counts >= max(1, least)].index)].sort_values("primary_label")
    return rows[rows.primary_label.isin(kept.primary_label)], kept


def past_years(
    folders,        # Competition folders
    out,            # Collection to make
    exclude=None,   # Competition folder whose species are left out
    target=None,    # Competition folder whose species are kept, under its labels and with its own recordings
    synonyms=None,  # A .csv with columns old and new
    least=1,        # Recordings a species must have; not with `target`
    copy=False,     # Copy audio even where it could be linked
):                  # Competition
    "Merge years into one collection."
    out, known, comp = Path(out).absolute(), read_synonyms(synonyms) if synonyms else {}, target and Competition.find(str(target))
    rows, taxa = merge_years([target, *folders] if target else folders)
    if exclude: rows, taxa = leave_out(rows, taxa, read_taxa(exclude), known)
    rows, taxa = _under_target(rows, taxa, comp, out, known) if target else enough(rows, taxa, least)
    rows = rows.assign(filename=rows.primary_label + "/" + rows.filename.str.split("/").str[-1])
    _check_kept(out, rows)
    if target: lend_soundscapes(comp, out, copy)
    for source, name in progress(zip(rows.source, rows.filename), "link", len(rows)): link_file(source, out / "train_audio" / name, copy)
    made = write_collection(out, rows, taxa)
    print(f"{out}: {len(made.recordings)} recordings of {made.recordings.primary_label.nunique()} species")
    return made


def main(
    argv=None,  # Arguments, by default those of the command line
):              # None
    "Read the command line."
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="competition folders of past years")
    add("--out", required=True, metavar="FOLDER", help="collection to make")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--exclude", metavar="FOLDER", help="leave out the species of this competition")
    one.add_argument("--map", dest="target", metavar="FOLDER", help="add to this competition: its species only, under its labels")
    add("--synonyms", metavar="CSV", help="renamed species, columns old and new")
    add("--least", type=at_least(0, int), default=1, metavar="N", help="recordings a species must have (default %(default)s); not with --map")
    add("--copy", action="store_true", help="copy audio even where it could be linked")
    run_script(past_years, parser, argv)


if __name__ == "__main__": main()
