"""What a search has found: the table xeno_canto.py and inaturalist.py fill, its labels, its licences, and their options."""
import re, shutil
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pandas as pd

import fetch
from birdkit.audio import UNREAD
from birdkit.competition import RECORDING_COLUMNS
from birdkit.core import KitError, check_name, read_table, short_hash
from tables import TAXA_COLUMNS, at_least, check_collection, check_inside, extend_collection, run_script, script_parser
from taxonomy import match_taxa, name_keys, read_synonyms, read_taxa

MORE_COLUMNS = ["class_name", "inat_taxon_id", "download_url", "original", "duration_s"]
FOUND_COLUMNS = [*RECORDING_COLUMNS, *MORE_COLUMNS]
NUMBERS = ("rating", "latitude", "longitude", "duration_s")
OGG_BYTES_PER_S = 9_000   # Of 32 kHz mono Vorbis as birdkit writes it, about
NAMES = "give a table with a column scientific_name"
LICENCES = ("cc0", "pdm", "pd", "gfdl", "cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nc-sa", "cc-by-nd", "cc-by-nc-nd")
CC = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)|publicdomain/(zero|mark))(?:/(\d\.\d))?")


def licence_name(
    text,  # A Creative Commons address, a code such as "cc-by-nc", or nothing
):         # Such as "cc-by-nc-sa 4.0" or "cc-by-nc"; "" where nothing is granted
    "One way to write a licence."
    found = CC.search((text or "").lower())
    if not found: return (text or "").strip().lower()
    kind, public, version = found.groups()
    return f"{dict(zero='cc0', mark='pdm').get(public, f'cc-{kind}')} {version or ''}".strip()


def licence_kind(
    text,  # As of licence_name
):         # Its name without a version
    "A licence to keep, for argparse."
    kind = licence_name(text).split(" ")[0]
    try: check_name("licence ", kind, LICENCES)
    except KitError as error: raise ArgumentTypeError(str(error)) from None
    return kind


def usable(
    licence,           # As licence_name writes it
    licences=None,     # Licences to keep, such as ("cc0", "cc-by"), of any version; None keeps every stated one
    unlicensed=False,  # True keeps also what has none
):                     # Is it one of them?
    "May a recording be used?"
    kind = licence.split(" ")[0]
    return (kind in licences if licences else True) if kind else unlicensed


def number(
    value,  # Text, a number or nothing
):          # float, nan where it is none
    "A number that may be missing."
    return float(pd.to_numeric(value if value is not None else "", errors="coerce"))


def suffix(
    name,  # A file name or address
):         # Its ending such as ".mp3", or ""
    "The ending of a file name, where it looks like one."
    found = re.search(r"(\.[A-Za-z0-9]{1,5})(?:\?.*)?$", name)
    return found[1].lower() if found else ""


def found_table(
    rows,  # List of dicts with FOUND_COLUMNS; secondary_labels are tuples of scientific names, filename has no folder
):         # DataFrame with FOUND_COLUMNS, each recording once
    "The table of what was found."
    table = pd.DataFrame(rows, columns=FOUND_COLUMNS).astype(object)
    return table.astype(dict.fromkeys(NUMBERS, float)).drop_duplicates("filename", ignore_index=True)


def read_names(
    items,  # Names, or files of names: one a line, or a table with a column scientific_name
):          # List of names, each once
    "Names of species from the command line."
    names = [name.strip() for item in items for name in _names_of(Path(item))]
    return list(dict.fromkeys(name for name in names if name and not name.startswith("#")))


def _names_of(item):
    "The names in a file, or the item itself where it is not a file."
    if item.suffix not in (".csv", ".txt") and not item.is_file(): return [str(item)]
    if not item.is_file(): raise KitError(f"{item} is missing: give a file of scientific names")
    if item.suffix != ".csv": return item.read_text(encoding="utf-8-sig").splitlines()
    table = read_table(item, NAMES)
    if "scientific_name" not in table: raise KitError(f"{item} has no column scientific_name: {NAMES}")
    return table.scientific_name.dropna()


def read_codes(
    path=None,      # Competition folder or table of labels and scientific names, such as its taxonomy.csv or eBird's
    synonyms=None,  # A .csv with columns old and new: a species is known by all of its names
    more=None,      # A second folder or table: species that the first one does not know
):                  # DataFrame with TAXA_COLUMNS, empty without a path
    "Which label a species has."
    taxa, pairs = pd.DataFrame(columns=TAXA_COLUMNS, dtype=object), read_synonyms(synonyms) if synonyms else {}
    for table in [read_taxa(part) for part in (path, more) if part is not None]:
        taxa = pd.concat([taxa, table[match_taxa(table, taxa, pairs).to == ""]], ignore_index=True)
    return pd.concat([_other_names(taxa, pairs), taxa], ignore_index=True)


def _other_names(taxa, pairs):
    "Species under the names that they have elsewhere: their newest and all their old ones."
    keys, names = name_keys(taxa.scientific_name), {}
    for old, new in pairs.items(): names.setdefault(new, [new]).append(old)
    own = set(keys)
    other = [[name for name in names.get(pairs.get(key, key), ()) if name not in own] for key in keys]
    return taxa.assign(scientific_name=other, inat_taxon_id="").explode("scientific_name").dropna(subset="scientific_name")


def slug(
    name,  # Scientific name
):         # Such as "turdus_merula"; of a name without Latin letters a number that is always the same
    "A label made of a name."
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or f"species_{short_hash(name, 8)}"


def give_labels(
    table,       # What was found, as found_table leaves it
    codes=None,  # What read_codes gives
):               # With primary_label, secondary_labels as tuples of known labels, and filename as <label>/<file>
    "Label species: by the codes, else by iNaturalist's taxon, else by the scientific name (turdus_merula)."
    codes = read_codes() if codes is None else codes
    coded = match_taxa(table[TAXA_COLUMNS], codes).to
    own = table.inat_taxon_id.where(table.inat_taxon_id != "", table.scientific_name.map(slug))
    label = coded.where(coded != "", own)
    table = table.assign(primary_label=label, filename=label + "/" + table.filename)
    check_inside("what was found", table.filename)
    ids = dict(zip(codes.primary_label, codes.inat_taxon_id))
    return table.assign(
        secondary_labels=_background(table, codes),
        inat_taxon_id=[taxon or ids.get(label, "") for taxon, label in zip(table.inat_taxon_id, table.primary_label)])


def _background(table, codes):
    "Labels of the species in the background; those that are neither in the codes nor found themselves are left out."
    known = pd.concat([codes, table[TAXA_COLUMNS]], ignore_index=True)
    known = known[~pd.concat([known.primary_label, name_keys(known.scientific_name)], axis=1).duplicated()]
    names = pd.Series(sorted({name for also in table.secondary_labels for name in also}), dtype=object)
    labels = dict(zip(names, match_taxa(pd.DataFrame(dict(primary_label="", inat_taxon_id="", scientific_name=names), dtype=object), known).to))
    lists = [dict.fromkeys(labels[name] for name in also) for also in table.secondary_labels]
    rows = [tuple(x for x in heard if x not in ("", own)) for heard, own in zip(lists, table.primary_label)]
    return pd.Series(rows, table.index, dtype=object)


def select(
    table,             # What was found, labelled
    licences=None,     # Licences to keep, such as ("cc0", "cc-by"), of any version; None keeps every stated one
    unlicensed=False,  # True keeps recordings of which all rights are reserved
    most=None,         # Recordings of each label, the best rated first; None keeps all
    longest_s=None,    # Leave longer recordings out, s
    least_rating=0,    # Leave lower rated recordings out
):                     # The rows that are kept
    "Keep what may be used."
    allowed = [usable(licence, licences, unlicensed) for licence in table.license]
    kept = table[np.array(allowed, bool) & (table.rating >= least_rating)]
    if longest_s is not None: kept = kept[~(kept.duration_s > longest_s)]
    kept = kept.sort_values("rating", ascending=False, kind="stable") if most else kept
    return (kept.groupby("primary_label", sort=False).head(most) if most else kept).reset_index(drop=True)


def describe(
    table,         # What was found
    seconds=None,  # What is kept of each recording, s; None keeps all
):                 # Text, a line for each
    "How many, how long, how large, and under which licences."
    kept_s = table.duration_s.fillna(seconds or 0.).clip(upper=seconds)
    unknown = int(table.duration_s.isna().sum())
    licences = ", ".join(f"{name or 'all rights reserved'} ({n})" for name, n in table.license.value_counts().items())
    m4a = 0 if shutil.which("ffmpeg") else sum(Path(name).suffix in UNREAD for name in table.original)
    return "\n".join([
        f"recordings: {len(table)} of {table.primary_label.nunique()} species by {table.author.nunique()} recordists",
        f"length:     {table.duration_s.sum() / 3600:.1f} h, not stated for {unknown}; at most {kept_s.sum() / 3600:.1f} h are kept",
        f"size:       about {OGG_BYTES_PER_S * kept_s.sum() / 1e6:.0f} MB; {len(table)} requests, {len(table) / 60:.0f} min at one a second",
        f"licences:   {licences}", *([f"missing:    ffmpeg, which {m4a} of the files need"] if m4a else [])])


def options(
    doc,  # Docstring of the script
):        # Parser
    "The options both scripts have."
    parser = script_parser(doc)
    add = parser.add_argument
    add("--species", nargs="+", default=[], metavar="NAME", help="scientific names, or a file of them: one a line, or a .csv with scientific_name")
    add("--box", nargs=4, type=float, metavar="DEGREES", help="south west north east")
    add("--most", type=at_least(1, int), metavar="N", help="recordings of each species (default: all)")
    add("--seconds", type=at_least(.1, zero=True), default=60., help="keep this much from the beginning of each, s; 0 keeps all (default %(default)s)")
    add("--licences", nargs="+", metavar="NAME", type=licence_kind, help="keep these, such as cc0 cc-by cc-by-nc-sa (default: every stated one)")
    add("--unlicensed", action="store_true", help="keep recordings of which all rights are reserved")
    add("--codes", metavar="FILE", help="labels of species: a competition's folder or taxonomy.csv, or eBird's taxonomy")
    add("--synonyms", metavar="FILE", help="renamed species, a .csv with columns old and new")
    add("--out", default="work/collection", metavar="FOLDER", help="collection folder; there may be one already (default %(default)s)")
    add("--workers", type=at_least(1, int), default=2, help="downloads at a time, which share one polite pace (default %(default)s)")
    add("--originals", action="store_true", help="keep the files as they were fetched, in originals/")
    add("--dry-run", action="store_true", help="search, tell how much there is, and fetch nothing")
    return parser


def run(
    search,   # The script's search
    session,  # The script's session
    parser,   # Its options; those that are not of this module are passed on to `search`
    argv,     # Arguments, by default those of the command line
):            # None
    "Search, tell what was found, fetch it and add it to the collection's tables."
    def work(species, codes, synonyms, out, seconds, workers, originals, dry_run, **where):
        check_collection(out)
        own = Path(out) / "taxonomy.csv"   # A second source takes the labels of the first
        table = search(read_names(species), codes=read_codes(codes, synonyms, own if own.exists() else None), pages=Path(out) / ".pages", **where)
        if not len(table): raise KitError("nothing was found: check the names, or allow more licences, places or grades")
        print(describe(table, seconds or None), flush=True)
        if dry_run: return
        there = fetch.download(table, out, session(Path(out) / ".pages"), seconds or None, workers, originals)
        if not len(there): raise KitError(f"no recording could be fetched: {Path(out) / 'failed.csv'} tells why")
        extend_collection(out, there, there[TAXA_COLUMNS].drop_duplicates("primary_label"))
        print(f"{out}: {len(there)} recordings of {there.primary_label.nunique()} species", flush=True)
    run_script(work, parser, argv)
