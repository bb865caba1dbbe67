"""Fetch sounds of observations from iNaturalist and write them in the layout of a competition.

    python data_prep/inaturalist.py --species "Boana faber" --most 100 --dry-run
    python data_prep/inaturalist.py --species species.txt --box -5 -80 13 -66 --codes taxonomy.csv --out work/inat
    python data_prep/inaturalist.py --species Amphibia --box -5 -80 13 -66 --most 30 --out work/frogs

One request a second, and no more than 5 GB an hour and 24 GB a day into a folder, as iNaturalist asks. A run that was stopped goes on when
the same command is given again. A name may be that of a higher taxon. Observations of research grade that are identified to
species; each sound has a licence of its own, and those with all rights reserved are left out. Observer, licence and page stay
in the tables. Labels are those of --codes (by taxon id or name), else iNaturalist's taxon id. Phones record m4a: for those,
ffmpeg must be on the path.
"""
from itertools import islice
from pathlib import Path

import fetch
import found
from birdkit.core import KitError, progress

BASE = "https://api.inaturalist.org/v1/observations"
PER_S, PER_PAGE = 1., 200
BYTES_PER_S, BURST_S = 20e9 / fetch.DAY_S, 4e9 / 20e9 * fetch.DAY_S   # 4 GB at once, then 20 GB a day: 4.8 GB in an hour, 24 in a day


def session(
    pages=None,  # Folder of the pages kept for a day, and of what was fetched
):               # fetch.Session
    "Requests to iNaturalist."
    return fetch.Session(BASE, fetch.Pace(PER_S, BYTES_PER_S, BURST_S, pages and Path(pages) / "paid.json"), pages=pages)


def search(
    species=(),        # Scientific names or taxon ids, of species or higher taxa
    box=None,          # Only from here: (south, west, north, east), degrees
    grade="research",  # Quality grade: research, needs_id or casual
    most=None,         # Recordings of each species; None for all
    licences=None,     # Licences to keep, such as ("cc0", "cc-by"); None keeps every stated one
    unlicensed=False,  # True keeps sounds of which all rights are reserved
    codes=None,        # What found.read_codes gives
    pages=None,        # Folder in which pages are kept for a day
):                     # DataFrame with found.FOUND_COLUMNS
    "Search iNaturalist."
    if not species: raise KitError("no species is named: give --species")
    site, sides = session(pages), ("swlat", "swlng", "nelat", "nelng")
    where = dict(sounds="true", quality_grade=grade) | (dict(zip(sides, box)) if box is not None else {})
    rows = []
    for name in progress(species, "search"):
        what = dict(taxon_id=name) if str(name).isdecimal() else dict(taxon_name=name)
        sounds = (row for entry in _entries(site, where | what) for row in _rows(entry) if found.usable(row["license"], licences, unlicensed))
        rows += islice(sounds, most if " " in str(name).strip() else None)   # Of one species, no more pages than needed
    return found.select(found.give_labels(found.found_table(rows), codes), licences, unlicensed, most)


def _entries(site, params):
    "Every observation of a search; the next page begins above the last id, which has no limit (pages end at 10,000)."
    above, full = 0, True
    while full:
        entries = site.json(params | dict(per_page=PER_PAGE, order_by="id", order="asc", id_above=above)).get("results") or []
        yield from entries
        above, full = entries[-1]["id"] if entries else above, len(entries) == PER_PAGE


def _rows(entry):
    "The sounds of one observation in the columns of found.py; none where it is not identified to species."
    taxon, user = entry.get("taxon") or {}, entry.get("user") or {}
    name = " ".join((taxon.get("name") or "").split()[:2])
    if " " not in name: return
    latitude, longitude = _place(entry)
    for sound in entry.get("sounds") or []:
        if not sound.get("file_url"): continue
        ident = f"iNat{int(sound['id'])}"
        yield dict(
            filename=f"{ident}.ogg", primary_label="", secondary_labels=(), author=user.get("name") or user.get("login") or "",
            rating=0., url=entry.get("uri") or f"https://www.inaturalist.org/observations/{entry['id']}",
            license=found.licence_name(sound.get("license_code")), collection="iNat", latitude=latitude, longitude=longitude,
            scientific_name=name, common_name=taxon.get("preferred_common_name") or "", type="[]",
            class_name=taxon.get("iconic_taxon_name") or "", inat_taxon_id=str(taxon.get("min_species_taxon_id") or taxon.get("id") or ""),
            download_url=sound["file_url"], original=ident + found.suffix(sound["file_url"]), duration_s=float("nan"))


def _place(entry):
    "Latitude and longitude, degrees; nan where they are hidden."
    point = (entry.get("geojson") or {}).get("coordinates") or (None, None)
    parts = (entry.get("location") or "").split(",")
    return tuple(map(found.number, parts if len(parts) == 2 else reversed(point)))


def main(
    argv=None,  # Arguments, by default those of the command line
):              # None
    "Read the command line."
    parser = found.options(__doc__)
    parser.add_argument("--grade", default="research", choices=["research", "needs_id", "casual"], help="quality grade (default %(default)s)")
    found.run(search, session, parser, argv)


if __name__ == "__main__":
    fetch.leave_on_interrupt()
    main()
