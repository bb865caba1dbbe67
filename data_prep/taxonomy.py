"""Find the species of one table in another one: by code, iNaturalist taxon, scientific name or synonym.

    python data_prep/taxonomy.py birdclef-2024 --to birdclef-2025 --out mapping.csv
    python data_prep/taxonomy.py birdclef-2025 --to eBird_Taxonomy_v2021.csv --synonyms renamed.csv

A table is a competition's folder, its taxonomy.csv or train_metadata.csv, eBird's taxonomy, or iNaturalist's taxa.csv. Scientific names
are compared by genus and species, without regard to case, subgenus and subspecies; a name that stands for several labels finds none.
mapping.csv has a row for each species: label, scientific_name, to, to_name, how, suggestions. Nothing is downloaded.
"""
from collections import defaultdict
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

import pandas as pd

from birdkit.core import KitError, few, read_table, write_table
from tables import TAXA_COLUMNS, as_columns, check_inside, name_keys, run_script, script_parser

# What a column of TAXA_COLUMNS is called in tables of competitions, of eBird and of iNaturalist, in lower case
CALLED = dict(primary_label=("primary_label", "species_code"), inat_taxon_id=("inat_taxon_id", "taxon_id", "id"),
              scientific_name=("scientific_name", "sci_name", "scientificname"),
              common_name=("common_name", "primary_com_name", "vernacularname", "preferred_common_name"),
              class_name=("class_name", "class", "iconic_taxon_name"))
RANKS = ("category", "taxonrank", "rank")   # Columns that tell species from the rest
GIVE = "give a competition's folder, its taxonomy.csv, eBird's taxonomy or iNaturalist's taxa.csv"


def _table_path(path):
    "The table with the species of a folder, or the path itself."
    path = Path(path)
    names = ("taxonomy.csv", "train.csv", "train_metadata.csv") if path.is_dir() else ()
    return next((path / name for name in names if (path / name).is_file()), path)


def read_taxa(
    path,  # A competition's folder or a table of species
):         # DataFrame with TAXA_COLUMNS, all text, each label once
    "Read the species of a competition, of eBird or of iNaturalist."
    path = _table_path(path)
    if path.is_dir(): raise KitError(f"{path} has no taxonomy.csv, train.csv or train_metadata.csv: {GIVE}")
    known = {name for names in CALLED.values() for name in names} | set(RANKS)
    table = read_table(path, GIVE, usecols=lambda c: c.lower() in known, keep_default_na=False, encoding_errors="replace")
    table, rows = table.rename(columns=str.lower), table.index
    for rank in set(RANKS) & set(table): table = table[table[rank].str.lower() == "species"]
    taxa = pd.DataFrame({column: table[name] for column, names in CALLED.items() for name in names[::-1] if name in table})
    if "primary_label" not in taxa and "inat_taxon_id" not in taxa: raise KitError(f"{path} has no column of codes: {GIVE}")
    if not {"inat_taxon_id", "class_name"} & set(taxa): taxa["class_name"] = "Aves"   # eBird's codes
    taxa = _complete(as_columns(taxa, TAXA_COLUMNS))
    check_inside(path, taxa.primary_label.reindex(rows, fill_value=""))   # with the numbers that they have in the file
    return taxa.drop_duplicates("primary_label", ignore_index=True)


def _complete(taxa):
    "A label of digits is an iNaturalist taxon; a taxon without a label is called by its number."
    label, taxon = taxa.primary_label, taxa.inat_taxon_id
    return taxa.assign(primary_label=label.where(label != "", taxon), inat_taxon_id=taxon.where((taxon != "") | ~label.str.isdigit(), label))


def read_synonyms(
    path,  # A .csv with columns old and new, scientific names
):         # {key of an old name: key of the name that is valid now}
    "Read renamed species; names that were changed twice lead to the last one."
    table = read_table(path, "give a table with columns old and new", keep_default_na=False)
    if not {"old", "new"} <= set(table): raise KitError(f"{path} lacks the columns old and new: write old,new in its first line")
    keys = table[["old", "new"]].apply(name_keys)
    bad = (keys == "").any(axis=1).to_numpy()
    if bad.any(): raise KitError(f"{path}, row {bad.argmax() + 2}: write genus and species in both columns")
    pairs = {old: new for old, new in zip(keys.old, keys.new) if old != new}
    return {old: _newest(old, pairs, path) for old in pairs}


def _newest(name, pairs, path):
    "Follow a name through its changes."
    seen = [name]
    while seen[-1] in pairs:
        seen.append(pairs[seen[-1]])
        if len(seen) > len(set(seen)): raise KitError(f"{path}: {' -> '.join(seen)} goes in a circle: remove one of these rows")
    return seen[-1]


def fill_names(
    taxa,   # DataFrame with TAXA_COLUMNS
    table,  # DataFrame with TAXA_COLUMNS, which knows names by label
):          # DataFrame; empty scientific and common names are filled
    "Take names that are missing from another table."
    names = table.set_index("primary_label")
    known = {c: taxa.primary_label.map(names[c]).fillna("") for c in ("scientific_name", "common_name")}
    return taxa.assign(**{c: taxa[c].where(taxa[c] != "", found) for c, found in known.items()})


def look_up(
    mine,    # Series of keys
    theirs,  # Series of keys; empty ones are none
    labels,  # Series of text, one for each of `theirs`
):           # Series as `mine`: the label with the same key; empty where there is none or more than one
    "Find labels by a key."
    once = (theirs != "") & ~theirs.duplicated(keep=False)
    known = dict(zip(theirs[once], labels[once]))
    return mine.map(lambda key: known.get(key, "")).astype(str)


def match_taxa(
    taxa,         # DataFrame with TAXA_COLUMNS
    targets,      # DataFrame with TAXA_COLUMNS
    synonyms={},  # {key of an old name: key of the new one}
):                # DataFrame as long as `taxa`: `to`, a label of `targets`, and `how` it was found; both empty where it was not
    "Find species in another table; the surest way that finds one counts."
    keys = lambda table, synonyms={}: name_keys(table.scientific_name, synonyms)
    ways = {"code": (taxa.primary_label, targets.primary_label), "iNaturalist taxon": (taxa.inat_taxon_id, targets.inat_taxon_id),
            "scientific name": (keys(taxa), keys(targets)), "synonym": (keys(taxa, synonyms), keys(targets, synonyms))}
    found = pd.DataFrame("", taxa.index, ["to", "how"])
    for how, (mine, theirs) in ways.items():
        to = look_up(mine, theirs, targets.primary_label)
        new = (found.to == "") & (to != "")
        found = found.assign(to=found.to.where(~new, to), how=found.how.where(~new, how))
    return found


def suggest(
    names,    # Series of scientific names that were not found
    targets,  # DataFrame with TAXA_COLUMNS
):            # Series of text: at most three scientific names each, with semicolons between
    "Names with a similar epithet, in the same genus or another one: those that renamed or misspelt species have."
    known = {key: name for key, name in zip(name_keys(targets.scientific_name), targets.scientific_name) if key}
    near = defaultdict(set)
    for key in known:
        for part in _parts(key): near[part].add(key)
    hints = lambda key: get_close_matches(key, _alike(key, set().union(*(near[part] for part in _parts(key)))), n=3, cutoff=0)
    return name_keys(names).map(lambda key: "; ".join(known[hint] for hint in hints(key)) if key else "")


def _parts(key):
    "The genus, and how the epithet begins."
    genus, epithet = key.split()
    return f"{genus} ", f" {epithet[:5]}"


def _alike(key, keys):
    "Those with a similar epithet."
    epithet = key.split()[1]
    return [other for other in sorted(keys) if SequenceMatcher(None, epithet, other.split()[1]).ratio() >= .7]


def map_taxa(
    table,          # Competition folder or table of the species to find
    to,             # Competition folder or table to find them in
    out,            # mapping.csv
    synonyms=None,  # A .csv with columns old and new
    names=(),       # Tables to take missing scientific names from, by label
):                  # DataFrame: label, scientific_name, to, to_name, how, suggestions
    "Write which species is which."
    taxa, targets = read_taxa(table), read_taxa(to)
    for path in names: taxa = fill_names(taxa, read_taxa(path))
    found = match_taxa(taxa, targets, read_synonyms(synonyms) if synonyms else {})
    rows = taxa[["primary_label", "scientific_name"]].rename(columns={"primary_label": "label"}).join(found)
    rows.insert(3, "to_name", rows.to.map(targets.set_index("primary_label").scientific_name).fillna(""))
    rows["suggestions"] = suggest(rows.scientific_name[rows.to == ""], targets).reindex(rows.index).fillna("")
    write_table(out, rows)
    _tell(rows, out)
    return rows


def _tell(rows, out):
    "Print what was found and what was not."
    print(f"{(rows.to != '').sum()} of {len(rows)} species found")
    for how, n in rows.how[rows.how != ""].value_counts().items(): print(f"  by {how}: {n}")
    lost = rows[rows.to == ""]
    if len(lost): print(f"not found: {few(lost.label + ' ' + lost.scientific_name)}")
    for row in lost[lost.suggestions != ""].head(20).itertuples(): print(f"  {row.label} {row.scientific_name}: perhaps {row.suggestions}")
    print(f"written: {out}")


def main(
    argv=None,  # Arguments, by default those of the command line
):              # None
    "Read the command line."
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("table", metavar="TABLE", help="the species to find: a competition's folder or a table")
    add("--to", required=True, metavar="TABLE", help="where to find them: a competition's folder or a table")
    add("--out", default="mapping.csv", metavar="CSV", help="where to write what was found (default %(default)s)")
    add("--synonyms", metavar="CSV", help="renamed species, columns old and new")
    add("--names", nargs="+", default=(), metavar="TABLE", help="tables to take missing scientific names from, by label")
    run_script(map_taxa, parser, argv)


if __name__ == "__main__": main()
