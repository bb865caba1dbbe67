"Scripts that make collections from tables and archives: what they write is read like a competition, and a second run goes on."
import inspect, json, os, shutil, stat, subprocess, sys, time, zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import ROOT
from test_fetch import KEY, Site, entry, observation, sound
from toys import LABELS, toy_folder

import competition, extra_species, fetch, inaturalist, past_years, soundscapes, tables, taxonomy, xeno_canto
from birdkit.audio import decode
from birdkit.competition import RECORDING_COLUMNS, Competition
from birdkit.core import KitError
from birdkit.findings import write_audacity, write_raven
from birdkit.kaggle import find_owner

toy = partial(toy_folder, test_s=())


def put(path, text=""):
    "A file of this text."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def taxa(*rows):
    "A table of taxa from (label, iNaturalist taxon, scientific name, class)."
    table = pd.DataFrame(rows, columns=["primary_label", "inat_taxon_id", "scientific_name", "class_name"])
    return table.assign(common_name="").reindex(columns=tables.TAXA_COLUMNS)


def said(capsys, run):
    "What a script that fails says, which is one line."
    with pytest.raises(SystemExit) as stop: run()
    assert stop.value.code == 1
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize("script", [competition, past_years, taxonomy, extra_species, soundscapes])
def test_help_is_the_docstring(script, capsys):
    with pytest.raises(SystemExit) as stop: script.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and script.__doc__.strip() in text and "--out" in text


def test_a_script_runs_from_anywhere(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "data_prep/extra_species.py", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--near" in done.stdout


# The table

FROGS = taxa(("24", "24", "Boana faber", "Amphibia"), ("owl1", "", "Strix aluco", "Aves"))


def frogs(folder, names=("24/iNat1.ogg", "owl1/XC2.ogg")):
    "Recordings with their files."
    for name in names: put(folder / "train_audio" / name)
    table = pd.DataFrame(dict(filename=names, primary_label=[n.split("/")[0] for n in names]))
    others = [("owl1",)] + [()] * (len(names) - 1)
    return table.assign(secondary_labels=others, author="A. Person", license="cc-by 4.0", url="https://x.org/1", rating=np.nan)


def test_a_collection_is_read_as_a_competition(tmp_path, capsys):
    rows = frogs(tmp_path)
    made = tables.write_collection(tmp_path, pd.concat([rows, rows.tail(1).assign(filename="owl1/XC3.ogg")]), FROGS)
    assert "1 recordings without a file are left out" in capsys.readouterr().out
    assert made.year == 2025 and made.classes == ["24", "owl1"] and made.notes == []
    assert made.recordings.filename.tolist() == ["24/iNat1.ogg", "owl1/XC2.ogg"] and made.recordings.rating.tolist() == [0, 0]
    assert made.recordings.secondary_labels.tolist() == [("owl1",), ()]
    assert made.taxonomy.class_name.tolist() == ["Amphibia", "Aves"] and made.test_files == []
    assert list(pd.read_csv(tmp_path / "train.csv")) == [*RECORDING_COLUMNS, "class_name"]
    assert (tmp_path / "ATTRIBUTION.csv").read_text().splitlines()[1] == "24/iNat1.ogg,A. Person,cc-by 4.0,https://x.org/1"


def test_the_order_of_classes_is_that_of_the_taxa(tmp_path):
    assert tables.write_collection(tmp_path, frogs(tmp_path), FROGS[::-1]).classes == ["owl1", "24"]


def test_a_collection_grows(tmp_path):
    tables.write_collection(tmp_path, frogs(tmp_path), FROGS)
    more = frogs(tmp_path, ("24/iNat1.ogg", "11/XC9.ogg")).assign(author="B. Person")
    made = tables.extend_collection(tmp_path, more, taxa(("11", "11", "Boana alba", "Amphibia"), ("24", "24", "Boana faber", "Amphibia")))
    assert made.classes == ["11", "24", "owl1"] and made.recordings.author.tolist() == ["B. Person", "B. Person", "A. Person"]
    assert [len(table) for table in tables.read_collection(tmp_path)] == [3, 3]
    assert [len(table) for table in tables.read_collection(tmp_path / "none")] == [0, 0]


def test_a_recording_has_one_label(tmp_path):
    old = ("turdus/XC1.ogg", "turdus/1.ogg", "other/1.ogg", "24/iNat7.ogg")
    tables.write_collection(tmp_path, frogs(tmp_path, old), taxa(*[(label, "", "", "Aves") for label in ("24", "none", "other", "turdus", "owl1")]))
    made = tables.extend_collection(tmp_path, frogs(tmp_path, ("eurbla/XC1.ogg", "25/iNat7.ogg")), taxa(("eurbla", "", "", "Aves"), ("25", "", "", "Aves")))
    assert made.recordings.filename.tolist() == ["25/iNat7.ogg", "eurbla/XC1.ogg", "other/1.ogg", "turdus/1.ogg"]
    assert made.classes == ["25", "eurbla", "none", "other", "owl1", "turdus"]   # only 24 has lost all it had
    tables.extend_collection(tmp_path, frogs(tmp_path, ("owl1/XC3.ogg",)).assign(secondary_labels="['eurbla', '25']"), taxa())
    made = tables.extend_collection(tmp_path, frogs(tmp_path, ("merula/XC1.ogg",)), taxa(("merula", "", "", "Aves")))
    assert made.recordings.set_index("filename").secondary_labels["owl1/XC3.ogg"] == ("merula", "25")    # in the background it has its new label, too


def test_a_recording_identified_anew_renames_no_species(tmp_path):
    old = taxa(("24", "24", "Boana faber", "Amphibia"), ("hyla", "", "Hyla alba", "Amphibia"), ("owl1", "", "Strix aluco", "Aves"))
    rows = frogs(tmp_path, ("24/iNat1.ogg", "hyla/iNat2.ogg", "owl1/XC3.ogg")).assign(secondary_labels=[(), (), ("24", "hyla")])
    tables.write_collection(tmp_path, rows, old)
    new = taxa(("11", "11", "Boana alba", "Amphibia"), ("hylalb", "12", "Hyla alba alba", "Amphibia"))
    made = tables.extend_collection(tmp_path, frogs(tmp_path, ("11/iNat1.ogg", "hylalb/iNat2.ogg")).assign(secondary_labels="[]"), new)
    assert made.classes == ["11", "24", "hylalb", "owl1"]    # a class without recordings, and one under its new label
    assert made.recordings.set_index("filename").secondary_labels["owl1/XC3.ogg"] == ("24", "hylalb")


def test_a_collection_refuses(tmp_path):
    rows = frogs(tmp_path)
    write = lambda rows, taxa=FROGS, folder=tmp_path: tables.write_collection(folder, rows, taxa)
    with pytest.raises(KitError, match=r"file names come twice: 1 \(24/iNat1.ogg\)"): write(pd.concat([rows, rows.head(1)]))
    with pytest.raises(KitError, match=r"labels without a taxon: 1 \(owl1\): add them"): write(rows, FROGS.head(1))
    with pytest.raises(KitError, match="no recording is left, 2 were asked for"): write(rows, FROGS, tmp_path / "empty")
    assert not (tmp_path / "train.csv").exists()


def test_numbers_are_refused_in_one_line(capsys):
    wrong = dict([("--workers", "-1 0 2.5"), ("--most", "-1 0"), ("--seconds", "-1 0.00001 nan inf x")])
    for option, text in ((option, text) for option, texts in wrong.items() for text in texts.split()):
        with pytest.raises(SystemExit): xeno_canto.main(["--species", "x", option, text])
        assert f"error: argument {option}: '{text}' is not a " in capsys.readouterr().err
    assert [tables.at_least(1, int)("2"), tables.at_least(.1, zero=True)("0"), tables.at_least(.1)(".1")] == [2, 0, .1]


def test_a_script_ends_in_one_line(capsys):
    def fails(error):
        def work(): raise error
        return lambda: tables.run_script(work, tables.script_parser("x"), [])
    assert said(capsys, fails(KitError("a is b: do c"))) == "a is b: do c"
    assert said(capsys, fails(OSError(28, "No space left on device", "x.ogg"))).startswith("[Errno 28] No space left on device: 'x.ogg'")
    with pytest.raises(SystemExit) as stop: fails(KeyboardInterrupt())()
    assert stop.value.code == 130 and "the same command goes on" in capsys.readouterr().err


def test_a_script_knows_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    parser = tables.script_parser("x")
    parser.add_argument("--out")
    assert tables.run_script(lambda out: out, parser, ["--out=~/x"]) == "/home/ada/x"


@pytest.mark.parametrize("script, words, behind", [(past_years, ["a", "--out", ""], "--out"), (past_years, ["a", "--exclude=", "--out", "b"], "--exclude"),
    (competition, ["--zip", "", "--out", "b"], "--zip"), (taxonomy, ["", "--to", "a"], "taxonomy.py")])
def test_nothing_is_empty(script, words, behind, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py"])
    with pytest.raises(SystemExit): script.main(words)
    assert f"error: an empty value behind {behind}: is a variable of the shell not set?" in capsys.readouterr().err


# Species

EBIRD = """TAXON_ORDER,CATEGORY,SPECIES_CODE,PRIMARY_COM_NAME,SCI_NAME,ORDER1,FAMILY,SPECIES_GROUP,REPORT_AS
1,species,tawowl1,Tawny Owl,Strix aluco,Strigiformes,Strigidae,,
2,issf,tawowl2,Tawny Owl (x),Strix aluco [aluco Group],Strigiformes,Strigidae,,tawowl1
3,species,redwin,Redwing,Turdus iliacus,Passeriformes,Turdidae,,
"""
INAT = """id,taxonID,kingdom,class,genus,scientificName,taxonRank,references
19893,https://x.org/taxa/19893,Animalia,Aves,Strix,Strix aluco,species,
3,https://x.org/taxa/3,Animalia,Aves,,Aves,class,
23456,https://x.org/taxa/23456,Animalia,Amphibia,Boana,Boana faber,species,
"""


def test_scientific_names_are_compared_by_genus_and_species():
    names = {"Strix aluco": "strix aluco", " strix  ALUCO aluco": "strix aluco", "Strix_aluco": "strix aluco",
             "Aedes (Stegomyia) aegypti": "aedes aegypti", "Inachis io": "inachis io", "Polygonia c-album": "polygonia c-album",
             "Strix sp.": "", "Strix sp": "", "Insecta": "", "": ""}
    assert taxonomy.name_keys(pd.Series(list(names))).tolist() == list(names.values())
    assert taxonomy.name_keys(pd.Series(["Hyla faber", "Hyla alba"]), {"hyla faber": "boana faber"}).tolist() == ["boana faber", "hyla alba"]


def test_tables_of_species(tmp_path):
    ebird, inat = put(tmp_path / "ebird.csv", EBIRD), put(tmp_path / "inat.csv", INAT)
    birds, animals = taxonomy.read_taxa(ebird).values.tolist(), taxonomy.read_taxa(inat).values.tolist()
    assert birds == [["tawowl1", "", "Strix aluco", "Tawny Owl", "Aves"], ["redwin", "", "Turdus iliacus", "Redwing", "Aves"]]
    assert animals == [["19893", "19893", "Strix aluco", "", "Aves"], ["23456", "23456", "Boana faber", "", "Amphibia"]]
    here, old = (taxonomy.read_taxa(toy(tmp_path / str(year), year)) for year in (2025, 2024))
    assert here.primary_label.tolist() == old.primary_label.tolist() == LABELS and here.class_name.tolist() == ["Insecta", "Mammalia", "Aves", "Aves"]
    assert old.scientific_name.tolist() == here.scientific_name.tolist() and set(old.class_name) == {"Aves"}      # 2024 had birds only
    with pytest.raises(KitError, match="has no taxonomy.csv, train.csv or train_metadata.csv: give"): taxonomy.read_taxa(tmp_path)
    with pytest.raises(KitError, match="no column of codes: give"): taxonomy.read_taxa(put(tmp_path / "x.csv", "a,b\n1,2\n"))
    with pytest.raises(KitError, match="gone.csv is missing: give"): taxonomy.read_taxa(tmp_path / "gone.csv")


def test_the_surest_way_counts():
    targets = taxa(("owl1", "19893", "Strix aluco", ""), ("24", "24", "Boana faber", ""), ("fro1", "", "Lithobates catesbeianus", ""),
                   ("son01", "47158", "Gryllus campestris", ""), ("son02", "47158", "Gryllus campestris", ""))
    asked = taxa(("owl1", "", "Another name", ""), ("19893", "19893", "", ""), ("x", "", "BOANA faber", ""), ("y", "", "Rana catesbeiana", ""),
                 ("z", "47158", "Gryllus campestris", ""), ("none", "", "Bufo bufo", ""), ("24a", "24", "Strix aluco", ""))
    found = taxonomy.match_taxa(asked, targets, {"rana catesbeiana": "lithobates catesbeianus"})
    assert found.to.tolist() == ["owl1", "owl1", "24", "fro1", "", "", "24"]
    assert found.how.tolist() == ["code", "iNaturalist taxon", "scientific name", "synonym", "", "", "iNaturalist taxon"]


def test_the_newer_name_finds_the_older_one():
    pairs = {"rana catesbeiana": "lithobates catesbeianus"}
    assert taxonomy.match_taxa(taxa(("a", "", "Lithobates catesbeianus", "")), taxa(("b", "", "Rana catesbeiana", "")), pairs).to.tolist() == ["b"]


def test_synonyms(tmp_path):
    path = put(tmp_path / "s.csv", "old,new\nHyla faber,Hypsiboas faber\nHypsiboas faber,Boana faber\nStrix aluco,Strix aluco\n")
    assert taxonomy.read_synonyms(path) == {"hyla faber": "boana faber", "hypsiboas faber": "boana faber"}
    with pytest.raises(KitError, match="a b -> c d -> a b|aa bb -> cc dd -> aa bb goes in a circle"):
        taxonomy.read_synonyms(put(path, "old,new\naa bb,cc dd\ncc dd,aa bb\n"))
    with pytest.raises(KitError, match="row 3: write genus and species"): taxonomy.read_synonyms(put(path, "old,new\naa bb,cc dd\nHyla,Boana\n"))
    with pytest.raises(KitError, match="lacks the columns old and new"): taxonomy.read_synonyms(put(path, "a,b\n1,2\n"))


def test_names_are_filled_from_another_table(tmp_path):
    known = taxonomy.read_taxa(put(tmp_path / "ebird.csv", EBIRD))
    full = taxonomy.fill_names(taxa(("tawowl1", "", "", ""), ("redwin", "", "My name", ""), ("x", "", "", "")), known)
    assert full.scientific_name.tolist() == ["Strix aluco", "My name", ""] and full.common_name.tolist() == ["Tawny Owl", "Redwing", ""]


def test_mapping(tmp_path, capsys):
    birdclef, out = toy(tmp_path / "bc", 2024), tmp_path / "mapping.csv"
    taxonomy.main([str(birdclef), "--to", str(put(tmp_path / "inat.csv", INAT + "1,,,Aves,Turdus,Turdus iliacos,species,\n")), "--out", str(out)])
    text, table = capsys.readouterr().out, pd.read_csv(out, dtype=str, keep_default_na=False).set_index("label")
    assert "1 of 4 species found\n  by scientific name: 1\nnot found: 3" in text and "redwin Turdus iliacus: perhaps Turdus iliacos" in text
    assert table.loc["owl1"].tolist() == ["Strix aluco", "19893", "Strix aluco", "scientific name", ""]
    assert table.loc["redwin", "suggestions"] == "Turdus iliacos" and table.loc["47144"].tolist() == ["Canis familiaris", "", "", "", ""]


def test_a_changed_genus_is_suggested():
    targets = taxa(("1", "", "Boana faber", ""), ("2", "", "Hyla arborea", ""), ("3", "", "Bufo bufo", ""))
    hints = taxonomy.suggest(pd.Series(["Hyla faber", "Insecta"]), targets)
    assert hints[0].split("; ")[0] == "Boana faber" and "Bufo" not in hints[0] and hints[1] == ""


# Archives

def archive(path, folder, top=""):
    "A zip of a folder."
    with zipfile.ZipFile(path, "w") as z:
        for file in sorted(folder.rglob("*")): z.write(file, f"{top}{file.relative_to(folder).as_posix()}")
    return path


def whole(folder):
    "A competition with a file for each of its recordings."
    for name in pd.read_csv(toy(folder) / "train.csv").filename: put(folder / "train_audio" / name, f"sound of {name}")
    return folder


@pytest.mark.parametrize("top", ["", "birdclef-2025/"])
def test_an_archive_becomes_a_competition(tmp_path, capsys, top):
    source, out = whole(tmp_path / "source"), tmp_path / "out"
    path = archive(tmp_path / "a.zip", source, top)
    competition.main(["--zip", str(path), "--out", str(out)])
    text = capsys.readouterr().out
    assert "13 files, 0 are there already" in text and "layout of" in text and "is complete" in text
    files = {p.relative_to(source): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    assert files == {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_extraction_goes_on(tmp_path, capsys):
    source, out = whole(tmp_path / "source"), tmp_path / "out"
    path = archive(tmp_path / "a.zip", source)
    competition.extract(path, out)
    audio = sorted(out.glob("train_audio/*/*"))
    audio[0].unlink()
    audio[1].write_text("half")
    before = audio[2].stat().st_mtime_ns
    assert competition.extract(path, out) == 2 and "13 files, 11 are there already" in capsys.readouterr().out
    assert audio[2].stat().st_mtime_ns == before and audio[1].read_text().startswith("sound of")
    assert competition.extract(path, out) == 0


def test_a_damaged_member_is_not_left_behind(tmp_path, capsys):
    source, out = whole(tmp_path / "source"), tmp_path / "out"
    data = archive(tmp_path / "a.zip", source).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"sound of owl1/XC4.ogg", b"s0und of owl1/XC4.ogg", 1))
    run = lambda: competition.main(["--zip", str(tmp_path / "a.zip"), "--out", str(out)])
    assert "a.zip is damaged or not complete (Bad CRC-32" in said(capsys, run)
    assert not (out / "train_audio/owl1/XC4.ogg").exists() and not list(out.rglob(".*"))
    (tmp_path / "a.zip").write_bytes(data[:len(data) // 2])
    with pytest.raises(KitError, match="damaged or not complete"): competition.extract(tmp_path / "a.zip", out)
    with pytest.raises(KitError, match="b.zip is missing: give --zip"): competition.extract(tmp_path / "b.zip", out)


@pytest.mark.parametrize("name", ["../evil.csv", "/evil.csv", "a/../../evil.csv", "..\\evil.csv", "C:/evil.csv", "link"])
def test_nothing_leaves_the_folder(tmp_path, name):
    info = zipfile.ZipInfo(name)
    if name == "link": info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("train.csv", "x")
        z.writestr(info, "/etc/passwd")
    with pytest.raises(KitError, match="leaves the folder"): competition.extract(tmp_path / "a.zip", tmp_path / "deep/out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip"]


@pytest.mark.parametrize("at, value", [(8, 9), (6, 1)])        # Deflate64, which Windows takes above 2 GB; a password
def test_an_archive_that_needs_another_tool(tmp_path, at, value):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr(".", "a file without a name")
        z.writestr("train.csv", "x")
    competition.extract(tmp_path / "a.zip", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["train.csv"]
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for start, further in ((data.index(b"PK\3\4", 4), 0), (data.rindex(b"PK\1\2"), 2)): data[start + at + further] = value
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(KitError, match="a.zip is encrypted, or packed in a way .*: extract it with another tool, such as 7-Zip, and give the folder as data="):
        competition.extract(tmp_path / "a.zip", tmp_path / "again")


def test_the_disk_is_not_filled(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.zip", whole(tmp_path / "source"))
    monkeypatch.setattr(competition.shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(KitError, match="needs 0.0 GB and 0.0 GB are free: make room"): competition.extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_extracted_is_checked(tmp_path):
    source = whole(tmp_path / "source")
    (source / "train_audio/owl1/XC4.ogg").unlink()
    with pytest.raises(KitError, match="recordings of its table are missing: 1"): competition.check(source)
    assert competition.check(year_folder(tmp_path / "y22", 2022)).loc["read by"].item().startswith("past_years.py")


def log_in(monkeypatch):
    "Credentials in the environment."
    monkeypatch.setenv("KAGGLE_USERNAME", "ada")
    monkeypatch.setenv("KAGGLE_KEY", "none")


@pytest.mark.parametrize("answer, owner", [(dict(active=True, username="ada"), "ada"), (dict(active=False), None), ((403, "no"), None)])
def test_kaggle_knows_whose_token_it_is(monkeypatch, kaggle_server, answer, owner):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    kaggle_server.answer = answer
    assert find_owner() == owner
    assert "IntrospectToken" in kaggle_server.asked[0][0]


def test_kaggles_client_downloads(tmp_path, monkeypatch, kaggle_server, capsys):
    log_in(monkeypatch)
    kaggle_server.answer = archive(tmp_path / "source.zip", whole(tmp_path / "source")).read_bytes()
    fetch = lambda: competition.main(["--competition", "birdclef-2025", "--out", str(tmp_path / "out")])
    fetch()
    assert "is complete" in capsys.readouterr().out and json.loads(kaggle_server.asked[0][1]) == dict(competitionName="birdclef-2025")
    assert (tmp_path / "birdclef-2025.zip").read_bytes() == kaggle_server.answer and (tmp_path / "out/train.csv").exists()
    asked = len(kaggle_server.asked)
    fetch()
    assert len(kaggle_server.asked) == asked and "birdclef-2025.zip is there already" in capsys.readouterr().out
    (tmp_path / "birdclef-2025.zip").unlink()                  # As told
    for command in (["--competition", "birdclef-2025"], ["--zip", str(tmp_path / "birdclef-2025.zip")]):
        competition.main([*command, "--out", str(tmp_path / "out")])
        assert len(kaggle_server.asked) == asked and f"{tmp_path / 'out'} is there already" in capsys.readouterr().out
    next((tmp_path / "out").glob("*_soundscapes/*")).unlink()
    fetch()
    assert len(kaggle_server.asked) > asked


@pytest.mark.parametrize("answer, login, line", [
    ((403, "You must accept this competition's rules before you'll be able to download files."), True,
     "birdclef-2025 was not downloaded (You must accept this competition's rules before you'll be able to download files.): "
     "accept the rules at https://www.kaggle.com/competitions/birdclef-2025/rules, then run this again"),
    (None, False, "birdclef-2025 was not downloaded (Authentication required to call the Kaggle API.): run `kaggle auth login`, "
     "or save a token of kaggle.com/settings/api as ~/.kaggle/access_token"),
    ((401, ""), True, "run `kaggle auth login`"),
    ((404, "Not found"), True, "correct the name"),
    (b"not a zip", True, "see what the client says above, or download the zip by hand and give --zip")])
def test_a_refused_download_is_one_line(tmp_path, monkeypatch, kaggle_server, capsys, answer, login, line):
    kaggle_server.answer = answer
    if login: log_in(monkeypatch)
    error = said(capsys, lambda: competition.main(["--competition", "birdclef-2025", "--out", str(tmp_path / "out")]))
    assert line in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_without_a_client(tmp_path, monkeypatch):
    monkeypatch.setattr(competition, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="client is not installed: pip install kaggle"): competition.download("birdclef-2025", tmp_path)


# Past years

OLD = ["primary_label", "secondary_labels", "type", "latitude", "longitude", "scientific_name", "common_name", "author"]
YEARS = {2021: [*OLD, "date", "filename", "license", "rating", "time", "url"], 2022: [*OLD, "license", "rating", "time", "url", "filename"],
         2023: [*OLD, "license", "rating", "url", "filename"]}
HEARD = {2021: [("owl1", "Strix aluco", 1), ("fieldf", "Turdus pilaris", 2)],
         2022: [("fieldf", "Turdus pilaris", 2), ("fieldf", "Turdus pilaris", 3), ("blackc", "Sylvia atricapilla", 4)],
         2023: [("tawowl9", "Strix aluco aluco", 5), ("redwin", "Turdus musicus", 6), ("blackc", "Sylvia atricapilla", 7)]}


def year_folder(path, year):
    "A competition of an old year: its own columns and folders; files hold their numbers."
    audio, bare = path / ("train_short_audio" if year == 2021 else "train_audio"), year == 2021
    rows = [dict(primary_label=label, scientific_name=name, filename=f"XC10{n}.ogg" if bare else f"{label}/XC10{n}.ogg", author=f"Author {year}",
                 secondary_labels="['owl1', 'blackc']" if n == 4 else "[]", rating=4.5, url=f"https://xeno-canto.org/10{n}",
                 license="CC BY-NC-SA 4.0") for label, name, n in HEARD[year]]
    for label, _, n in HEARD[year]: put(audio / label / f"XC10{n}.ogg", f"{n}")
    pd.DataFrame(rows).reindex(columns=YEARS[year]).to_csv(path / "train_metadata.csv", index=False)
    put(path / "sample_submission.csv", "row_id,target\n" if year == 2022 else "row_id,birds\n")
    return path


@pytest.fixture
def years(tmp_path):
    "Folders of 2023, 2022 and 2021."
    return [str(year_folder(tmp_path / str(year), year)) for year in (2023, 2022, 2021)]


def test_every_year_has_the_same_columns(tmp_path):
    for year in YEARS:
        rows = past_years.read_year(year_folder(tmp_path / str(year), year))
        assert list(rows) == [*tables.COLUMNS, "source"] and rows.filename[0] == f"{rows.primary_label[0]}/XC10{HEARD[year][0][2]}.ogg"
        assert set(rows.class_name) == {"Aves"} and set(rows.collection) == {"XC"} and all(map(os.path.isfile, rows.source))
    now = past_years.read_year(toy(tmp_path / "2026", 2026))            # has no names of its own
    assert now.scientific_name[0] == "Ragoniella pulchella" and now.class_name[0] == "Insecta"
    with pytest.raises(KitError, match="has no train.csv and no train_metadata.csv: give"): past_years.read_year(tmp_path)
    with pytest.raises(KitError, match="or one of your own: train_audio/<label>/, and a train.csv"): past_years.read_year(tmp_path)
    put(tmp_path / "own/train_audio/owl1/yard.ogg", "0")
    put(tmp_path / "own/train.csv", "filename,primary_label\nowl1/yard.ogg,owl1\n")
    assert past_years.read_year(tmp_path / "own").source.map(os.path.isfile).tolist() == [True]


def test_of_2021_and_2022_the_notebooks_are_given_a_collection(tmp_path):
    for year in (2021, 2022):
        with pytest.raises(KitError, match="row 2: .* data_prep/past_years.py makes a folder"):
            Competition.find(year_folder(tmp_path / str(year), year)).recordings


def test_years_are_merged(tmp_path, years, capsys):
    past_years.main([*years, "--out", str(tmp_path / "past")])
    made, text = Competition.find(str(tmp_path / "past")), capsys.readouterr().out
    assert "1 recordings come twice, 0 files are missing" in text and "past: 7 recordings of 5 species" in text
    assert made.classes == ["blackc", "fieldf", "owl1", "redwin", "tawowl9"] and len(made.recordings) == 7
    twice = made.recordings[made.recordings.filename == "fieldf/XC102.ogg"]
    assert twice.author.tolist() == ["Author 2022"]                            # the first folder given counts
    here = made.audio / "fieldf/XC102.ogg"
    assert here.read_text() == "2" and here.stat().st_ino == (tmp_path / "2022/train_audio/fieldf/XC102.ogg").stat().st_ino
    assert "fieldf/XC102.ogg,Author 2022,CC BY-NC-SA 4.0,https://xeno-canto.org/102" in (made.folder / "ATTRIBUTION.csv").read_text()


def test_this_years_species_are_left_out_by_code_and_by_name(tmp_path, years, capsys):
    comp, synonyms = toy(tmp_path / "now"), put(tmp_path / "s.csv", "old,new\nTurdus musicus,Turdus iliacus\n")
    past_years.main([*years, "--exclude", str(comp), "--synonyms", str(synonyms), "--out", str(tmp_path / "now-past")])
    from birdkit.stages import find_past
    made = find_past(Competition.find(str(comp)))
    assert "3 of 5 species are left out" in capsys.readouterr().out
    assert made.classes == ["blackc", "fieldf"] and made.recordings.filename.str[-5].astype(int).tolist() == [4, 7, 2, 3]
    assert made.recordings.secondary_labels.tolist()[0] == ("blackc",)


def test_renamed_species_are_left_out_by_name_alone(years):
    rows, found = past_years.merge_years(years)
    left = past_years.leave_out(rows, found, taxa(("a", "", "Strix aluco", ""), ("redwin", "", "Turdus iliacus", "")))[1]
    assert sorted(left.primary_label) == ["blackc", "fieldf"]                  # tawowl9 and owl1 by name, redwin by code


def test_rare_species_are_left_out(tmp_path, years):
    made = past_years.past_years(years, tmp_path / "past", least=2)
    assert made.classes == ["blackc", "fieldf"] and len(made.recordings) == 4


def test_past_recordings_under_this_years_labels(tmp_path, years):
    comp = toy(tmp_path / "now", 2026, labels=["47144", "owl1", "redwin"], audio=True)
    run = lambda: past_years.main([*years, "--map", str(comp), "--out", str(tmp_path / "more")])
    run()
    made, before = Competition.find(str(tmp_path / "more")), Competition.find(str(comp))
    assert made.year == 2026 and made.classes == before.classes and len(made.recordings) == len(before.recordings) + 3
    new = made.recordings[~made.recordings.filename.isin(before.recordings.filename)]
    assert new.filename.tolist() == ["owl1/XC101.ogg", "owl1/XC105.ogg", "redwin/XC106.ogg"]
    assert new.scientific_name.tolist() == ["Strix aluco", "Strix aluco", "Turdus iliacus"] and set(new.author) == {"Author 2023", "Author 2021"}
    assert [p.name for p in made.soundscapes] == [p.name for p in before.soundscapes] and made.test_files == []
    assert made.soundscape_labels.equals(before.soundscape_labels) and set(made.taxonomy.class_name) == {"Aves", "Mammalia"}
    run()
    assert len(Competition.find(str(tmp_path / "more")).recordings) == len(made.recordings)


def test_copies_are_no_links(tmp_path, years):
    made = past_years.past_years(years, tmp_path / "copy", copy=True)
    assert {(made.audio / name).stat().st_nlink for name in made.recordings.filename} == {1}


def test_soundscapes_are_lent_file_by_file(tmp_path, years, monkeypatch):
    comp, out = toy(tmp_path / "now", 2026, audio=True), tmp_path / "more"
    out.mkdir()
    for name in ("train_soundscapes", "test_soundscapes"): (out / name).symlink_to(tmp_path / "gone")
    def refuse(*paths): raise OSError(95, "Operation not supported")
    monkeypatch.setattr(past_years.os, "symlink", refuse)
    lent = lambda out, copy: [p.stat().st_nlink for p in past_years.past_years(years, out, target=comp, copy=copy).soundscapes]
    assert lent(out, False) == lent(out, False) == [2, 2] and lent(tmp_path / "copy", True) == [1, 1]
    assert not (out / "train_soundscapes").is_symlink() and (out / "test_soundscapes").is_dir()


def test_secondary_labels_are_mapped(tmp_path, years):
    rows, found = past_years.merge_years(years)
    mapped = past_years.relabel(rows, found, taxa(("bc", "", "Sylvia atricapilla", ""), ("to", "", "Strix aluco", "")))
    assert mapped.set_index("filename").secondary_labels["blackc/XC104.ogg"] == "['to']"
    assert sorted(set(mapped.primary_label)) == ["bc", "to"]


def test_a_second_run_links_nothing_anew(tmp_path, years, monkeypatch):
    past_years.past_years(years, tmp_path / "past")
    monkeypatch.setattr(past_years, "atomic", None)
    assert len(past_years.past_years(years, tmp_path / "past").recordings) == 7


def test_a_second_run_drops_no_recordings_of_others(tmp_path, years):
    past, table = tmp_path / "past", tmp_path / "past/train.csv"
    past_years.past_years(years[1:], past)
    past_years.past_years(years, past)                                         # another year is added
    put(past / "train_audio/newfrog/XC900.ogg", "croak")
    frog = pd.DataFrame([dict(filename="newfrog/XC900.ogg", primary_label="newfrog", author="B", license="CC0", url="u")])
    tables.extend_collection(past, frog, taxa(("newfrog", "", "Rana nova", "")))
    before = table.read_text()
    with pytest.raises(KitError, match=r"past has recordings that would be lost: 1 \(newfrog/XC900.ogg\): give another --out, or"):
        past_years.past_years(years, past)
    assert table.read_text() == before and "newfrog/XC900.ogg,B,CC0,u" in (past / "ATTRIBUTION.csv").read_text()
    table.write_text("")
    with pytest.raises(KitError, match="train.csv .*: delete it to write the collection anew"): past_years.past_years(years, past)
    table.unlink()
    (past / "taxonomy.csv").unlink()
    assert len(past_years.past_years(years, past).recordings) == 7


def test_a_second_run_keeps_labels_of_soundscapes(tmp_path, years):
    comp, out = toy(tmp_path / "now", 2026, audio=True), tmp_path / "more"
    past_years.past_years(years, out, target=comp)
    labels = out / "train_soundscapes_labels.csv"
    assert labels.read_text() == (comp / "train_soundscapes_labels.csv").read_text()
    labels.write_text(labels.read_text() + "mine.ogg,00:00:00,00:00:05,redwin\n")
    past_years.past_years(years, out, target=comp)
    assert labels.read_text().endswith("\nmine.ogg,00:00:00,00:00:05,redwin\n")


def test_links_where_they_can_be_made(tmp_path, monkeypatch):
    source, calls = put(tmp_path / "a.ogg", "sound"), []
    def refuse(*paths):
        calls.append(paths)
        raise OSError(18, "Invalid cross-device link")
    assert past_years.link_file(source, tmp_path / "x/hard.ogg").stat().st_nlink == 2
    assert past_years.link_file(source, tmp_path / "x/copy.ogg", copy=True).stat().st_nlink == 1
    monkeypatch.setattr(past_years.os, "link", refuse)
    assert past_years.link_file(source, tmp_path / "x/soft.ogg").is_symlink()
    monkeypatch.setattr(past_years.os, "symlink", refuse)
    plain = past_years.link_file(source, tmp_path / "x/plain.ogg")
    assert not plain.is_symlink() and plain.read_text() == "sound" and len(calls) == 3
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["copy.ogg", "hard.ogg", "plain.ogg", "soft.ogg"]
    with pytest.raises(FileNotFoundError): past_years.link_file(tmp_path / "gone.ogg", tmp_path / "x/gone.ogg")


def test_what_copies_share():
    names = pd.Series(["a/XC12.ogg", "b/xc12.mp3", "a/1.ogg", "b/1.ogg", "a/iNat7-0.ogg", "a/iNat7-1.ogg"])
    assert past_years.source_keys(names).duplicated().tolist() == [False, True, False, False, False, False]


def test_missing_files_are_told(tmp_path, years, capsys):
    shutil.rmtree(tmp_path / "2022/train_audio/fieldf")
    made = past_years.past_years(years, tmp_path / "past")
    assert "0 recordings come twice, 2 files are missing" in capsys.readouterr().out
    assert made.recordings.author[made.recordings.filename == "fieldf/XC102.ogg"].tolist() == ["Author 2021"]   # the copy that is there


@pytest.mark.parametrize("label, name", [
    ("../../home", "x/1.ogg"), ("/tmp/home", "x/1.ogg"), ("", "x/1.ogg"), ("owl1", "../../secret.ogg"), ("owl1", "/secret.ogg")])
def test_nothing_leaves_a_collection(tmp_path, label, name):
    for path in ("secret.ogg", "now/train_audio/x/1.ogg", "now/train_audio/x/2.ogg"): put(tmp_path / path, "sound")
    put(tmp_path / "now/train.csv", f"primary_label,filename\nowl1,x/2.ogg\n{label},{name}\n")
    put(tmp_path / "now/taxonomy.csv", "primary_label\nowl1\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KitError) as error: past_years.past_years([tmp_path / "now"], tmp_path / "deep/out")
    assert f"train.csv, row 3: primary_label/filename '{label}/{name}' is empty in part or leads out of" in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(KitError, match="row 3: "): extra_species.link_targets(tmp_path / "now", ("Aves",), tmp_path / "out")


def test_past_years_refuses(tmp_path, years, capsys):
    comp = toy(tmp_path / "now")
    run = lambda *arguments: said(capsys, lambda: past_years.main([*map(str, arguments)]))
    assert "now is this year's competition: give another --out" in run(*years, "--map", comp, "--out", comp)
    assert "has no train.csv and no train_metadata.csv" in run(tmp_path, "--out", tmp_path / "x")
    assert "no recording is left" in run(*years, "--least", 9, "--out", tmp_path / "x")


def test_a_competition_is_not_written_anew(tmp_path, years, sites, capsys):
    new, link = toy(tmp_path / "now"), tmp_path / "link"
    link.symlink_to(new)
    files = lambda: {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    before = files()
    for out in (years[0], str(new), str(link)):
        for main, words in ((past_years.main, years), (past_years.main, [*years, "--exclude", new]), (past_years.main, [new, *years]),
                            (extra_species.main, [new]), (xeno_canto.main, ["--species", "x", "--codes", new])):
            told = said(capsys, lambda: main([*map(str, words), "--out", out]))
            assert told == f"{out} is a competition, or your own, and its tables would be written anew: give another --out"
    assert files() == before and not sites


def test_linked_recordings_are_heard(tmp_path):
    comp = toy(tmp_path / "now", labels=LABELS[:2], audio=True)
    made = past_years.past_years([comp], tmp_path / "past")
    assert [decode(made.audio / name).duration_s for name in made.recordings.filename] == [6, 6, 6, 6]


# Frogs and insects

def found_rows(*rows):
    "What a search finds, from (file, taxon, name, class, length, rating)."
    import found
    empty = dict.fromkeys(found.FOUND_COLUMNS, "") | dict(latitude=np.nan, longitude=np.nan)
    empty |= dict(secondary_labels=(), license="cc-by 4.0", author="A. Person", url="https://x.org")
    names = ("filename", "inat_taxon_id", "scientific_name", "class_name", "duration_s", "rating")
    return found.found_table([empty | dict(zip(names, row)) for row in rows])


@pytest.fixture
def sites(monkeypatch):
    "Stand-ins for the two sites; what they were asked for is kept."
    import found
    asked = []
    tables = dict(
        inat=found_rows(("iNat1.ogg", "11", "Boana faber", "Amphibia", np.nan, 0), ("iNat2.ogg", "12", "Ragoniella pulchella", "Insecta", np.nan, 0),
                        ("iNat3.ogg", "13", "Boa constrictor", "Reptilia", np.nan, 0)),
        xc=found_rows(("XC1.ogg", "", "Boana faber", "Amphibia", 30, 5), ("XC2.ogg", "", "Boana faber", "Amphibia", 20, 3),
                      ("XC3.ogg", "", "Gryllus bimaculatus", "Insecta", 10, 0), ("XC4.ogg", "", "Gryllus assimilis", "Insecta", 90, 5),
                      ("XC5.ogg", "", "Turdus merula", "Aves", 9, 5)))

    def search(name, real):
        def ask(species=(), codes=None, **options):
            inspect.signature(real).bind(species, codes=codes, **options)
            asked.append((name, tuple(species), options))
            return found.give_labels(tables[name], codes)
        return ask

    def download(table, folder, session, seconds):
        for name in table.filename: put(Path(folder) / "train_audio" / name, f"{seconds:g} s")
        return table
    for name, module in (("inat", inaturalist), ("xc", xeno_canto)):
        monkeypatch.setattr(module, "search", search(name, module.search))
    monkeypatch.setattr(fetch, "download", download)
    return asked


def test_species_outside_the_competition(tmp_path, sites, capsys):
    comp = toy(tmp_path / "now")
    extra_species.main([str(comp), "--out", str(tmp_path / "extra"), "--near", "0", "-74", "111.2"])
    made = Competition.find(str(tmp_path / "extra"))
    assert made.recordings.filename.tolist() == ["11/XC1.ogg", "11/XC2.ogg", "11/iNat1.ogg", "gryllus_bimaculatus/XC3.ogg"]   # one label for both
    assert made.taxonomy.class_name.tolist() == ["Amphibia", "Insecta"] and (made.audio / "11/XC1.ogg").read_text() == "60 s"
    (inat, names, where), (xc, none, groups) = sites
    assert (inat, names, xc, none) == ("inat", ("Amphibia", "Insecta"), "xc", ())
    assert groups["groups"] == ["frogs", "grasshoppers"] and groups["longest_s"] == 60
    np.testing.assert_allclose(where["box"], (-1, -75, 1, -73))
    assert "recordings: 4 of 2 species" in capsys.readouterr().out


def test_few_of_each_species(tmp_path, sites):
    comp = toy(tmp_path / "now")
    made = extra_species.extra_species(comp, tmp_path / "extra", most=2, least=2)
    assert made.recordings.filename.tolist() == ["11/XC1.ogg", "11/XC2.ogg"]                     # the best rated
    again = extra_species.extra_species(comp, tmp_path / "extra", sources=["xc"], longest_s=100)
    assert len(again.recordings) == 4 and again.classes == ["11", "gryllus_assimilis", "gryllus_bimaculatus"]   # labels of the first run stay


def test_named_species_and_a_dry_run(tmp_path, sites):
    names = put(tmp_path / "names.txt", "Turdus merula\nBoana faber\n")
    assert extra_species.extra_species(toy(tmp_path / "now"), tmp_path / "extra", species=[str(names)], dry_run=True) is None
    assert [s[1] for s in sites] == [("Turdus merula", "Boana faber")] * 2 and sites[1][2]["groups"] == []
    assert not (tmp_path / "extra/train.csv").exists()


def test_options_reach_both_searches(tmp_path, sites):
    renamed = put(tmp_path / "renamed.csv", "old,new\nGryllus bimaculatus,Ragoniella pulchella\n")
    more = ["--near", "0", "-74", "111.2", "--licences", "CC0", "cc-by", "--synonyms", str(renamed)]
    extra_species.main([str(toy(tmp_path / "now")), "--out", str(tmp_path / "extra"), *more])
    assert [where["licences"] for *_, where in sites] == [["cc0", "cc-by"]] * 2
    np.testing.assert_allclose([where["box"] for *_, where in sites], [(-1, -75, 1, -73)] * 2)
    assert Competition.find(str(tmp_path / "extra")).classes == ["11"]


def test_with_the_competitions_own(tmp_path, sites):
    comp = whole(tmp_path / "now")
    made = extra_species.extra_species(comp, tmp_path / "extra", targets=True)
    assert made.classes == ["11", "1139490", "gryllus_bimaculatus"] and made.recordings.primary_label.value_counts()["1139490"] == 2


def test_classes_without_a_group_of_xeno_canto(tmp_path, sites, capsys):
    made = extra_species.extra_species(toy(tmp_path / "now"), tmp_path / "extra", classes=["Reptilia"])
    assert made.recordings.filename.tolist() == ["13/iNat3.ogg"] and [s[0] for s in sites] == ["inat"]
    assert "xeno-canto has no group of Reptilia: it is not searched\n" in capsys.readouterr().out
    with pytest.raises(KitError, match="no species outside"): extra_species.extra_species(tmp_path / "now", tmp_path / "x", ["xc"], ["Reptilia"])
    assert len(sites) == 1


def test_nothing_outside_is_an_error(tmp_path, sites, capsys):
    run = lambda: extra_species.main([str(toy(tmp_path / "now")), "--out", str(tmp_path / "x"), "--least", "99"])
    assert "no species outside the competition was found" in said(capsys, run)


def test_from_the_sites_to_the_collection(tmp_path, monkeypatch):
    site = Site()
    for module, path in ((inaturalist, "/inat"), (xeno_canto, "/xc")):
        monkeypatch.setattr(module, "BASE", site.base + path)
        monkeypatch.setattr(module, "PER_S", 1e4)
    monkeypatch.setenv(xeno_canto.KEY, KEY)
    calls = [entry(site, 2, "Boana faber", grp="frogs"), entry(site, 3, "Boana faber", grp="frogs", length="2:00")]
    monkeypatch.setattr(site, "xeno_canto", partial(ask_site, site, site.xeno_canto, calls))
    monkeypatch.setattr(site, "inaturalist", partial(ask_site, site, site.inaturalist, [observation(site, 1)]))
    site.files = {path: sound() for path in ("/sound/1.wav", "/sound/2", "/sound/3")}
    made = extra_species.extra_species(toy(tmp_path / "now"), tmp_path / "extra", species=["Boana faber"])
    site.server.shutdown()
    rows = made.recordings
    assert rows.filename.tolist() == ["23426/XC2.ogg", "23426/iNat8.ogg"] and rows.license.tolist() == ["cc-by-nc-sa 4.0", "cc-by-nc"]
    assert all(decode(made.audio / name).duration_s == 1 for name in rows.filename) and made.taxonomy.class_name.tolist() == ["Amphibia"]


def ask_site(site, answer, entries, query):
    "The answer of a site that has these entries."
    site.entries = entries
    return answer(query)


def test_a_box_around_a_place():
    np.testing.assert_allclose(extra_species.box_around(60, 10, 111.2), (59, 8, 61, 12))
    assert extra_species.box_around(90, 0, 500)[2:] == (90, 180)


# Labels of soundscapes

FOUND = pd.DataFrame(dict(start_s=[0., 4.9, 12.], end_s=[5., 10., 14.5], label=["owl1", "47144", "owl1"], score=.9))
ROWS = [("00:00:00", "00:00:05", "owl1"), ("00:00:05", "00:00:10", "47144"), ("00:00:10", "00:00:15", "owl1"), ("00:00:15", "00:00:20", "")]


@pytest.fixture
def listened(tmp_path):
    "A competition with two soundscapes of 20 s."
    comp = toy(tmp_path / "comp")
    for p in comp.glob("train_soundscapes/*"): p.unlink()
    for name in ("a", "a.b"): sf.write(comp / f"train_soundscapes/{name}.wav", np.zeros(20 * 8000), 8000)
    return comp


def labelled(comp):
    "The table as (start, end, label) by recording."
    table = pd.read_csv(comp / soundscapes.TABLE, dtype=str, keep_default_na=False)
    return {name: list(rows[["start", "end", "primary_label"]].itertuples(index=False, name=None)) for name, rows in table.groupby("filename")}


def labels_of(comp):
    "The labels of each recording's rows."
    return {name: [row[2] for row in rows] for name, rows in labelled(comp).items()}


@pytest.mark.parametrize("write", [lambda path, found: write_raven(path, found, 16_000), write_audacity])
@pytest.mark.parametrize("name", ["a.txt", "a.wav.txt", "a.Table.1.selections.txt"])
def test_labels_as_detect_writes_them(tmp_path, listened, write, name):
    write(tmp_path / "labels" / name, FOUND)
    soundscapes.main([str(tmp_path / "labels"), "--competition", str(listened)])
    assert labelled(listened) == {"a.wav": ROWS}
    comp = Competition.find(str(listened))
    assert comp.year == 2026 and not any(soundscapes.TABLE in note for note in comp.notes)
    assert comp.soundscape_labels.labels.tolist() == [("owl1",), ("47144",), ("owl1",), ()]
    assert comp.soundscape_labels.end_s.tolist() == [5, 10, 15, 20]


def test_rows_of_a_label():
    rows = lambda *spans, s=20, **options: soundscapes.label_rows(pd.DataFrame(spans, columns=["start_s", "end_s", "label"]), s, **options)
    assert rows((4.8, 5.3, "a")) == ["a", "a", "", ""]                         # .2 s are in the first row
    assert rows((4.9, 5.4, "a")) == ["", "a", "", ""]
    assert rows((4.9, 5.4, "a"), least_s=.1) == ["a", "a", "", ""]
    assert rows((3, 3.05, "a"), (4.98, 5.02, "b")) == ["a;b", "b", "", ""]     # a short call is in the row of its larger half, or in both
    assert rows((12, 15, "a"), (7, 7, "point"), least_s=0) == ["", "point", "a", ""]     # what only touches a row is not in it
    assert rows((2, 18, "b"), (11, 12, "a"), (11, 12, "a")) == ["b", "b", "a;b", "b"]
    assert rows((7, 7, "point")) == ["", "point", "", ""] and rows(s=59.98) == [""] * 12


def test_audacity_tracks(tmp_path):
    path = put(tmp_path / "a.txt", "0.5\t1.5\towl1\n\\\t1000.0\t2000.0\n2,5\t3,5\towl1; redwin\n4\t4\t\n\n")
    assert soundscapes.read_events(path).values.tolist() == [["", .5, 1.5, "owl1"], ["", 2.5, 3.5, "owl1"], ["", 2.5, 3.5, "redwin"]]
    with pytest.raises(KitError, match="'Dear' is not a time in seconds: give a selection table"): soundscapes.read_events(put(path, "Dear\tall"))
    with pytest.raises(KitError, match="a label ends before it begins"): soundscapes.read_events(put(path, "2\t1\tx"))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KitError, match="a.txt is not readable as text"): soundscapes.read_events(path)


def test_raven_columns(tmp_path):
    rows = ("Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tWho", "1\tWaveform 1\t1\t0\t1\tx", "1\tSpectrogram 1\t1\t0\t1\tx")
    path = put(tmp_path / "a.txt", "\n".join(rows))
    with pytest.raises(KitError, match="has no column 'Species'; .*: choose one by --label-column"): soundscapes.read_events(path)
    with pytest.raises(KitError, match="has no column 'Whom'; did you mean Who"): soundscapes.read_events(path, "Whom")
    assert soundscapes.read_events(path, "Who").label.tolist() == ["x", "x"]


def test_quotes_in_a_selection_table_are_marks_like_others(tmp_path):
    write = lambda *cells: put(tmp_path / "a.txt", "Begin Time (s)\tEnd Time (s)\tSpecies\tNotes\n" + "".join(
        f"{i}\t{i + 1}\t{label}\t{note}\n" for i, (label, note) in enumerate(cells)))
    path = write(("a", "loud"), ("b", '"'), ("c", ""), ("d", '"'), ("e", '"unsure'), ('"', ""))        # ditto marks
    assert soundscapes.read_events(path).label.tolist() == ["a", "b", "c", "d", "e", '"']
    path = write(('"Owl, Tawny"', '"loud, near"'))                                                     # as Excel saves it
    path.write_text(path.read_text().replace("Begin Time (s)", '"Begin Time (s)"'))                    # as R does
    assert soundscapes.read_events(path).values.tolist() == [["", 0, 1, "Owl, Tawny"]]


def test_a_table_of_many_recordings(tmp_path, listened):
    text = ("Selection\tBegin Time (s)\tEnd Time (s)\tBegin Path\tFile Offset (s)\tSpecies Code\tCommon Name\n"
            "1\t3\t6\tC:\\data\\a.wav\t3\towl1\tTawny Owl\n2\t20.5\t23.5\t/data/a.b.wav\t.5\tredwin\tRedwing\n")
    soundscapes.main([str(put(tmp_path / "all.txt", text)), "--competition", str(listened)])
    assert labels_of(listened) == {"a.wav": ["owl1", "owl1", "", ""], "a.b.wav": ["redwin", "", "", ""]}


def test_names_lead_to_labels(tmp_path, listened, capsys):
    (tmp_path / "labels").mkdir()
    put(tmp_path / "labels/a.txt", "0\t4\tStrix aluco\n6\t9\tDOMESTIC dog\n6\t9\tTUIL\n11\t14\tcar\n")
    put(tmp_path / "labels/a.b.txt")                                           # nothing is heard in this one
    rename = put(tmp_path / "rename.csv", "old,new\nTUIL,redwin\n")
    soundscapes.main([str(tmp_path / "labels"), "--competition", str(listened), "--rename", str(rename)])
    assert labels_of(listened) == {"a.wav": ["owl1", "47144;redwin", "", ""], "a.b.wav": [""] * 4}
    text = capsys.readouterr().out
    assert "1 labels of no class are left out: 1 (car)" in text and "8 rows of 2 soundscapes, 2 with a label" in text


def test_options_reach_the_rows(tmp_path, listened):
    path = put(tmp_path / "a.txt", "Begin Time (s)\tEnd Time (s)\tSpecies\tWho\n4.7\t9\towl1\tredwin\n")
    more = ["--label-column", "Who", "--least-s", ".4", "--out", str(tmp_path / "mine.csv")]
    soundscapes.main([str(path), "--competition", str(listened), *more])
    assert pd.read_csv(tmp_path / "mine.csv", keep_default_na=False).primary_label.tolist() == ["", "redwin", "", ""]
    assert not (listened / soundscapes.TABLE).exists()


def test_rows_of_other_soundscapes_stay(tmp_path, listened):
    old = "filename,start,end,primary_label\na.b.wav,00:00:00,00:00:05,owl1;47144\na.wav,00:00:00,00:00:05,redwin\n"
    put(listened / soundscapes.TABLE, old)
    write_audacity(tmp_path / "a.txt", FOUND)
    path, before = archive(tmp_path / "a.zip", listened), {"a.b.wav": [("00:00:00", "00:00:05", "owl1;47144")], "a.wav": ROWS}
    for _ in range(2):
        soundscapes.main([str(tmp_path / "a.txt"), "--competition", str(listened)])
        assert competition.extract(path, listened) == 0 and labelled(listened) == before
    (listened / f"{soundscapes.TABLE}.original").write_text("cut")
    assert competition.extract(path, listened) == 1 and (listened / soundscapes.TABLE).read_text() == old


def test_the_longest_name_is_the_soundscape():
    known = soundscapes.beginnings(["a.wav", "a.b.wav", "ab.wav"])
    assert [soundscapes.soundscape_of(n, known) for n in ("a.txt", "a.b.txt", "a.b.wav.txt", "a.wav.selections.txt", "ab.txt", "abc.txt")] == [
        "a.wav", "a.b.wav", "a.b.wav", "a.wav", "ab.wav", None]


def test_thousands_of_soundscapes_are_labelled_in_seconds():
    began_s, names = time.process_time(), [f"BC2026_Train_{i:04}_S08_20250606_030007.ogg" for i in range(2_000)]
    known = soundscapes.beginnings(names)
    assert [soundscapes.soundscape_of(n.replace(".ogg", ".Table.1.selections.txt"), known) for n in names] == names
    events = pd.DataFrame(dict(filename=np.repeat(names[1:], 20), start_s=1., end_s=2., label="owl1"))
    table = soundscapes.label_table(events, dict.fromkeys(names, 10.))
    assert table.primary_label.tolist() == ["", ""] + ["owl1", ""] * 1_999 and time.process_time() - began_s < 4


def test_soundscapes_refuse(tmp_path, listened, capsys):
    run = lambda path, *more: said(capsys, lambda: soundscapes.main([str(path), "--competition", str(listened), *more]))
    assert "called like 1 (c.txt): begin a label file's name" in run(put(tmp_path / "c.txt", "0\t1\towl1"))
    assert "a.wav ends at 20.0 s, a label of it begins at 31 s: give the labels of this recording" in run(put(tmp_path / "a.txt", "31\t32\towl1"))
    assert "none of the labels is a class" in run(put(tmp_path / "a.txt", "1\t2\tcar"))
    assert "holds no label file" in run(tmp_path / "comp/train_audio")
    assert "lacks the columns old and new" in run(tmp_path / "a.txt", "--rename", str(put(tmp_path / "r.csv", "a,b\n1,2\n")))
    assert not (listened / soundscapes.TABLE).exists()
    listened = toy(tmp_path / "old", 2024)
    assert "has the layout of 2024, which has no labels" in run(tmp_path / "a.txt")
