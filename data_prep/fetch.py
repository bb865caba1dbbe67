"""HTTP manners that the scripts here share: a polite pace, retries, pages kept for a day, downloads that resume.

xeno_canto.py and inaturalist.py import it. A search asks the same page once in a day; a download goes on where it
was cut; a file appears whole or not at all, so that a script may be killed at any moment and run again.
"""
import hashlib, json, math, os, random, re, shutil, signal, subprocess, threading, time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException, InvalidURL
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd

from birdkit import __version__
from birdkit.audio import SR, decode, write_ogg
from birdkit.core import KitError, progress, read_json, read_table, write_json, write_table
from birdkit.threads import ahead

AGENT = f"birdkit/{__version__} (https://github.com/birdkit/birdkit)"
DAY_S = 86_400
PASSING = (408, 416, 429, 500, 502, 503, 504)   # HTTP answers that a later try may better
BUSY = (429, 503)                               # A site that goes on answering so wants no more requests
LONGEST_WAIT_S = 600                            # A site that asks for a longer pause is left alone
CHUNK = 16_384                                  # Bytes that are written at a time
FAILED = "failed.csv"
NEEDS_FFMPEG = "which soundfile does not read: install ffmpeg and run the same command again"


class Unreachable(KitError):
    "The site is out of reach or wants no more requests, which ends a run; other errors concern one file."


class NoDecoder(KitError):
    "A file is whole, but a program to read it is missing; it is kept for the next run."


@dataclass
class Pace:
    "When the next request may go, for all threads together; bytes are counted by a bucket that refills."
    per_s: float = 1.               # Requests per second
    bytes_per_s: float = math.inf   # Bytes per second in the long run
    burst_s: float = 0.             # Seconds' worth of bytes that may be fetched ahead of that
    kept: Path = None               # File by which later processes know what was fetched; None: none does
    now: object = time.monotonic    # Gives the time, s
    sleep: object = time.sleep      # Waits for some seconds

    def __post_init__(self):
        self.lock, self.next_s, self.paid_s = threading.Lock(), self.now(), self.now()
        if self.kept and self.kept.exists(): self.paid_s += min(max(0, read_json(self.kept, "fetch again") - time.time()), DAY_S)

    def wait(self):  # None
        "Wait for the turn of the next request."
        with self.lock:
            delay_s = max(self.next_s, self.paid_s - self.burst_s) - self.now()
            if delay_s > 0: self.sleep(delay_s)
            self.next_s = self.now() + 1 / self.per_s

    def pause(self,
        seconds,  # How long, s
    ):            # None
        "Send nothing for a while."
        with self.lock: self.next_s = max(self.next_s, self.now() + seconds)

    def spend(self,
        size,  # Bytes that were fetched
    ):         # None
        "Count what was fetched."
        with self.lock:
            self.paid_s = max(self.paid_s, self.now()) + size / self.bytes_per_s
            if self.kept: write_json(self.kept, time.time() + self.paid_s - self.now())


@dataclass
class Session:
    "Requests to one site."
    base: str                                               # Address of its search
    pace: Pace = field(default_factory=Pace)                # When requests may go
    secret: dict = field(default_factory=dict, repr=False)  # Parameters that are sent, but never told or stored
    key_name: str = ""                                      # Environment variable of the key, for errors
    pages: Path = None                                      # Folder of the pages kept for a day; None keeps none
    tries: int = 5                                          # Requests before a page or file is given up
    timeout_s: float = 60.                                  # Silence after which a connection is given up, s

    @property
    def host(self):  # Name of the site
        "The site's name, for messages."
        return urlsplit(self.base).netloc

    def json(self,
        params,  # Query parameters without the secret ones
    ):           # What the site answers, a dict
        "One page of a search; a page of the last day is not asked again."
        name = hashlib.sha256(f"{self.base}?{urlencode(sorted(params.items()))}".encode()).hexdigest()[:32]
        kept = self.pages and Path(self.pages) / f"{name}.json"
        if kept and kept.exists() and time.time() - kept.stat().st_mtime < DAY_S:
            return read_json(kept, "search again")
        page = self._persist(self.host, lambda: self._page(f"{self.base}?{urlencode(params | self.secret)}"))
        if kept: write_json(kept, page)
        return page

    def file(self,
        url,   # Where it is
        path,  # Where to; its unfinished part lies beside it as <name>.part
    ):         # The path
        "Fetch a file, whole or not at all; what an earlier try left is not fetched again."
        path, part = Path(path), Path(f"{path}.part")
        if path.exists(): return path
        if not url.lower().startswith(("http://", "https://")): raise KitError(f"{url!r} is not a web address: leave it out")
        part.parent.mkdir(parents=True, exist_ok=True)
        self._persist(url, lambda: self._rest(quote(url, safe=":/?&=%#,+;@"), part))
        part.replace(path)
        return path

    def _open(self, url, **headers):
        "The answer to a request."
        return urlopen(Request(url, headers={"User-Agent": AGENT, **headers}), timeout=self.timeout_s)

    def _page(self, url):
        "A page, decoded."
        with self._open(url, Accept="application/json") as answer: text = answer.read()
        try: page = json.loads(text)
        except (ValueError, RecursionError): page = None
        if not isinstance(page, dict): raise HTTPException("what came is not a page of JSON")
        return page

    def _rest(self, url, part):
        "Fetch what is missing of a file; HTTPException where it is still not whole."
        have = part.stat().st_size if part.exists() else 0
        try: answer = self._open(url, **({"Range": f"bytes={have}-"} if have else {}))
        except HTTPError as error:
            if error.code == 416: part.unlink(missing_ok=True)   # More is there than the site has: begin again
            raise
        with answer:
            goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            kept = have if goes_on else 0
            try:
                with part.open("ab" if goes_on else "wb") as file: shutil.copyfileobj(answer, file, CHUNK)
            finally: self.pace.spend(part.stat().st_size - kept)
        _check_size(part, kept, answer.headers.get("Content-Length"))

    def _persist(self, what, take):
        "Call `take` until it succeeds, with longer and longer pauses; KitError where it does not."
        for attempt in range(self.tries):
            self.pace.wait()
            try: return take()
            except HTTPError as error:
                if error.code not in PASSING: raise self._refusal(error, what) from None
                kind, reason, wait_s = Unreachable if error.code in BUSY else KitError, f"HTTP {error.code}", _retry_after_s(error.headers)
            except (InvalidURL, ValueError) as error: raise KitError(f"{what!r} is not a web address ({self._hide(error)}): leave it out") from None
            except URLError as error: kind, reason, wait_s = None, error.reason, 0
            except (OSError, HTTPException) as error: kind, reason, wait_s = KitError, str(error) or type(error).__name__, 0
            if wait_s > LONGEST_WAIT_S: raise Unreachable(f"{what} asks for a pause of {wait_s:.0f} s ({reason}): try again after it")
            self.pace.pause(max(wait_s, 2 ** attempt * random.uniform(1, 1.5)))
        raise (kind or self._away(what))(f"{what} failed {self.tries} times ({self._hide(reason)}): check the network and run the same command again")

    def _away(self, what):
        "The error for a host that is out of reach: it ends the run, but concerns one file where the search's own host answers."
        if self.host in what.split("/"): return Unreachable
        self.pace.wait()
        try: self._open(self.base).close()
        except HTTPError: pass
        except (OSError, HTTPException): return Unreachable
        return KitError

    def _refusal(self, error, what):
        "One line for an answer that will not change."
        told = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', error.read(4096).decode(errors="replace"))
        said = f"HTTP {error.code}" + (f", {self._hide(told[1])}" if told else "")
        if error.code in (401, 403) and self.secret:
            return KitError(f"{what} refuses ({said}): set the environment variable {self.key_name} to a valid key")
        if error.code in (404, 410): return KitError(f"{what} is not there ({said}): it was removed or is restricted")
        return KitError(f"{what} refuses ({said}): change what is asked for")

    def _hide(self, text):
        "A text without the key."
        for value in self.secret.values(): text = str(text).replace(value, "<key>")
        return text


def _check_size(part, kept, length):
    "HTTPException where a part is not as long as was promised; one that is too long is removed."
    size, whole = part.stat().st_size, kept + int(length) if (length or "").isdecimal() else None
    if whole is not None and size > whole: part.unlink()
    if not size or (whole is not None and size != whole): raise HTTPException(f"{size} of {whole or 'some'} bytes came")


def _retry_after_s(headers):
    "The pause a site asks for, s; 0 where it does not say."
    text = (headers.get("Retry-After") or "0").strip()
    if text.isdecimal(): return int(text)
    try: return max(0., parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError: return 0.


def key(
    name,  # Environment variable
    hint,  # Where to get one
):         # The key; KitError where it is not set
    "A key from the environment."
    if os.environ.get(name, "").strip(): return os.environ[name].strip()
    raise KitError(f"the environment variable {name} is not set: {hint}")


def convert(
    original,      # Sound file of any format; formats that soundfile does not read need ffmpeg on the path
    target,        # Where the OGG goes
    seconds=None,  # Keep this much from its beginning, s; None keeps all
):                 # The target
    "Write a recording as 32 kHz mono OGG, whole or not at all."
    return write_ogg(target, np.clip(_samples(Path(original), seconds), -1, 1))


def _samples(original, seconds):
    "Decode by soundfile, or by ffmpeg where that cannot (m4a, which most phones record)."
    try: return decode(original, seconds).samples
    except KitError:
        head = original.read_bytes()[:12]
        if head[4:8] != b"ftyp": raise
    if not shutil.which("ffmpeg"): raise NoDecoder(f"{original.name} is m4a, {NEEDS_FFMPEG}")
    wav = original.with_name(f"{original.name}.wav")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", original, "-ac", "1", "-ar", str(SR), wav]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    try:
        reason = "".join(done.stderr.strip().splitlines()[-1:])
        if done.returncode: raise KitError(f"{original.name} is not readable by ffmpeg ({reason}): fetch it again or leave it out")
        return decode(wav, seconds).samples
    finally: wav.unlink(missing_ok=True)


def download(
    table,            # Rows with filename, original and download_url
    folder,           # Collection folder; recordings go to train_audio/
    session,          # Session
    seconds=60.,      # Keep this much from the beginning of each recording, s; None keeps all
    workers=2,        # Downloads and conversions at a time; the pace is that of the session all the same
    originals=False,  # True keeps what was fetched in originals/
):                    # The rows whose recording is there
    "Fetch and convert what is not there yet; what fails is listed in failed.csv and tried again by the next run."
    folder = Path(folder)
    there = np.array([(folder / "train_audio" / name).exists() for name in table.filename], bool)
    todo = table[~there]
    if there.any(): print(f"{there.sum()} of {len(table)} recordings are there already, as they were cut then: "
                          "remove those that other --seconds or --originals shall fetch again", flush=True)
    job = lambda row: _fetch_one(row, folder, session, seconds, originals)
    reasons = list(progress(ahead(job, todo.itertuples(), workers), "download", len(todo)))
    failed = todo[["filename", "download_url"]].assign(reason=reasons)
    failed = failed[failed.reason != ""]
    if len(failed): print(f"{len(failed)} recordings failed, {folder / FAILED} tells why", flush=True)
    _list_failures(folder / FAILED, table, failed)
    return table[~table.filename.isin(failed.filename)]


def _list_failures(path, table, failed):
    "Write what failed, beside what failed in other searches; no file where nothing has."
    if path.exists():
        old = read_table(path, "remove it")
        failed = pd.concat([old[~old.filename.isin(table.filename)], failed])
    if len(failed): write_table(path, failed)
    else: path.unlink(missing_ok=True)


def _fetch_one(row, folder, session, seconds, originals):
    "Fetch and convert one recording; why it failed, or nothing."
    original = folder / "originals" / row.original
    try: convert(session.file(row.download_url, original), folder / "train_audio" / row.filename, seconds)
    except Unreachable: raise
    except NoDecoder as error: return str(error)
    except KitError as error:
        original.unlink(missing_ok=True)   # What cannot be read is fetched anew by the next run
        return str(error)
    if not originals: original.unlink()
    return ""


def leave_on_interrupt():  # None
    "Let Ctrl-C end the script at once: whatever is there is whole, and the same command goes on from it."
    def leave(*_):
        os.write(2, b"\nstopped: the same command goes on from here\n")
        os._exit(130)
    signal.signal(signal.SIGINT, leave)
