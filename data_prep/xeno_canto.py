"""Fetch recordings from xeno-canto (API v3) and write them in the layout of a competition.

    export XENO_CANTO_KEY=...     # your account's page shows it: https://xeno-canto.org/account
    python data_prep/xeno_canto.py --species "Turdus merula" "Boana faber" --quality B --most 100 --dry-run
    python data_prep/xeno_canto.py --species species.txt --country Colombia --codes taxonomy.csv --out work/xc

One request a second. A run that was stopped goes on when the same command is given again. Recordings become 32 kHz mono OGG;
recordist, licence and page of each stay in the tables. Labels are those of --codes, else made of the scientific name
(turdus_merula). Ratings are 5 for quality A to 1 for E, 0 without one. xeno-canto asks not to copy it wholesale: name the
species you need, and ask its team for large amounts.
"""
import fetch
import found
from birdkit.core import KitError, progress
from tables import at_least

BASE = "https://xeno-canto.org/api/3/recordings"
KEY = "XENO_CANTO_KEY"
PER_S, PER_PAGE = 1., 500
RATINGS = dict(A=5., B=4., C=3., D=2., E=1.)
CLASSES = {"birds": "Aves", "frogs": "Amphibia", "grasshoppers": "Insecta", "bats": "Mammalia", "land mammals": "Mammalia"}


def session(
    pages=None,  # Folder of the pages kept for a day
    secret="",   # Key; only a search needs one
):               # fetch.Session
    "Requests to xeno-canto."
    return fetch.Session(BASE, fetch.Pace(PER_S), dict(key=secret) if secret else {}, KEY, pages)


def query(
    species="",  # Scientific name
    group="",    # birds, frogs, grasshoppers, bats or land mammals
    country="",  # Such as "Colombia"
    box=None,    # (south, west, north, east), degrees
):               # Text in xeno-canto's tags
    "What to ask for; API v3 takes tags only."
    tags = dict(sp=species.lower(), grp=group, cnt=country)
    words = [f'{tag}:"{text}"' for tag, text in tags.items() if text]
    if box is not None: words.append("box:" + ",".join(f"{x:g}" for x in box))
    return " ".join(words)


def search(
    species=(),        # Scientific names
    groups=(),         # Groups to search whole, such as "frogs"
    country="",        # Only from this country
    box=None,          # Only from here: (south, west, north, east), degrees
    quality="E",       # Only of this quality or a better one, A to E; ungraded recordings pass E only
    most=None,         # Recordings of each species, the best first; None for all
    longest_s=1200.,   # Leave longer recordings out, s
    licences=None,     # Licences to keep, such as ("cc0", "cc-by"); None keeps every stated one
    unlicensed=False,  # True keeps recordings without a licence
    codes=None,        # What found.read_codes gives
    pages=None,        # Folder in which pages are kept for a day
):                     # DataFrame with found.FOUND_COLUMNS
    "Search xeno-canto."
    if quality not in RATINGS: raise KitError(f"quality {quality!r} is none of A, B, C, D, E: give the worst to keep")
    texts = [query(name, "", country, box) for name in species] + [query("", group, country, box) for group in groups]
    if not texts: raise KitError("neither species nor groups are named: give --species or --groups")
    site = session(pages, fetch.key(KEY, "your account's page shows the key, https://xeno-canto.org/account"))
    entries = [entry for text in progress(texts, "search") for entry in _entries(site, text)]
    rows = [row for entry in entries if (row := _row(entry))]
    table = found.give_labels(found.found_table(rows), codes)
    return found.select(table, licences, unlicensed, most, longest_s, RATINGS[quality] if quality != "E" else 0)


def _entries(site, text):
    "Every recording of a search, page by page."
    number, last = 1, 1
    while number <= last:
        page = site.json(dict(query=text, per_page=PER_PAGE, page=number))
        yield from page.get("recordings") or []
        number, last = number + 1, int(page.get("numPages") or 1)


def _row(entry):
    "One recording in the columns of found.py, or None where there is nothing to fetch or no species."
    get = lambda name: str(entry.get(name) or "").strip()
    group, ident, address = get("grp") or get("group"), get("id"), get("file")
    if not (address and ident.isdecimal() and get("gen") and get("sp")) or group == "soundscape" or get("gen") == "Mystery": return None
    return dict(
        filename=f"XC{ident}.ogg", primary_label="", secondary_labels=tuple(filter(None, map(str, entry.get("also") or ()))),
        author=get("rec"), rating=RATINGS.get(get("q").upper(), 0.), url=f"https://xeno-canto.org/{ident}",
        license=found.licence_name(get("lic")), collection="XC", latitude=found.number(entry.get("lat")),
        longitude=found.number(entry.get("lon") or entry.get("lng")), scientific_name=f"{get('gen')} {get('sp')}", common_name=get("en"),
        type=str([part.strip() for part in get("type").split(",")]), class_name=CLASSES.get(group, ""), inat_taxon_id="",
        download_url=f"https:{address}" if address.startswith("//") else address,
        original=f"XC{ident}{found.suffix(get('file-name'))}", duration_s=_length_s(get("length")))


def _length_s(text):
    "A length such as 4:13 or 1:02:03 in seconds."
    parts = [found.number(part) for part in text.split(":")]
    return sum(60 ** i * part for i, part in enumerate(reversed(parts)))


def main(
    argv=None,  # Arguments, by default those of the command line
):              # None
    "Read the command line."
    parser = found.options(__doc__)
    add = parser.add_argument
    add("--groups", nargs="+", default=[], choices=sorted(CLASSES), metavar="GROUP", help=f"search whole groups: {', '.join(sorted(CLASSES))}")
    add("--country", default="", help="only from this country")
    add("--quality", default="E", choices=list(RATINGS), help="only of this quality or a better one (default %(default)s)")
    add("--longest", type=at_least(.1), default=1200., dest="longest_s", metavar="SECONDS", help="leave longer recordings out, s (default %(default)s)")
    found.run(search, session, parser, argv)


if __name__ == "__main__":
    fetch.leave_on_interrupt()
    main()
