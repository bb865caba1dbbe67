"""Collect frogs and insects that a competition does not ask for: what its own few recordings of them are learnt with.

    export XENO_CANTO_KEY=...
    python data_prep/extra_species.py birdclef-2025 --near 7 -74 800 --most 50 --out work/extra --dry-run
    python data_prep/extra_species.py birdclef-2025 --species frogs.txt --sources inat --out work/extra --targets

The winner of 2025 trained a model of frogs and insects on 700 species beside those asked for, 17,844 clips under 60 s, one recording of a
species being enough; its scores of the competition's own species entered the ensemble. Every species outside has a label of its own, its
iNaturalist taxon or its name. With --targets the competition's recordings of these classes are linked into the collection, too. The
search and the downloads are those of xeno_canto.py and inaturalist.py, with their pace; a run that was stopped goes on when the same
command is given again. Recordist, licence and page of each recording are in ATTRIBUTION.csv.
"""
from importlib import import_module
from math import cos, radians
from pathlib import Path

import pandas as pd

import fetch
import found
from birdkit.core import KitError
from past_years import link_file, read_year
from tables import TAXA_COLUMNS, at_least, extend_collection, read_collection, run_script, script_parser
from taxonomy import match_taxa, read_synonyms, read_taxa

SOURCES = dict(inat="inaturalist", xc="xeno_canto")   # In this order: iNaturalist's taxa become the labels of both
KM_PER_DEGREE = 111.2


def box_around(
    latitude,   # Degrees
    longitude,  # Degrees
    km,         # From the place to each side
):              # (south, west, north, east), degrees
    "A box around a place."
    up = km / KM_PER_DEGREE
    side = up / max(cos(radians(latitude)), .01)
    return max(latitude - up, -90), max(longitude - side, -180), min(latitude + up, 90), min(longitude + side, 180)


def ask(
    source,      # Name in SOURCES
    classes,     # Such as ("Amphibia", "Insecta")
    species=(),  # Scientific names; where there are any, they are asked for instead of classes
    longest_s=60.,   # Leave recordings out that are said to be longer, s
    **options,   # Of both searches: box, licences, codes, pages
):               # DataFrame with found.FOUND_COLUMNS
    "Search one source."
    module = import_module(SOURCES[source])
    if source == "inat": table = module.search(species or classes, **options)
    else:
        groups = [] if species else [group for group, of in module.CLASSES.items() if of in classes]
        if not (species or groups):
            print(f"xeno-canto has no group of {', '.join(classes)}: it is not searched", flush=True)
            return found.found_table([]).assign(source=source)
        table = module.search(species, groups=groups, longest_s=longest_s, **options)
    return (table if species else table[table.class_name.isin(classes)]).assign(source=source)


def outside(
    table,        # What was found, with TAXA_COLUMNS
    targets,      # DataFrame with TAXA_COLUMNS: the competition's species
    synonyms={},  # {key of an old name: key of the new one}
):                # The rows of other species
    "Leave out what the competition asks for."
    return table[(match_taxa(table[TAXA_COLUMNS], targets, synonyms).to == "").to_numpy(bool)]


def choose(
    tables,        # What was found, one table of each source
    most=None,     # Recordings of each species, the best rated first; None keeps all
    least=1,       # Recordings a species must have
    longest_s=60., # Leave longer recordings out, s; those of unknown length stay and are cut
):                 # DataFrame
    "Which recordings to fetch."
    table = found.select(pd.concat(tables, ignore_index=True).drop_duplicates("filename"), unlicensed=True, most=most, longest_s=longest_s)
    counts = table.primary_label.value_counts()
    return table[table.primary_label.isin(counts[counts >= least].index)].reset_index(drop=True)


def link_targets(
    competition,  # Its folder
    classes,      # Such as ("Amphibia", "Insecta")
    out,          # Collection folder
):                # DataFrames (recordings, taxa)
    "Link the competition's own recordings of these classes."
    rows, taxa = read_year(competition), read_taxa(competition)
    rows = rows[rows.class_name.isin(classes)]
    for source, name in zip(rows.source, rows.filename): link_file(source, Path(out) / "train_audio" / name)
    return rows, taxa[taxa.primary_label.isin(rows.primary_label)]


def search_all(
    sources,      # Names in SOURCES
    competition,  # Folder of the competition
    out,          # Collection folder
    synonyms,     # {key of an old name: key of the new one}
    **options,    # Of ask
):                # List of DataFrames, one of each source
    "Search each source; a species has the same label in all of them."
    targets, known, tables = read_taxa(competition), read_collection(out)[1], []
    for source in [s for s in SOURCES if s in sources]:
        codes = pd.concat([targets, known]).drop_duplicates("primary_label", ignore_index=True)
        tables.append(outside(ask(source, codes=codes, pages=Path(out) / ".pages", **options), targets, synonyms))
        known = pd.concat([known, tables[-1][TAXA_COLUMNS]])
    return tables


def extra_species(
    competition,   # Folder of the competition
    out,           # Collection to make or to extend
    sources=tuple(SOURCES),           # Where to search
    classes=("Amphibia", "Insecta"),  # What to search
    species=(),    # Scientific names or files of them, to search these instead
    near=None,     # (latitude, longitude, km): only there
    most=None,     # Recordings of each species
    least=1,       # Recordings a species must have
    longest_s=60., # Longest recording, s
    licences=None, # Licences to keep; None: every stated one
    synonyms=None, # A .csv with columns old and new
    targets=False, # Link the competition's own recordings of these classes, too
    dry_run=False, # Tell how much there is, and fetch nothing
):                 # Competition, or None after a dry run
    "Search, choose, fetch and write."
    pairs, box = read_synonyms(synonyms) if synonyms else {}, box_around(*near) if near else None
    what = dict(classes=classes, species=found.read_names(species), longest_s=longest_s, box=box, licences=licences)
    table = choose(search_all(sources, competition, out, pairs, **what), most, least, longest_s)
    if not len(table): raise KitError("no species outside the competition was found: allow more classes, places or licences")
    print(found.describe(table, longest_s), flush=True)
    if dry_run: return None
    parts = [fetch.download(rows, out, import_module(SOURCES[s]).session(Path(out) / ".pages"), longest_s) for s, rows in table.groupby("source", sort=False)]
    parts = [(rows, rows[TAXA_COLUMNS].drop_duplicates("primary_label")) for rows in parts]
    if targets: parts.append(link_targets(competition, classes, out))
    made = extend_collection(out, *(pd.concat(some) for some in zip(*parts)))
    print(f"{out}: {len(made.recordings)} recordings of {made.recordings.primary_label.nunique()} species")
    return made


def main(
    argv=None,  # Arguments, by default those of the command line
):              # None
    "Read the command line."
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("competition", metavar="COMPETITION", help="folder of the competition whose species are left out")
    add("--out", required=True, metavar="FOLDER", help="collection to make, or to extend")
    add("--sources", nargs="+", default=list(SOURCES), choices=list(SOURCES), help="where to search (default: both)")
    add("--classes", nargs="+", default=["Amphibia", "Insecta"], metavar="CLASS", help="what to search (default: Amphibia Insecta)")
    add("--species", nargs="+", default=[], metavar="NAME", help="search these instead: scientific names, or a file of them")
    add("--near", nargs=3, type=float, metavar=("LATITUDE", "LONGITUDE", "KM"), help="only within a box around this place (default: everywhere)")
    add("--most", type=at_least(1, int), metavar="N", help="recordings of each species, the best rated first (default: all)")
    add("--least", type=at_least(1, int), default=1, metavar="N", help="recordings a species must have (default %(default)s; more hurt the winner of 2025)")
    add("--longest", type=at_least(.1), default=60., dest="longest_s", metavar="SECONDS", help="leave longer recordings out, cut those of "
        "unknown length (default %(default)s)")
    add("--licences", nargs="+", metavar="NAME", type=found.licence_kind, help="keep these, such as cc0 cc-by cc-by-nc-sa (default: every stated one)")
    add("--synonyms", metavar="CSV", help="renamed species, columns old and new")
    add("--targets", action="store_true", help="link the competition's own recordings of these classes into the collection")
    add("--dry-run", action="store_true", help="search, tell how much there is, and fetch nothing")
    run_script(extra_species, parser, argv)


if __name__ == "__main__":
    fetch.leave_on_interrupt()
    main()
