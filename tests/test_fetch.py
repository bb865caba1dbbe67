"Fetching from xeno-canto and iNaturalist: pace, retries, resume, licences and tables, against a server in this process."
import io, json, os, signal, subprocess, sys, threading, time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

DATA_PREP = Path(__file__).parents[1] / "data_prep"
sys.path.insert(0, str(DATA_PREP))
import fetch
import found
import inaturalist
import xeno_canto

from birdkit.audio import SR, decode
from birdkit.competition import RECORDING_COLUMNS, Competition
from birdkit.core import KitError, read_table

KEY = "s3cret"


class Site:
    "A web site in a thread: `answer(path, query)` gives (status, headers, body); files may be cut or slow."
    def __init__(self):
        self.asked, self.files, self.cut, self.slow_s, self.script = [], {}, {}, 0., []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self): site.reply(self)
            def log_message(self, *_): pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(.02,), daemon=True).start()

    def reply(self, to):
        url = urlsplit(unquote(to.path) if "?" not in to.path else to.path)
        self.asked.append((url.path, {k: v[0] for k, v in parse_qs(url.query).items()}, dict(to.headers)))
        status, headers, body = self.script.pop(0) if self.script else self.answer(url.path, self.asked[-1][1])
        first = to.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if status == 200 and url.path in self.files and first:
            if int(first) >= len(body): status, body = 416, b""
            else: status, headers, body = 206, {"Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"}, body[int(first):]
        to.send_response(status)
        for name, value in headers.items(): to.send_header(name, value)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        body = body[:self.cut.pop(url.path, len(body))]
        for part in (body[i:i + 4096] for i in range(0, len(body), 4096)):
            to.wfile.write(part)
            if self.slow_s: time.sleep(self.slow_s)

    def answer(self, path, query):
        if path in self.files: return 200, {}, self.files[path]
        if path == "/xc": return self.xeno_canto(query)
        if path == "/inat": return self.inaturalist(query)
        return 404, {}, b"gone"

    def xeno_canto(self, query):
        if query.get("key") != KEY: return 401, {}, b'{"error": "client_error", "message": "Missing or invalid \'key\' parameter."}'
        if ":" not in query["query"]: return 400, {}, json.dumps(dict(error=dict(code=4, message=f"tags only, {query['key']}"))).encode()
        hits = [x for x in self.entries if f'{x["gen"]} {x["sp"]}'.lower() in query["query"] or f'grp:"{x["grp"]}"' in query["query"]]
        page = int(query["page"])
        body = dict(numRecordings=str(len(hits)), page=page, numPages=-(-len(hits) // 3), recordings=hits[3 * page - 3:3 * page])
        return 200, {}, json.dumps(body).encode()

    def inaturalist(self, query):
        named = [x for x in self.entries if query["taxon_name"] in (x["taxon"]["name"], "Aves")]
        hits = [x for x in named if x["id"] > int(query["id_above"])]
        return 200, {}, json.dumps(dict(total_results=len(hits), results=hits[:int(query["per_page"])])).encode()

    def paths(self, start=""):
        return [path for path, *_ in self.asked if path.startswith(start)]


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


class FakeClock:
    "Time that passes only by sleeping."
    def __init__(self): self.time, self.slept = 100., []
    def now(self): return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


def sound(seconds=1., sr=SR, kind="WAV", channels=1):
    "Bytes of a noise."
    x, file = np.random.default_rng(0).normal(0, .1, (int(seconds * sr), channels)), io.BytesIO()
    sf.write(file, x, sr, format=kind)
    return file.getvalue()


def session(site, path="/xc", **options):
    clock = FakeClock()
    return fetch.Session(site.base + path, fetch.Pace(now=clock.now, sleep=clock.sleep), **options), clock


def entry(site, ident, species="Turdus merula", **more):
    gen, sp = species.split()
    return dict(id=str(ident), gen=gen, sp=sp, grp="birds", en="Some Bird", rec="Ada Fern", lat="4.5", lon="-74.1", type="song, call", q="B",
                file=f"{site.base}/sound/{ident}", lic="//creativecommons.org/licenses/by-nc-sa/4.0/", length="0:01",
                **{"file-name": f"XC{ident}-a name.mp3"}) | more


def observation(site, ident, name="Boana faber", licence="cc-by-nc", **more):
    return dict(id=ident, taxon=dict(id=23426, name=name, iconic_taxon_name="Amphibia", preferred_common_name="Blacksmith Frog"),
                user=dict(login="ada", name=None), uri=f"https://www.inaturalist.org/observations/{ident}", location="-22.5,-45.25",
                sounds=[dict(id=ident + 7, file_url=f"{site.base}/sound/{ident}.wav?123", license_code=licence)]) | more


@pytest.fixture
def xc(site, monkeypatch):
    "xeno-canto with seven recordings of a blackbird and one of a wren; six may be used."
    monkeypatch.setattr(xeno_canto, "BASE", site.base + "/xc")
    monkeypatch.setattr(xeno_canto, "PER_S", 1e4)
    monkeypatch.setenv(xeno_canto.KEY, KEY)
    site.entries = [entry(site, i, q=q, also=["Troglodytes troglodytes", "Parus major", "turdus MERULA"] if i == 1 else [""])
                    for i, q in enumerate("BACE", 1)]
    site.entries += [entry(site, 5, file=""), entry(site, 6, lic=None), entry(site, 7, lic="https://creativecommons.org/publicdomain/zero/1.0/"),
                     entry(site, 8, "Troglodytes troglodytes", q="no score", lat=None, lon="", length="x", also=None, rec="Bo Marsh")]
    site.files = {f"/sound/{i}": sound() for i in range(1, 9)}
    return site


@pytest.fixture
def inat(site, monkeypatch):
    "iNaturalist with five sounds of a frog in pages of two; one has no licence, one observation stops at the genus."
    monkeypatch.setattr(inaturalist, "BASE", site.base + "/inat")
    monkeypatch.setattr(inaturalist, "PER_S", 1e4)
    monkeypatch.setattr(inaturalist, "PER_PAGE", 2)
    site.entries = [observation(site, 10), observation(site, 20, licence=None), observation(site, 30, licence="cc0"),
                    observation(site, 40, location=None, geojson=dict(coordinates=[-45., -22.])), observation(site, 50, sounds=[])]
    site.files = {f"/sound/{i}.wav": sound() for i in range(10, 60, 10)}
    return site


# --- Pace

def test_requests_keep_their_distance():
    clock = FakeClock()
    pace = fetch.Pace(2., now=clock.now, sleep=clock.sleep)
    for _ in range(3): pace.wait()
    clock.time += .4
    pace.wait()
    assert np.allclose(clock.slept, [.5, .5, .1])              # The first goes at once; work in between counts
    pace.pause(30)
    pace.wait()
    assert np.isclose(clock.slept[-1], 30)


def test_threads_share_one_pace():
    clock = FakeClock()
    pace = fetch.Pace(1., now=clock.now, sleep=clock.sleep)
    threads = [threading.Thread(target=pace.wait) for _ in range(5)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert np.isclose(clock.time - 100, 4)


def test_another_process_knows_what_was_fetched(tmp_path):
    clock = FakeClock()
    start = lambda: fetch.Pace(1e9, 100, 60, tmp_path / "paid.json", now=clock.now, sleep=clock.sleep)
    start().spend(6500)
    start().wait()
    assert sum(clock.slept) == pytest.approx(5, abs=1)
    assert inaturalist.session(tmp_path).pace.kept == tmp_path / "paid.json"


def test_bytes_are_paid_for():
    clock = FakeClock()
    pace = fetch.Pace(1e9, bytes_per_s=100, burst_s=60, now=clock.now, sleep=clock.sleep)
    pace.spend(6000)
    pace.wait()
    assert sum(clock.slept) == 0                               # A minute's worth of bytes may be fetched ahead
    pace.spend(500)
    pace.wait()
    assert np.isclose(sum(clock.slept), 5)
    clock.time += 1e4
    pace.spend(6000)
    pace.wait()
    assert np.isclose(sum(clock.slept), 5)                     # The bucket is full again


def test_inaturalist_stays_below_its_limits_of_media():
    pace = inaturalist.session().pace
    burst = pace.bytes_per_s * pace.burst_s
    assert burst + 3600 * pace.bytes_per_s < 5e9 and burst + 86_400 * pace.bytes_per_s <= 24.01e9 and pace.per_s == 1


# --- Session

def test_a_page_is_asked_once_a_day(site, tmp_path):
    site.entries = []
    ask = lambda **params: session(site, secret=dict(key=KEY), pages=tmp_path)[0].json(dict(query="sp:x", page=1) | params)
    assert ask() == ask() == ask() and len(site.asked) == 1
    for page in tmp_path.iterdir(): os.utime(page, (time.time() - fetch.DAY_S - 60,) * 2)
    ask()
    assert len(site.asked) == 2
    ask(page=2)
    assert len(site.asked) == 3
    assert site.asked[0][2]["User-Agent"].startswith("birdkit/") and "https://" in site.asked[0][2]["User-Agent"]
    assert not any(KEY in page.name + page.read_text() for page in tmp_path.iterdir())
    session(site, secret=dict(key="another"), pages=tmp_path)[0].json(dict(query="sp:x", page=2))
    assert len(site.asked) == 3                                # The key is no part of a page's name


def test_a_busy_site_is_given_the_pause_it_asks_for(site):
    site.entries = []
    site.script = [(429, {"Retry-After": "42"}, b""), (503, {"Retry-After": formatdate(time.time() + 90, usegmt=True)}, b""), (500, {}, b"")]
    asking, clock = session(site, secret=dict(key=KEY))
    assert asking.json(dict(query="sp:x", page=1))["recordings"] == []
    assert len(site.asked) == 4 and clock.slept[0] == 42 and 85 < clock.slept[1] <= 90 and 4 <= clock.slept[2] <= 6


def test_pauses_grow_and_end(site):
    site.script = [(500, {}, b"")] * 9
    asking, clock = session(site, tries=4)
    with pytest.raises(KitError, match="failed 4 times .HTTP 500.: check the network and run the same command again"): asking.json({})
    assert len(site.asked) == 4 and [int(s / 2 ** i) for i, s in enumerate(clock.slept)] == [1, 1, 1]


def test_a_site_that_wants_no_more_ends_the_run(site):
    site.script = [(429, {"Retry-After": "7200"}, b"")]
    with pytest.raises(fetch.Unreachable, match="asks for a pause of 7200 s .HTTP 429."): session(site)[0].json({})
    site.script = [(503, {}, b"")] * 9
    with pytest.raises(fetch.Unreachable, match="HTTP 503"): session(site)[0].json({})


def test_refusals_are_one_line_without_the_key(site):
    ask = lambda key, **params: session(site, secret=dict(key=key), key_name="XENO_CANTO_KEY")[0].json(params)
    with pytest.raises(KitError) as wrong: ask("typo", query="sp:x")
    assert "HTTP 401, Missing or invalid 'key' parameter.): set the environment variable XENO_CANTO_KEY to a valid key" in str(wrong.value)
    with pytest.raises(KitError) as untagged: ask(KEY, query="x")
    assert "HTTP 400, tags only, <key>" in str(untagged.value)
    for error in (wrong, untagged): assert "\n" not in str(error.value) and KEY not in str(error.value) and "typo" not in str(error.value)
    assert len(site.asked) == 2                                # An answer that will not change is not asked for again
    assert KEY not in repr(session(site, secret=dict(key=KEY))[0])


def test_no_network():
    clock = FakeClock()
    away = fetch.Session("http://127.0.0.1:9/xc", fetch.Pace(now=clock.now, sleep=clock.sleep), secret=dict(key=KEY))
    with pytest.raises(fetch.Unreachable, match="127.0.0.1:9 failed 5 times .*check the network") as error: away.json({})
    assert KEY not in str(error.value)


def test_a_page_that_is_no_json_is_asked_for_again(site, tmp_path):
    site.script = [(200, {}, page) for page in (b"<html>maintenance</html>", b"null", b"[" * 100_000, b'{"recordings": []}')]
    assert session(site)[0].json({}) == dict(recordings=[]) and len(site.asked) == 4
    site.script = [(200, {}, b"null")] * 5
    with pytest.raises(KitError, match="failed 5 times .what came is not a page of JSON"): session(site, pages=tmp_path)[0].json({})
    assert not list(tmp_path.iterdir())                        # What is no page is not kept for a day


# --- Files

def test_a_cut_file_goes_on_where_it_stopped(site, tmp_path):
    site.files["/a b.wav"], site.cut["/a b.wav"] = sound(2.), 9000
    getting, _ = session(site)
    path = getting.file(f"{site.base}/a b.wav", tmp_path / "deep" / "a.wav")
    assert path.read_bytes() == sound(2.) and [p.name for p in path.parent.iterdir()] == ["a.wav"]
    assert [headers.get("Range") for *_, headers in site.asked] == [None, "bytes=9000-"]
    getting.file(f"{site.base}/a b.wav", path)
    assert len(site.asked) == 2


def test_a_part_of_an_earlier_run_goes_on(site, tmp_path):
    site.files["/a"] = data = sound(1.)
    (tmp_path / "a.part").write_bytes(data[:5000])
    assert session(site)[0].file(f"{site.base}/a", tmp_path / "a").read_bytes() == data
    assert site.asked[0][2]["Range"] == "bytes=5000-"


def test_a_part_longer_than_the_file_begins_again(site, tmp_path):
    site.files["/a"] = b"short"
    (tmp_path / "a.part").write_bytes(b"much longer")
    assert session(site)[0].file(f"{site.base}/a", tmp_path / "a").read_bytes() == b"short"


def test_a_site_without_ranges_sends_all_again(site, tmp_path):
    (tmp_path / "a.part").write_bytes(b"xxx")
    site.script = [(200, {}, b"whole")]
    assert session(site)[0].file(f"{site.base}/a", tmp_path / "a").read_bytes() == b"whole"


def test_a_file_is_never_there_in_part(site, tmp_path):
    site.files["/a"] = sound(1.)
    getting, _ = session(site, tries=1)
    site.cut["/a"] = 5000
    with pytest.raises(KitError, match=r"/a failed 1 times \(5000 of 64044 bytes came\)"): getting.file(f"{site.base}/a", tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.part"]


def test_only_web_addresses_are_fetched(site, tmp_path):
    with pytest.raises(KitError, match="is not a web address"): session(site)[0].file("file:///etc/hostname", tmp_path / "a")
    with pytest.raises(KitError, match="/no is not there .HTTP 404.: it was removed or is restricted"):
        session(site)[0].file(f"{site.base}/no", tmp_path / "a")


@pytest.mark.parametrize("address, reason", [
    ("http://127.0.0.1:9/1.wav", "failed 5 times"), ("http://[::1/1.wav", "failed 5 times"),
    ("http://a..b/1.wav", "is not a web address (encoding with 'idna'"), ("http://a:b/1.wav", "is not a web address (nonnumeric port: 'b'): leave it out")])
def test_a_bad_address_concerns_one_file(site, tmp_path, address, reason):
    site.files = {"/2.wav": sound()}
    table = pd.DataFrame(dict(filename=["owl/1.ogg", "owl/2.ogg"], original=["1.wav", "2.wav"], download_url=[address, f"{site.base}/2.wav"]))
    assert fetch.download(table, tmp_path, session(site)[0], workers=1).filename.tolist() == ["owl/2.ogg"]
    failed = read_table(tmp_path / fetch.FAILED, "")
    assert failed.filename.tolist() == ["owl/1.ogg"] and reason in failed.reason[0]
    site.server.shutdown()
    site.server.server_close()
    away = table.assign(filename="owl/3.ogg", download_url="http://127.0.0.1:9/3.wav").head(1)
    with pytest.raises(fetch.Unreachable): fetch.download(away, tmp_path, session(site)[0], workers=1)   # The search's own host is gone, too


def test_a_length_that_is_no_number_says_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"whole")
    for length in ("abc", "-5", "", None): fetch._check_size(tmp_path / "a", 0, length)


# --- Conversion

def test_recordings_become_mono_at_32_khz(tmp_path):
    (tmp_path / "a").write_bytes(sound(3., 44_100, "WAV", 2))
    fetch.convert(tmp_path / "a", tmp_path / "whole.ogg")
    fetch.convert(tmp_path / "a", tmp_path / "cut.ogg", 1.5)
    info = sf.info(tmp_path / "whole.ogg")
    assert (info.samplerate, info.channels, info.subtype) == (SR, 1, "VORBIS")
    assert [len(decode(tmp_path / f"{name}.ogg").samples) for name in ("whole", "cut")] == [3 * SR, 1.5 * SR]


def test_m4a_needs_ffmpeg(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A and more")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KitError, match="a.m4a is m4a, which soundfile does not read: install ffmpeg"):
        fetch.convert(tmp_path / "a.m4a", tmp_path / "a.ogg")
    (tmp_path / "real.wav").write_bytes(sound(1.))
    (tmp_path / "ffmpeg").write_text(f"#!/bin/sh\nfor out; do :; done\n/bin/cp {tmp_path}/real.wav \"$out\"\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    fetch.convert(tmp_path / "a.m4a", tmp_path / "a.ogg")
    assert len(decode(tmp_path / "a.ogg").samples) == SR and not list(tmp_path.glob("*.m4a.wav"))
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\necho moov atom not found >&2\nexit 1\n")
    with pytest.raises(KitError, match="a.m4a is not readable by ffmpeg .moov atom not found."):
        fetch.convert(tmp_path / "a.m4a", tmp_path / "b.ogg")
    assert not (tmp_path / "b.ogg").exists()


# --- What was found

def test_licences_have_one_spelling(capsys):
    names = {"//creativecommons.org/licenses/by-nc-sa/4.0/": "cc-by-nc-sa 4.0", "https://creativecommons.org/publicdomain/zero/1.0/": "cc0 1.0",
             "cc-by-nc": "cc-by-nc", "CC0": "cc0", None: "", "https://creativecommons.org/publicdomain/mark/1.0/": "pdm 1.0"}
    assert [found.licence_name(x) for x in names] == list(names.values())
    assert found.usable("cc-by 4.0") and not found.usable("") and found.usable("", unlicensed=True)
    asked = lambda *names: found.options("").parse_args(["--licences", *names]).licences
    assert asked("cc-by-nc-sa 4.0", "CC0", "https://creativecommons.org/licenses/by/4.0/") == ["cc-by-nc-sa", "cc0", "cc-by"]
    with pytest.raises(SystemExit): asked("CC-BY-NC-SA-4.0")
    assert "licence 'cc-by-nc-sa-4.0' is unknown; did you mean cc-by-nc-sa" in capsys.readouterr().err
    assert found.usable("cc-by 4.0", ["cc-by"]) and not found.usable("cc-by-nc 4.0", ["cc-by"]) and not found.usable("", ["cc-by"])


def test_names_and_codes_are_read(tmp_path):
    (tmp_path / "names.txt").write_text("# birds\nTurdus merula\n\n Parus major \n")
    (tmp_path / "names.csv").write_text("scientific_name,x\nParus major,1\nStrix aluco,2\n")
    names = found.read_names([str(tmp_path / "names.txt"), str(tmp_path / "names.csv"), "Boana faber"])
    assert names == ["Turdus merula", "Parus major", "Strix aluco", "Boana faber"]
    with pytest.raises(KitError, match="gone.txt is missing: give a file of scientific names"): found.read_names([str(tmp_path / "gone.txt")])
    (tmp_path / "taxonomy.csv").write_text("primary_label,inat_taxon_id,scientific_name\neurbla,12716,Turdus merula\nboafab,23426,Boana faber\n")
    (tmp_path / "renamed.csv").write_text("old,new\nHyla faber,Boana faber\n")
    codes = found.read_codes(tmp_path / "taxonomy.csv", tmp_path / "renamed.csv")
    species = [("Turdus merula", "", ("Hyla faber", "Unheard of")), ("Hyla faber", "", ()), ("Other name", "23426", ("Parus major", "Other name")),
               ("Parus major", "", ()), ("Strix aluco", "19992", ())]
    rows = [dict.fromkeys(found.FOUND_COLUMNS, "") | dict.fromkeys(found.NUMBERS, 0) | dict(
        filename=f"{i}.ogg", scientific_name=name, inat_taxon_id=taxon, secondary_labels=also) for i, (name, taxon, also) in enumerate(species)]
    table = found.give_labels(found.found_table(rows), codes)
    assert table.primary_label.tolist() == ["eurbla", "boafab", "boafab", "parus_major", "19992"]
    assert table.secondary_labels.tolist() == [("boafab",), (), ("parus_major",), (), ()]
    assert table.inat_taxon_id.tolist() == ["12716", "23426", "23426", "", "19992"]
    assert table.filename[0] == "eurbla/0.ogg"


def test_a_species_is_known_by_all_its_names(tmp_path):
    (tmp_path / "renamed.csv").write_text("old,new\nHyla faber,Hypsiboas faber\nHypsiboas faber,Boana faber\nHyla alba,Boana alba\n")
    names = pd.DataFrame(dict(primary_label="", inat_taxon_id="", scientific_name=["Hyla faber", "Hypsiboas faber", "Boana faber", "Hyla alba"]), dtype=object)
    for known in ("Hyla faber", "Hypsiboas faber", "Boana faber"):
        (tmp_path / "codes.csv").write_text(f"primary_label,scientific_name\nboafab,{known}\nowl1,Strix aluco\n")
        codes = found.read_codes(tmp_path / "codes.csv", tmp_path / "renamed.csv")
        assert found.match_taxa(names, codes).to.tolist() == ["boafab"] * 3 + [""] and codes.scientific_name.is_unique


def test_a_second_table_tells_what_the_first_does_not_know(tmp_path):
    (tmp_path / "codes.csv").write_text("primary_label,inat_taxon_id,scientific_name\neurbla,12716,Turdus merula\nboafab,,Boana faber\n")
    (tmp_path / "own.csv").write_text("primary_label,inat_taxon_id,scientific_name\nturdus_merula,,Turdus merula\n12716,12716,Merula vulgaris\n"
                                      "23426,23426,Hyla faber\nboafab,,Other name\nparmaj,,Parus major\n")
    (tmp_path / "renamed.csv").write_text("old,new\nHyla faber,Boana faber\n")
    assert found.read_codes(tmp_path / "codes.csv", more=tmp_path / "own.csv").primary_label.tolist() == ["eurbla", "boafab", "23426", "parmaj"]
    codes = found.read_codes(tmp_path / "codes.csv", tmp_path / "renamed.csv", tmp_path / "own.csv")
    assert codes[["primary_label", "scientific_name"]].values.tolist() == [
        ["boafab", "hyla faber"], ["eurbla", "Turdus merula"], ["boafab", "Boana faber"], ["parmaj", "Parus major"]]


def test_labels_stay_inside(tmp_path):
    row = dict.fromkeys(found.FOUND_COLUMNS, "") | dict.fromkeys(found.NUMBERS, 0) | dict(filename="XC2.ogg", scientific_name="Ёж ёж", secondary_labels=())
    label = lambda **more: found.give_labels(found.found_table([row | more])).filename[0]
    assert label() == "species_e2fdb672/XC2.ogg" and label(scientific_name="Ёж уж") != label()     # names without Latin letters
    with pytest.raises(KitError, match="what was found, row 2: filename '../../x/XC2.ogg' is empty in part or leads out of"): label(inat_taxon_id="../../x")
    codes = tmp_path / "codes.csv"
    for outside in ("../../ESC2", "/ESC2", "a/..", "..", "a//b", "C:ESC2", "..\\ESC2"):
        codes.write_text(f"primary_label,scientific_name,rank\n,Aves,class\n{outside},Turdus merula,species\n")
        with pytest.raises(KitError) as error: found.read_codes(codes)
        assert f"codes.csv, row 3: primary_label {outside!r} is empty in part or leads out of train_audio: correct it" in str(error.value)


# --- xeno-canto

def test_xeno_canto_asks_in_tags():
    assert xeno_canto.query("Turdus merula", "", "Costa Rica", (-5, -80.5, 13, -66)) == 'sp:"turdus merula" cnt:"Costa Rica" box:-5,-80.5,13,-66'
    assert xeno_canto.query(group="frogs") == 'grp:"frogs"'


def test_xeno_canto_search(xc):
    table = xeno_canto.search(["Turdus merula", "Troglodytes troglodytes"])
    asked = [(query["query"], query["page"], query["per_page"]) for _, query, _ in xc.asked]
    assert asked == [*(('sp:"turdus merula"', str(i), "500") for i in (1, 2, 3)), ('sp:"troglodytes troglodytes"', "1", "500")]
    assert list(table.columns) == found.FOUND_COLUMNS and list(table.columns[:len(RECORDING_COLUMNS)]) == RECORDING_COLUMNS
    assert table.filename.tolist() == [f"turdus_merula/XC{i}.ogg" for i in (1, 2, 3, 4, 7)] + ["troglodytes_troglodytes/XC8.ogg"]
    assert table.rating.tolist() == [4, 5, 3, 1, 4, 0] and table.license.tolist() == ["cc-by-nc-sa 4.0"] * 4 + ["cc0 1.0", "cc-by-nc-sa 4.0"]
    first, last = table.iloc[0], table.iloc[-1]
    assert first.secondary_labels == ("troglodytes_troglodytes",) and first.type == "['song', 'call']" and first.class_name == "Aves"
    assert (first.latitude, first.longitude, first.author, first.original, first.duration_s) == (4.5, -74.1, "Ada Fern", "XC1.mp3", 1)
    assert first.url == "https://xeno-canto.org/1"
    assert np.isnan([last.latitude, last.longitude, last.duration_s]).all()


def test_xeno_canto_keeps_what_is_asked_for(xc):
    ids = lambda **options: [name.split("XC")[1] for name in xeno_canto.search(["Turdus merula"], **options).filename]
    assert ids(quality="B") == ["1.ogg", "2.ogg", "7.ogg"]
    assert ids(most=2) == ["2.ogg", "1.ogg"]                   # The best first
    assert ids(licences=["cc0"]) == ["7.ogg"]
    assert ids(unlicensed=True) == [f"{i}.ogg" for i in (1, 2, 3, 4, 6, 7)]
    assert ids(longest_s=.5) == []
    assert len(xeno_canto.search(groups=["birds"])) == 6
    assert xeno_canto._length_s("1:02:03") == 3723
    xc.entries += [entry(xc, 9, "Mystery mystery"), entry(xc, 10, "Sonus naturalis", grp="soundscape"), entry(xc, 11, file="//example.org/11")]
    more = xeno_canto.search(groups=["birds", "bats"], licences=["cc-by-nc-sa"])
    assert sorted(more.filename.str.split("XC").str[1]) == [f"{i}.ogg" for i in (1, 11, 2, 3, 4, 8)]
    assert [xeno_canto._row(x) is None for x in xc.entries[-3:]] == [True, True, False]
    assert xeno_canto._row(xc.entries[-1])["download_url"] == "https://example.org/11"


def test_xeno_canto_tells_what_it_needs(xc, monkeypatch):
    with pytest.raises(KitError, match="quality 'F' is none of A, B, C, D, E"): xeno_canto.search(["x"], quality="F")
    with pytest.raises(KitError, match="give --species or --groups"): xeno_canto.search()
    monkeypatch.setenv(xeno_canto.KEY, "")
    with pytest.raises(KitError, match="environment variable XENO_CANTO_KEY is not set: your account's page"): xeno_canto.search(["x"])


def test_xeno_canto_collection(xc, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--species", "Turdus merula", "Troglodytes troglodytes", "--out", str(out)]
    xeno_canto.main([*command, "--dry-run"])
    told = capsys.readouterr().out
    assert "recordings: 6 of 2 species by 2 recordists" in told and "cc-by-nc-sa 4.0 (5), cc0 1.0 (1)" in told and "not stated for 1;" in told
    assert not (out / "train_audio").exists() and not xc.paths("/sound")
    xeno_canto.main(command)
    comp = Competition.find(str(out))
    assert comp.classes == ["troglodytes_troglodytes", "turdus_merula"] and len(comp.recordings) == 6 and not comp.notes
    first = comp.recordings.set_index("filename").loc["turdus_merula/XC1.ogg"]
    assert (first.secondary_labels, first.author, first.url) == (("troglodytes_troglodytes",), "Ada Fern", "https://xeno-canto.org/1")
    assert first.license == "cc-by-nc-sa 4.0"
    credit = read_table(out / "ATTRIBUTION.csv", "fetch again")
    assert set(credit.author) == {"Ada Fern", "Bo Marsh"} and credit.license.notna().all()
    assert all(len(decode(comp.audio / name).samples) == SR for name in comp.recordings.filename)
    assert not list(out.glob("originals/*")) and not (out / fetch.FAILED).exists()
    assert not any(KEY.encode() in p.read_bytes() for p in out.rglob("*") if p.is_file()) and KEY not in capsys.readouterr().out
    asked = len(xc.asked)
    xeno_canto.main(command)
    assert len(xc.asked) == asked == 4 + 6                     # Nothing is asked twice: four pages, six sounds
    assert "6 of 6 recordings are there already, as they were cut then: remove those that other --seconds" in capsys.readouterr().out


def test_options_of_the_command_reach_the_site(xc, tmp_path):
    where = "--groups birds --country Colombia --box -5 -80 13 -66 --dry-run".split()
    xeno_canto.main(["--species", "Turdus merula", *where, "--out", str(tmp_path / "a")])
    place = 'cnt:"Colombia" box:-5,-80,13,-66'
    assert {query["query"] for _, query, _ in xc.asked} == {f'sp:"turdus merula" {place}', f'grp:"birds" {place}'}


def test_synonyms_and_whole_recordings(xc, tmp_path):
    (tmp_path / "codes.csv").write_text("primary_label,scientific_name\neurbla,Merula merula\n")
    (tmp_path / "renamed.csv").write_text("old,new\nTurdus merula,Merula merula\n")
    more = ["--codes", str(tmp_path / "codes.csv"), "--synonyms", str(tmp_path / "renamed.csv"), "--seconds", "0"]
    xeno_canto.main(["--species", "Turdus merula", *more, "--out", str(tmp_path / "out")])
    comp = Competition.find(str(tmp_path / "out"))
    assert comp.classes == ["eurbla"] and {len(decode(comp.audio / name).samples) for name in comp.recordings.filename} == {SR}


def test_other_labels_in_a_second_run(xc, tmp_path):
    (tmp_path / "codes.csv").write_text("primary_label,scientific_name\neurbla,Turdus merula\n")
    command = ["--species", "Turdus merula", "Troglodytes troglodytes", "--out", str(tmp_path / "out")]
    xeno_canto.main(command)
    xeno_canto.main([*command, "--codes", str(tmp_path / "codes.csv")])
    comp = Competition.find(str(tmp_path / "out"))
    assert comp.classes == ["eurbla", "troglodytes_troglodytes"] and len(comp.recordings) == 6 and not comp.notes


def test_failures_are_listed_and_the_rest_goes_on(xc, tmp_path, capsys):
    xc.files["/sound/2"] = b"this is not sound" * 400
    del xc.files["/sound/3"]
    xeno_canto.main(["--species", "Turdus merula", "--out", str(tmp_path), "--originals"])
    failed = read_table(tmp_path / fetch.FAILED, "fetch again")
    assert failed.filename.tolist() == ["turdus_merula/XC2.ogg", "turdus_merula/XC3.ogg"]
    assert "XC2.mp3 is not readable as audio" in failed.reason[0] and "HTTP 404" in failed.reason[1]
    assert "2 recordings failed" in capsys.readouterr().out
    assert len(Competition.find(str(tmp_path)).recordings) == 3
    assert sorted(p.name for p in (tmp_path / "originals").iterdir()) == ["XC1.mp3", "XC4.mp3", "XC7.mp3"]
    xc.files |= {"/sound/2": sound(), "/sound/3": sound()}
    xeno_canto.main(["--species", "Turdus merula", "--out", str(tmp_path)])
    assert len(Competition.find(str(tmp_path)).recordings) == 5 and not (tmp_path / fetch.FAILED).exists()


def test_mistakes_are_one_line(xc, tmp_path, monkeypatch, capsys):
    for name, message in (("Nobody here", "nothing was found"), ("Turdus merula", "XENO_CANTO_KEY to a valid key")):
        if name == "Turdus merula": monkeypatch.setenv(xeno_canto.KEY, "wrong")
        with pytest.raises(SystemExit) as stop: xeno_canto.main(["--species", name, "--out", str(tmp_path)])
        told = capsys.readouterr().err
        assert stop.value.code == 1 and message in told and told.count("\n") == 1 and "wrong" not in told


def run_apart(site, out):
    "Start the script in another process."
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import fetch, xeno_canto; xeno_canto.BASE, xeno_canto.PER_S = sys.argv[2], 1e4; "
            "fetch.leave_on_interrupt(); xeno_canto.main(sys.argv[3:])")
    command = [sys.executable, "-c", code, str(DATA_PREP), f"{site.base}/xc", "--species", "Turdus merula", "--workers", "1", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on(xc, tmp_path, how):
    xc.slow_s = .1                                             # A sound of 64 kB takes more than a second
    run, part = run_apart(xc, tmp_path), tmp_path / "originals/XC2.mp3.part"
    while not part.exists() or part.stat().st_size < 8192:
        assert run.poll() is None, run.communicate()
        time.sleep(.005)
    run.send_signal(how)
    _, told = run.communicate(timeout=60)
    assert run.returncode == (130 if how == signal.SIGINT else -how)
    if how == signal.SIGINT: assert told.strip() == "stopped: the same command goes on from here"
    have = part.stat().st_size
    assert 0 < have < 64_044 and [p.name for p in tmp_path.rglob("*.ogg")] == ["XC1.ogg"] and not (tmp_path / "train.csv").exists()
    xc.slow_s = 0.
    xeno_canto.main(["--species", "Turdus merula", "--out", str(tmp_path)])
    assert xc.paths("/xc") == ["/xc"] * 3 and xc.paths("/sound").count("/sound/1") == 1
    assert [headers.get("Range") for path, _, headers in xc.asked if path == "/sound/2"] == [None, f"bytes={have}-"]
    assert len(Competition.find(str(tmp_path)).recordings) == 5 and len(decode(tmp_path / "train_audio/turdus_merula/XC2.ogg").samples) == SR


# --- iNaturalist

def test_a_file_without_a_decoder_is_not_fetched_again(inat, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    inat.entries = [observation(inat, 10), observation(inat, 30, sounds=[dict(id=31, file_url=f"{inat.base}/sound/30.m4a", license_code="cc0")])]
    inat.files["/sound/30.m4a"] = b"\0\0\0\x20ftypM4A and more"
    for _ in range(2): inaturalist.main(["--species", "Boana faber", "--out", str(tmp_path / "out")])
    assert sorted(inat.paths("/sound")) == ["/sound/10.wav", "/sound/30.m4a"] and "ffmpeg, which 1 of the files need" in capsys.readouterr().out
    other = inaturalist.search(["Boana faber"]).head(1)
    fetch.download(other, tmp_path / "out", inaturalist.session())
    assert read_table(tmp_path / "out" / fetch.FAILED, "").filename.tolist() == ["23426/iNat31.ogg"]   # Of the other search


def test_inaturalist_search(inat):
    table = inaturalist.search(["Boana faber"], box=(-30, -50, -20, -40))
    asked = [query for _, query, _ in inat.asked]
    assert [query["id_above"] for query in asked] == ["0", "20", "40"]
    assert asked[0] == dict(sounds="true", quality_grade="research", taxon_name="Boana faber", per_page="2", order_by="id", order="asc",
                            id_above="0", swlat="-30", swlng="-50", nelat="-20", nelng="-40")
    assert list(table.columns) == found.FOUND_COLUMNS and table.filename.tolist() == [f"23426/iNat{i}.ogg" for i in (17, 37, 47)]
    first = table.iloc[0]
    assert (first.primary_label, first.inat_taxon_id, first.class_name) == ("23426", "23426", "Amphibia")
    assert (first.author, first.license, first.secondary_labels) == ("ada", "cc-by-nc", ())
    assert (first.latitude, first.longitude, first.rating, first.original) == (-22.5, -45.25, 0, "iNat17.wav")
    assert first.url == "https://www.inaturalist.org/observations/10" and first.download_url.endswith("/sound/10.wav?123")
    assert table.latitude.tolist() == [-22.5, -22.5, -22.]


def test_inaturalist_keeps_what_is_asked_for(inat):
    ids = lambda *names, **options: inaturalist.search(names, **options).filename.str.split("iNat").str[1].tolist()
    assert ids("Boana faber", unlicensed=True) == ["17.ogg", "27.ogg", "37.ogg", "47.ogg"]
    assert ids("Boana faber", licences=["cc0"]) == ["37.ogg"]
    inat.asked.clear()
    assert ids("Boana faber", most=1) == ["17.ogg"] and len(inat.asked) == 1   # No more pages than needed
    owl = dict(id=9, min_species_taxon_id=8, name="Strix aluco sylvatica")
    inat.entries += [observation(inat, 60, taxon=dict(id=5, name="Strix")), observation(inat, 70, taxon=owl)]
    birds = inaturalist.search(["Aves"], most=2)
    assert birds.filename.tolist() == ["23426/iNat17.ogg", "23426/iNat37.ogg", "8/iNat77.ogg"] and birds.scientific_name.iloc[-1] == "Strix aluco"
    with pytest.raises(KitError, match="give --species"): inaturalist.search()


def test_two_sources_fill_one_collection(inat, tmp_path, monkeypatch):
    (tmp_path / "codes.csv").write_text("primary_label,scientific_name\nblafro1,Boana faber\n")
    where = ["--box", "-30", "-50", "-20", "-40", "--out", str(tmp_path / "out")]
    inaturalist.main(["--species", "Boana faber", *where, "--codes", str(tmp_path / "codes.csv")])
    inat.entries = [entry(inat, 1, "Boana faber", grp="frogs")]
    inat.files["/sound/1"] = sound(2.)
    monkeypatch.setattr(xeno_canto, "BASE", inat.base + "/xc")
    monkeypatch.setenv(xeno_canto.KEY, KEY)
    xeno_canto.main(["--species", "Boana faber", "--seconds", "1.5", "--out", str(tmp_path / "out")])
    comp = Competition.find(str(tmp_path / "out"))
    assert comp.classes == ["blafro1"] and sorted(comp.recordings.collection) == ["XC", "iNat", "iNat", "iNat"]
    assert len(decode(comp.audio / "blafro1/XC1.ogg").samples) == 1.5 * SR
    assert comp.taxonomy.iloc[0].tolist() == ["blafro1", "Boana faber", "Some Bird", "Amphibia"]
    assert pd.read_csv(comp.folder / "taxonomy.csv", dtype=str).inat_taxon_id.tolist() == ["23426"]


def test_two_sources_give_one_label_to_what_the_codes_do_not_know(inat, tmp_path, monkeypatch):
    (tmp_path / "codes.csv").write_text("primary_label,scientific_name\neurbla,Turdus merula\n")
    where = ["--species", "Boana faber", "--codes", str(tmp_path / "codes.csv"), "--out", str(tmp_path / "out")]
    inaturalist.main(where)
    inat.entries, inat.files["/sound/1"] = [entry(inat, 1, "Boana faber", grp="frogs")], sound()
    monkeypatch.setattr(xeno_canto, "BASE", inat.base + "/xc")
    monkeypatch.setenv(xeno_canto.KEY, KEY)
    xeno_canto.main(where)
    comp = Competition.find(str(tmp_path / "out"))
    assert comp.classes == ["23426"] and sorted(comp.recordings.collection) == ["XC", "iNat", "iNat", "iNat"]


@pytest.mark.parametrize("script", [xeno_canto, inaturalist])
def test_help(script, capsys):
    with pytest.raises(SystemExit) as stop: script.main(["--help"])
    told = capsys.readouterr().out
    assert stop.value.code == 0 and "--dry-run" in told and "One request a second" in told
