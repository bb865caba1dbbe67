"""Turn labels that a person made in Raven or Audacity into train_soundscapes_labels.csv, the table of BirdCLEF+ 2026.

    python data_prep/soundscapes.py labels/ --competition birdclef-2025
    python data_prep/soundscapes.py labels/*.txt --competition birdclef-2025 --label-column Annotation --least-s .5

A label file (.txt) belongs to the soundscape with whose name it begins, with or without its ending: a.txt, a.ogg.txt and
a.Table.1.selections.txt to a.ogg. Tables of many recordings, such as BirdNET's, name them in a column Begin Path, Begin File or File. The
table has a row for every 5 s of a soundscape that has a label file: an empty row says that none of the species is there, and an empty file
that none is there at all. Labels may be primary labels, scientific or common names; several in one cell have semicolons between. Rows of
other soundscapes that the table has already stay as they are, and a table that was there first is kept beside it, with .original behind its
name: competition.py leaves a file with one alone.
"""
import csv, math, re, shutil
from pathlib import Path

import numpy as np
import pandas as pd

from birdkit.audio import ROW_S, n_rows, seconds_of
from birdkit.competition import Competition
from birdkit.core import KitError, atomic, few, nearest, progress, read_table, write_table
from tables import at_least, run_script, script_parser
from taxonomy import look_up, name_keys

TABLE, ORIGINAL = "train_soundscapes_labels.csv", ".original"
BEGIN, END, OFFSET = "Begin Time (s)", "End Time (s)", "File Offset (s)"
LABEL_COLUMNS = ("Species", "Label", "Annotation", "Species Code", "Common Name")   # The first one that is there
FILE_COLUMNS = ("Begin Path", "Begin File", "File")
EVENTS = ["filename", "start_s", "end_s", "label"]
QUOTED = re.compile(r'^"(.*)"$')   # Raven quotes nothing, Excel and R whole cells; elsewhere " is a mark like others
FORMATS = "a selection table of Raven or a label track of Audacity"


def read_raven(
    path,               # A .txt file
    label_column=None,  # Column with the labels; None: the first of LABEL_COLUMNS
):                      # DataFrame: filename (empty where the table is of one recording), start_s, end_s, label
    "Read a selection table of Raven or BirdNET."
    table = read_table(path, f"give {FORMATS}", sep="\t", keep_default_na=False, quoting=csv.QUOTE_NONE)
    table = table.rename(columns=lambda name: QUOTED.sub(r"\1", name)).replace(QUOTED, r"\1", regex=True)
    column = label_column or next((c for c in LABEL_COLUMNS if c in table), LABEL_COLUMNS[0])
    gone = [c for c in (BEGIN, END, column) if c not in table]
    if gone: raise KitError(f"{path} has no column {gone[0]!r}; {nearest(gone[0], table)}: choose one by --label-column")
    begin, end = _numbers(table[BEGIN], path), _numbers(table[END], path)
    start = _numbers(table[OFFSET], path) if OFFSET in table else begin       # within its file, where a table has several
    name = next((table[c].astype(str).str.replace("\\", "/").str.split("/").str[-1] for c in FILE_COLUMNS if c in table), "")
    return pd.DataFrame(dict(start_s=start, end_s=start + end - begin, label=table[column].astype(str))).assign(filename=name)[EVENTS]


def read_audacity(
    path,  # A .txt file
):         # DataFrame as of read_raven; filename is empty
    "Read a label track of Audacity; lines of frequencies, which begin with a backslash, are passed over."
    lines = [line for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip() and not line.startswith("\\")]
    cells = pd.DataFrame([(line.split("\t") + ["", ""])[:3] for line in lines], columns=EVENTS[1:], dtype=str)
    start_s, end_s = (_numbers(cells[c].str.replace(",", "."), path) for c in ("start_s", "end_s"))
    return cells.assign(start_s=start_s, end_s=end_s, filename="")[EVENTS]


def _numbers(cells, path):
    "Seconds; refuses what is none."
    seconds = pd.to_numeric(cells, errors="coerce").astype(float)
    if seconds.isna().any(): raise KitError(f"{path}: {cells[seconds.isna()].iloc[0]!r} is not a time in seconds: give {FORMATS}")
    return seconds


def read_events(
    path,               # A .txt file
    label_column=None,  # Column with the labels of a Raven table
):                      # DataFrame: filename, start_s, end_s, label; each label on a row of its own
    "Read labels of either kind."
    try: head = Path(path).read_text(encoding="utf-8-sig").split("\n", 1)[0]
    except FileNotFoundError: raise KitError(f"{path} is missing: give {FORMATS}") from None
    except (OSError, UnicodeDecodeError) as error: raise KitError(f"{path} is not readable as text ({error}): give {FORMATS}") from None
    events = read_raven(path, label_column) if BEGIN in head else read_audacity(path)
    if (events.end_s < events.start_s).any(): raise KitError(f"{path}: a label ends before it begins: correct it")
    events = events.assign(label=events.label.str.split(";")).explode("label", ignore_index=True)
    events["label"] = events.label.str.strip()
    return events[events.label != ""].reset_index(drop=True)


def beginnings(
    names,  # Names of the soundscapes
):          # {name, with its ending and without: the soundscape}
    "What the name of a label file may begin with."
    return {begin: name for name in sorted(names, key=len) for begin in (Path(name).stem, name)}


def soundscape_of(
    name,   # Name of a label file, or of a recording
    known,  # Of beginnings
):          # The soundscape with whose name it begins, the longest; None where there is none
    "Find the soundscape of a label file."
    parts = name.split(".")
    return next((known[begin] for n in range(len(parts), 0, -1) if (begin := ".".join(parts[:n])) in known), None)


def label_rows(
    events,      # DataFrame of one soundscape: start_s, end_s, label
    duration_s,  # Its duration, s
    least_s=.2,  # Overlap from which on a row has a label, s; half of a label that is shorter than twice this suffices
):               # List of text, one for each 5-s row: its labels in order, with semicolons between
    "The labels of each row."
    edges = ROW_S * np.arange(n_rows(duration_s) + 1)
    start, end = events.start_s.to_numpy(float)[:, None], events.end_s.to_numpy(float)[:, None]
    overlap = np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1])                  # (events, rows), s
    inside = (overlap >= np.minimum(least_s, (end - start) / 2) - 1e-9) & ((overlap > 1e-9) | (end == start))        # a point has no overlap
    return [";".join(sorted(set(events.label[row]))) for row in inside.T]


def to_labels(
    texts,  # Series of what the annotators wrote
    taxa,   # DataFrame: primary_label, scientific_name, common_name
):          # Series of primary labels; empty where a text is none of the three
    "Find the classes behind labels, scientific and common names."
    ways = ((texts, taxa.primary_label), (name_keys(texts), name_keys(taxa.scientific_name)), (texts.str.lower(), taxa.common_name.str.lower()))
    found = pd.Series("", texts.index, dtype=str)
    for mine, theirs in ways: found = found.where(found != "", look_up(mine, theirs, taxa.primary_label))
    return found


def _clock(seconds):
    "HH:MM:SS."
    return [f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in seconds]


def label_table(
    events,     # DataFrame: filename, start_s, end_s, label
    durations,  # {filename: duration, s} of all soundscapes that were listened to
    least_s=.2, # Overlap from which on a row has a label, s
):              # DataFrame: filename, start, end, primary_label; all rows of all files
    "Lay labels on rows of 5 s."
    by = dict(iter(events.groupby("filename")))
    cells = {name: label_rows(by.get(name, events[:0]).reset_index(), s, least_s) for name, s in sorted(durations.items())}
    rows = pd.Series(cells, dtype=object).explode().rename_axis("filename").rename("primary_label").reset_index()
    place = ROW_S * rows.groupby("filename").cumcount()
    return rows.assign(start=_clock(place), end=_clock(place + ROW_S))[["filename", "start", "end", "primary_label"]]


def _label_files(labels):
    "Label files of these paths, folders searched all the way down."
    paths = [f for p in map(Path, labels) for f in (sorted(p.rglob("*.txt")) if p.is_dir() else [p])]
    if not paths: raise KitError(f"{few(labels)} holds no label file (.txt): give {FORMATS}")
    return paths


def _events_of(path, comp, known, label_column):
    "Events of a label file under the names of soundscapes, and which of these it is about."
    events = read_events(path, label_column)
    events["filename"] = events.filename.where(events.filename != "", path.name)
    found = {name: soundscape_of(name, known) for name in sorted(set(events.filename)) or [path.name]}
    lost = [name for name, soundscape in found.items() if soundscape is None]
    if lost: raise KitError(f"{path}: no soundscape of {comp.folder} is called like {few(lost)}: begin a label file's name with its soundscape's")
    return events.assign(filename=events.filename.map(found)), set(found.values())


def _durations(files, names, events):
    "Durations of soundscapes; refuses labels after the end."
    seconds = {name: seconds_of(files[name]) for name in names}
    for name in (n for n, s in seconds.items() if math.isnan(s)): raise KitError(f"{files[name]} is not readable as audio: fetch it again or remove its labels")
    late = events[events.start_s > events.filename.map(seconds).astype(float)]
    for name, start_s in late[["filename", "start_s"]].itertuples(index=False):
        raise KitError(f"{name} ends at {seconds[name]:.1f} s, a label of it begins at {start_s:g} s: give the labels of this recording")
    return seconds


def _known(events, comp, rename):
    "Events of the competition's classes, under their labels."
    if rename:
        pairs = read_table(rename, "give a table with columns old and new", keep_default_na=False).astype(str)
        if not {"old", "new"} <= set(pairs): raise KitError(f"{rename} lacks the columns old and new: write old,new in its first line")
        events = events.assign(label=events.label.replace(dict(zip(pairs.old, pairs.new))))
    labels = to_labels(events.label, comp.taxonomy)
    odd = sorted(set(events.label[labels == ""]))
    if len(events) and not (labels != "").any(): raise KitError(f"none of the labels is a class of {comp.folder}: {few(odd)}: name them by --rename")
    if odd: print(f"{(labels == '').sum()} labels of no class are left out: {few(odd)}")
    return events.assign(label=labels)[labels != ""]


def soundscape_labels(
    labels,             # Label files, or folders of them
    competition,        # Competition folder with train_soundscapes
    out=None,           # The table; by default train_soundscapes_labels.csv in the competition's folder
    label_column=None,  # Column with the labels of Raven's tables
    least_s=.2,         # Overlap from which on a row has a label, s
    rename=None,        # A .csv with columns old and new: what labels mean
):                      # DataFrame: filename, start, end, primary_label
    "Write the labels of soundscapes."
    comp = Competition.find(str(competition))
    if comp.year == 2024: raise KitError(f"{comp.folder} has the layout of 2024, which has no labels of soundscapes: give one of 2025 or later")
    files = {p.name: p for p in comp.soundscapes}
    known = beginnings(files)
    parts = [_events_of(path, comp, known, label_column) for path in progress(_label_files(labels), "read")]
    events = pd.concat([events for events, _ in parts], ignore_index=True)
    durations = _durations(files, set().union(*(names for _, names in parts)), events)
    table, out = label_table(_known(events, comp, rename), durations, least_s), Path(out or comp.folder / TABLE)
    old, first = read_table(out, "", na_filter=False) if out.exists() else table[:0], Path(f"{out}{ORIGINAL}")
    if out.exists() and not first.exists():
        with atomic(first) as part: shutil.copyfile(out, part)
    write_table(out, pd.concat([old[~old.filename.isin(durations)], table]))
    print(f"{out}: {len(table)} rows of {len(durations)} soundscapes, {(table.primary_label != '').sum()} with a label")
    return table


def main(
    argv=None,  # Arguments, by default those of the command line
):              # None
    "Read the command line."
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("labels", nargs="+", metavar="LABELS", help="label files (.txt), or folders of them")
    add("--competition", required=True, metavar="FOLDER", help="competition folder whose train_soundscapes they are of")
    add("--out", metavar="CSV", help=f"the table (default: {TABLE} in the competition's folder)")
    add("--label-column", metavar="NAME", help=f"column of Raven's tables with the labels (default: the first of {', '.join(LABEL_COLUMNS)})")
    add("--least-s", type=at_least(0), default=.2, metavar="SECONDS", help="overlap from which on a row has a label; of labels shorter than twice "
        "this, half (default %(default)s)")
    add("--rename", metavar="CSV", help="what the annotators' labels mean, columns old and new")
    run_script(soundscape_labels, parser, argv)


if __name__ == "__main__": main()
