"""The one metadata table that the scripts of this folder write and birdkit reads."""
import argparse, math
from pathlib import Path

import pandas as pd

from birdkit.commands import Parser
from birdkit.competition import RECORDING_COLUMNS, TAXON_COLUMNS, Competition
from birdkit.core import KitError, few, read_table, refuse_row, write_table

COLUMNS = [*RECORDING_COLUMNS, "class_name"]
TAXA_COLUMNS = ["primary_label", "inat_taxon_id", *TAXON_COLUMNS[1:]]
CREDIT_COLUMNS = ["filename", "author", "license", "url"]
NUMBERS = ("rating", "latitude", "longitude")
AGAIN = "run the script that made it again"
NO_EPITHETS = ("sp", "spp", "cf", "aff", "nr")
OUTSIDE = r"(?s)^(?=.)(?:[A-Za-z]:|(?:.*[/\\])?\.{0,2}(?:[/\\]|$))"   # A drive, or a part that is empty, . or ..
FETCHED = r"(?:XC|iNat)\d+\.ogg"   # What a recording is called that xeno-canto or iNaturalist numbered


def check_inside(
    path,   # File that they are from, for the error
    names,  # Series of labels or of <label>/<file>, in the order of the file
):
    "Refuse names that lead out of train_audio; a label may be missing, but not before a file."
    refuse_row(path, names, names.str.contains(OUTSIDE).to_numpy(bool), "is empty in part or leads out of train_audio: correct it")


def as_text(
    cells,  # Series of anything
):          # Series of text; what is missing is empty, whole numbers have no point
    "Cells as text."
    return cells.astype(object).where(cells.notna(), "").astype(str).str.strip().str.replace(r"^(\d+)\.0$", r"\1", regex=True)


def as_columns(
    table,     # DataFrame
    columns,   # Names
):             # DataFrame of exactly these columns: NUMBERS as floats, lists as text, the rest as text
    "Bring a table into shape; columns it lacks are empty."
    table = table.reindex(columns=columns)
    cells = {c: as_text(table[c]) for c in columns if c not in NUMBERS}
    cells |= {c: pd.to_numeric(table[c], errors="coerce").astype(float) for c in NUMBERS if c in columns}
    if "secondary_labels" in cells: cells["secondary_labels"] = [_list_text(cell) for cell in table.secondary_labels]
    return table.assign(**cells)


def _list_text(labels):
    "A list of labels as the text of a list; text stays."
    if isinstance(labels, str): return labels.strip() or "[]"
    return str([str(x) for x in labels]) if isinstance(labels, (list, tuple)) else "[]"


def _checked(folder, recordings, taxa):
    "Recordings whose file is there, in order; refuses names twice and labels without a taxon."
    twice = recordings.filename[recordings.filename.duplicated()]
    if len(twice): raise KitError(f"{folder}: file names come twice: {few(sorted(set(twice)))}: give each recording its own")
    odd = set(recordings.primary_label) - set(taxa.primary_label)
    if odd: raise KitError(f"{folder}: labels without a taxon: {few(sorted(odd))}: add them to the taxa")
    there = recordings.filename.map(lambda name: (Path(folder) / "train_audio" / name).is_file()).to_numpy(bool)
    if not there.any(): raise KitError(f"{folder}: no recording is left, {len(there)} were asked for: ask for more, or run the script again")
    if not there.all(): print(f"{(~there).sum()} recordings without a file are left out of train.csv")
    return recordings[there].sort_values(["primary_label", "filename"], ignore_index=True)


def name_keys(
    names,         # Series of scientific names
    synonyms={},   # {key of an old name: key of the new one}
):                 # Series of "genus species" in lower case; empty for other ranks
    "What scientific names are compared by."
    words = names.str.lower().str.replace(r"\(.*?\)|[_×]", " ", regex=True).str.split()
    keys = words.str[:2].str.join(" ")
    species = keys.str.fullmatch(r"[^\W\d]+ [^\W\d][\w-]+") & ~words.str[1].isin(NO_EPITHETS)
    return keys.where(species, "").map(lambda key: synonyms.get(key, key)).astype(str)


def write_collection(
    folder,      # Where to; the audio lies at train_audio/<filename> already
    recordings,  # DataFrame with RECORDING_COLUMNS, of which only primary_label and filename must be there
    taxa,        # DataFrame with TAXA_COLUMNS, a row per class, in the order the classes shall have
):               # Competition
    "Write train.csv, taxonomy.csv, sample_submission.csv and ATTRIBUTION.csv: a folder that is read like a competition's."
    folder, taxa = Path(folder), as_columns(taxa, TAXA_COLUMNS)
    rows = _checked(folder, as_columns(recordings, RECORDING_COLUMNS), taxa)
    rows["class_name"] = rows.primary_label.map(taxa.set_index("primary_label").class_name)
    (folder / "test_soundscapes").mkdir(parents=True, exist_ok=True)
    write_table(folder / "ATTRIBUTION.csv", rows[CREDIT_COLUMNS])
    write_table(folder / "taxonomy.csv", taxa)
    write_table(folder / "sample_submission.csv", pd.DataFrame(columns=["row_id", *taxa.primary_label]))
    write_table(folder / "train.csv", rows.fillna({"rating": 0.})[COLUMNS])
    return Competition.find(str(folder))


def check_collection(
    folder,  # Where a collection is, or shall be
):
    "Refuse a competition, or a table of somebody's own, which would be written anew: what write_collection wrote has an ATTRIBUTION.csv."
    has = lambda name: (Path(folder) / name).exists()
    if (has("train.csv") or has("sample_submission.csv")) and not has("ATTRIBUTION.csv"):
        raise KitError(f"{folder} is a competition, or your own, and its tables would be written anew: give another --out")


def read_collection(
    folder,  # A folder that write_collection wrote, or is to write
):           # DataFrames (recordings, taxa); both are empty where there is nothing yet
    "What is in a collection."
    check_collection(folder)
    if not (Path(folder) / "train.csv").exists(): return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=TAXA_COLUMNS)
    tables = ((read_table(Path(folder) / name, AGAIN, keep_default_na=False), columns)
              for name, columns in (("train.csv", COLUMNS), ("taxonomy.csv", TAXA_COLUMNS)))
    return tuple(as_columns(table, columns) for table, columns in tables)


def _identities(filenames):
    "What makes a recording one and the same: its number at xeno-canto or iNaturalist, under any label; else its whole name."
    files = filenames.str.split("/").str[-1]
    return files.where(files.str.fullmatch(FETCHED), filenames)


def extend_collection(
    folder,      # Where to; there may be a collection already
    recordings,  # DataFrame with RECORDING_COLUMNS; what is there already is told anew, one that was fetched under another label too
    taxa,        # DataFrame with TAXA_COLUMNS
):               # Competition; its classes in the order of their labels, without those of which all recordings have another label of the same species now
    "Add recordings to a collection."
    had, known_taxa = read_collection(folder)
    told = pd.concat([had, as_columns(recordings, RECORDING_COLUMNS)])
    told["identity"] = _identities(told.filename)
    rows = told[~told.identity.duplicated(keep="last")].set_index("identity")
    taxa = pd.concat([known_taxa, as_columns(taxa, TAXA_COLUMNS)]).drop_duplicates("primary_label", keep="last")
    moved = told[~told.primary_label.isin(rows.primary_label)].drop_duplicates("primary_label").set_index("primary_label").identity.map(rows.primary_label)
    known = {label: {key, taxon} - {""} for label, key, taxon in zip(taxa.primary_label, name_keys(taxa.scientific_name), taxa.inat_taxon_id)}
    moved = {old: new for old, new in moved.items() if known[old] & known[new] or not known[old] | known[new]}   # else a recording was identified anew
    for label, other in moved.items(): rows["secondary_labels"] = rows.secondary_labels.str.replace(f"'{label}'", f"'{other}'")
    return write_collection(folder, rows, taxa[~taxa.primary_label.isin(moved)].sort_values("primary_label"))


def script_parser(
    doc,  # Docstring of the script
):        # Parser
    "A command line whose help is the script's docstring."
    return Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def at_least(
    least,       # The smallest number that will do
    kind=float,  # int: whole numbers
    zero=False,  # 0 will do, too
):               # Function of a text, for argparse
    "Numbers that an option takes."
    def read(text):
        try: value = kind(text)
        except ValueError: value = math.nan
        if least <= value < math.inf or zero and value == 0: return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' * (kind is int)}number of {least} or more{', or 0' * zero}")
    return read


def run_script(
    work,    # Function of the options
    parser,  # ArgumentParser
    argv,    # Arguments; None: those of the command line
):           # What `work` returns
    "Do the work; a mistake is one line and exit code 1, after Ctrl-C it is 130."
    options = vars(parser.parse_args(argv))
    try: return work(**options)
    except KitError as error: parser.exit(1, f"{error}\n")
    except OSError as error: parser.exit(1, f"{error}: see to this, then run the same command again\n")
    except KeyboardInterrupt: parser.exit(130, "\nstopped: the same command goes on where this one ended\n")
