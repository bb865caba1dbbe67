"""Fetch a competition from Kaggle, or take a zip that is here already, and check that it can be read.

    python data_prep/competition.py --competition birdclef-2025 --out birdclef-2025
    python data_prep/competition.py --zip birdclef-2025.zip --out birdclef-2025

Kaggle's own client downloads (pip install kaggle); it goes on where a download broke off. Accept the rules on the competition's page
first. Credentials come from KAGGLE_USERNAME and KAGGLE_KEY, KAGGLE_API_TOKEN, or ~/.kaggle. The archive stays beside the folder. Every
file is extracted whole or not at all, and one that is there with the right size is left alone, as are labels of soundscapes.py. The data
keep their licence: see the competition's rules and the columns author, license and url of its table.
"""
import os, shutil, stat, subprocess, sys, zlib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, is_zipfile

import pandas as pd

from birdkit.competition import Competition
from birdkit.core import KitError, atomic, few, progress, read_json, read_table, write_json
from birdkit.kaggle import LOG_IN
from past_years import TABLES, read_year
from soundscapes import ORIGINAL
from tables import run_script, script_parser

SAID = 4000   # Bytes of what the client said last are kept for the error
RULES = "accept the rules at https://www.kaggle.com/competitions/{0}/rules, then run this again"
NAME = "correct the name: it is the last part of the competition's address"
# What the client says, and what is to be done
REMEDIES = (("must accept", RULES), ("permission", RULES), ("403 client", RULES), ("authentication required", LOG_IN), ("401 client", LOG_IN),
            ("404 client", NAME), ("not found", NAME),
            ("", "see what the client says above, or download the zip by hand and give --zip"))


def download(
    competition,  # The last part of the competition's address, such as birdclef-2025
    folder,       # Where to
):                # Path of the zip
    "Download a competition with Kaggle's client; a zip that is complete is not asked for again."
    path = Path(folder) / f"{competition}.zip"
    if is_zipfile(path):
        print(f"{path} is there already")
        return path
    if not find_spec("kaggle"): raise KitError("Kaggle's client is not installed: pip install kaggle, or download the zip by hand and give --zip")
    command = [sys.executable, "-m", "kaggle", "competitions", "download", competition, "-p", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client: said = _echo(client.stdout)
    if client.returncode or not is_zipfile(path): raise KitError(_refusal(competition, said))
    return path


def _echo(stream):
    "Pass on what the client says, with its progress bar; its last words."
    said = b""
    for piece in iter(lambda: stream.read1(SAID), b""):
        sys.stdout.write(piece.decode(errors="replace"))
        sys.stdout.flush()
        said = (said + piece)[-SAID:]
    return said.decode(errors="replace")


def _refusal(competition, said):
    "One line on why there is no zip."
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines() if line.strip()] or ["no message"]
    sign, remedy = next((sign, remedy) for sign, remedy in REMEDIES if any(sign in line.lower() for line in lines))
    told = next(line for line in lines[::-1] if sign in line.lower())
    return f"{competition} was not downloaded ({told[:150]}): {remedy.format(competition)}"


def _members(archive):
    "Path in the folder of each file of an archive, {path: ZipInfo}; refuses paths that leave it, and links."
    found = {}
    for info in archive.infolist():
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in info.filename or stat.S_ISLNK(info.external_attr >> 16):
            raise KitError(f"{archive.filename}: {info.filename!r} leaves the folder: this is not an archive of Kaggle's, extract nothing of it")
        if name.parts and not info.is_dir(): found[name] = info
    tops = {name.parts[0] for name in found}
    inside = len(tops) == 1 and any(name.parts[1:] == (table,) for name in found for table in TABLES)
    return {PurePosixPath(*name.parts[1:]) if inside else name: info for name, info in found.items()}


def _check_space(folder, need):
    "Refuse to fill the disk."
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if need > free: raise KitError(f"{folder} needs {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: make room, or give another --out")


def extract(
    path,    # A .zip
    folder,  # Where to
):           # Number of files that were extracted now
    "Extract what is not there yet, each file whole or not at all."
    folder = Path(folder).absolute()
    try:
        with ZipFile(path) as archive:
            files = {folder / name: info for name, info in _members(archive).items()}
            todo = {to: info for to, info in files.items() if not _is_there(to, info.file_size)}
            _check_space(folder, sum(info.file_size for info in todo.values()))
            print(f"{len(files)} files, {len(files) - len(todo)} are there already", flush=True)
            for to, info in progress(todo.items(), "extract", len(todo)): _extract_one(archive, info, to)
    except FileNotFoundError: raise KitError(f"{path} is missing: give --zip the file you downloaded, or --competition") from None
    except RuntimeError as error:
        raise KitError(f"{path} is encrypted, or packed in a way that Python does not read, as Windows does above 2 GB ({error}): "
                       "extract it with another tool, such as 7-Zip, and give the folder as data=") from None
    except (BadZipFile, zlib.error, EOFError) as error:
        raise KitError(f"{path} is damaged or not complete ({error}): remove it and download it again") from None
    return len(todo)


def _is_there(path, size):
    "Is a file there with the right size, or one that was made of it? soundscapes.py keeps the original beside its table."
    same = lambda p: p.is_file() and p.stat().st_size == size
    if same(path): return True
    if not (path.is_file() and same(Path(f"{path}{ORIGINAL}"))): return False
    print(f"{path} is not the archive's and is left as it is; the archive's is {path.name}{ORIGINAL}")
    return True


def _extract_one(archive, info, to):
    "One file, by way of a name that says it is a part."
    with atomic(to) as part, archive.open(info) as source, open(part, "wb") as target: shutil.copyfileobj(source, target, 1 << 20)


def check(
    folder,  # A competition's folder
):           # DataFrame that describes it
    "Look for every recording, and read the tables as the notebooks do."
    rows = read_year(folder)
    gone = [path for path in rows.source if not Path(path).is_file()]
    if gone: raise KitError(f"{folder}: recordings of its table are missing: {few(gone)}: remove the archive, then run this again")
    classes = read_table(Path(folder) / "sample_submission.csv", "fetch the archive again", nrows=0).columns
    if set(classes) & set(rows.primary_label): return Competition.find(str(folder)).describe()
    facts = {"recordings": len(rows), "species": rows.primary_label.nunique(), "read by": "past_years.py, not by the notebooks (2021, 2022)"}
    return pd.Series(facts, dtype=object, name=Path(folder).name).to_frame()


def _count_files(folder):
    "Files of a folder, all the way down."
    return sum(len(names) for *_, names in os.walk(folder))


def _is_whole(folder, mark, archive):
    "Was this archive extracted here, and are there as many files as there were?"
    made = read_json(mark, "run this again") if mark.exists() else {}
    return made.get("archive") == archive and _count_files(folder) >= made["files"]


def fetch_competition(
    out,               # Competition folder to make
    competition=None,  # Name on Kaggle, such as birdclef-2025
    archive=None,      # An archive that is here already
):                     # DataFrame that describes it
    "Download, extract and check."
    out = Path(out).absolute()
    path, mark = Path(archive or out.parent / f"{competition}.zip"), out.with_name(f".{out.name}.complete.json")
    if not path.exists() and _is_whole(out, mark, path.name): print(f"{out} is there already")
    else: extract(path if archive else download(competition, out.parent), out)
    try: facts = check(out)
    except KitError:
        mark.unlink(missing_ok=True)
        raise
    write_json(mark, dict(archive=path.name, files=_count_files(out)))
    print(facts.to_string(), f"{out} is complete; {path} may be removed", sep="\n")
    return facts


def main(
    argv=None,  # Arguments, by default those of the command line
):              # None
    "Read the command line."
    parser = script_parser(__doc__)
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--competition", metavar="NAME", help="download this competition, such as birdclef-2025")
    one.add_argument("--zip", dest="archive", metavar="FILE", help="extract this archive")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="competition folder to make")
    run_script(fetch_competition, parser, argv)


if __name__ == "__main__": main()
