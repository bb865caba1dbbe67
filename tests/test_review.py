"The review sheet as a person uses it: in a browser, from file://, and back into 02_clean."
import json, os, re, shutil

import numpy as np
import pandas as pd
import pytest
from browser import DOWN, SPACE, UP, Browser, missing

from birdkit.audio import SR
from birdkit.core import KitError, read_table
from birdkit.page import review_page
from birdkit.review import apply_review, clip_weights, read_review, review_sheet

WILD = 'train_audio/wren/a, "b" </script>.ogg'
DOG, OWL, LATE = "train_audio/47144/1.ogg", "train_audio/owl/2.ogg", "train_audio/owl/3.ogg"
ORDER = [DOG, WILD, OWL, LATE]                # On the page: the rarest class first, then by label; #clip-1 to #clip-4
RECORDINGS = pd.DataFrame(dict(recording=[OWL, LATE, DOG, WILD], primary_label=["owl", "owl", "47144", "wren"],
                               duration_s=[4., 4., 2., 3.], rms_db=[-13.5, -16.5, -13.5, -20.25],
                               rating=[4.5, 0, np.nan, 3], common_name=["Tawny Owl", "Tawny Owl", None, "Wren"],
                               scientific_name=["Strix aluco", "Strix aluco", None, None]))
SEGMENTS = pd.DataFrame([[OWL, 0., 1., False, "speech"], [OWL, 1., 4., True, ""], [LATE, 0., 4., True, ""], [DOG, 0., 2., False, "duplicate of x, y"],
                         [WILD, 0., 3., True, ""]], columns=["recording", "start_s", "end_s", "keep", "reason"])
COLUMNS = ["recording", "primary_label", "duration_s", "rms_db", "kept_s", "reasons", "verdict", "weight", "drop_s"]
TIME = "document.getElementById('player').currentTime"
in_browser = pytest.mark.skipif(bool(missing()), reason=f"{missing()} missing: apt-get install chromium chromium-driver")


class Tones:
    "A store of whistles; the last two seconds of LATE are loud."
    def window(self, key, start=0, length=None):
        t = np.arange(int(SR * RECORDINGS.set_index("recording").duration_s[key])) / SR
        return (np.where((t > 2) | (key != LATE), .3, .01) * np.sin(2 * np.pi * 2000 * t)).astype("float32")


def write(folder, **options):
    "The pages of the sheet in a folder."
    return review_page(folder, SEGMENTS, RECORDINGS, Tones(), **options)


def facts(page):
    "The sheet inside a page."
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1])


# ---- Without a browser

def test_pages_hold_the_sheet(tmp_path):
    pages = write(tmp_path, per_page=3)
    clips = [clip for page in pages for kind in facts(page)["classes"] for clip in kind["clips"]]
    assert [[clip[c] for c in COLUMNS] for clip in clips] == review_sheet(SEGMENTS, RECORDINGS)[COLUMNS].values.tolist()
    assert [clip["recording"] for clip in clips] == ORDER
    assert all(clip["image"].startswith("data:image/webp;base64,") and clip["sound"].startswith("data:audio/ogg;base64,") for clip in clips)


def test_a_page_that_is_written_again_encodes_only_what_is_new(tmp_path, monkeypatch):
    class Kept(Tones):
        "A store with an index, as that of 01_prepare."
        folder, index = tmp_path / "store", pd.DataFrame(dict(size=1, mtime_ns=1, spans=""), index=RECORDINGS.recording)

    asked = []
    monkeypatch.setattr("birdkit.page.sound", lambda samples: asked.append(len(samples)) or "data:audio/ogg;base64,")
    write = lambda **options: review_page(tmp_path, SEGMENTS, RECORDINGS, Kept(), **options)[0].read_text()
    first = write()
    assert write() == first and len(asked) == len(RECORDINGS)
    Kept.index = Kept.index.assign(mtime_ns=[2] + [1] * (len(RECORDINGS) - 1))
    assert write() == first and len(asked) == len(RECORDINGS) + 1                  # one is another file now
    write(seconds=2.)
    assert len(asked) == 2 * len(RECORDINGS) + 1


def test_a_long_recording_stays_small(tmp_path):
    class Noise:
        def window(self, key, start=0, length=None): return np.random.default_rng(0).normal(0, .1, 90 * SR).astype("float32")

    one = RECORDINGS[:1].assign(duration_s=90.)
    page, = review_page(tmp_path, pd.DataFrame({"recording": [OWL], "start_s": [0.], "end_s": [90.], "keep": [True], "reason": [""]}), one, Noise())
    assert len(json.dumps(facts(page)["classes"])) < 55_000               # of noise, which is the worst case; recordings of birds have 40 kB at most


# ---- In Chromium

@pytest.fixture(scope="module")
def window(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "The sheet on one page."
    return write(tmp_path_factory.mktemp("made"), seconds=2.5)[0]


@pytest.fixture
def browser(window, made):
    "A browser 1200 px wide without downloads and memories; a test that leaves errors in its console fails."
    for file in window.folder.glob("review*"): file.unlink()
    window.look(1200)
    window.open(made)
    window.run("localStorage.clear()")
    yield window
    assert window.errors() == []


@pytest.fixture
def page(browser, made, tmp_path):
    "A copy of the page, open."
    path = shutil.copy(made, tmp_path / made.name)
    browser.open(path)
    return path


def download(browser, name="review.csv"):
    "Press the button; the file once it is there."
    browser.click("#download")
    browser.until(lambda: (browser.folder / name).exists())
    return browser.folder / name


def told(browser):
    "What the head of the page says."
    return browser.run("return document.getElementById('told').textContent + '; ' + document.getElementById('unsaved').textContent")


@in_browser
def test_verdicts_come_back(browser, page):
    browser.click("#clip-1 [data-verdict=keep]")
    browser.click("#clip-2 .choice [data-verdict=drop]")
    browser.drag("#clip-3 .picture", .3, .5)
    browser.fill("#clip-4 .weight", "0.5")
    assert told(browser) == "4 of 4 decided; 4 not downloaded yet"
    browser.open(page)                                                    # a reload forgets nothing
    assert told(browser) == "4 of 4 decided; 4 not downloaded yet"
    pressed = "return [...document.querySelectorAll('.choice [aria-pressed=true]')].map((button) => button.textContent)"
    assert browser.run(pressed) == ["Keep", "Drop", "Undecided", "Undecided"]
    file = download(browser)
    browser.open(page)
    assert told(browser) == "4 of 4 decided; "
    review = read_review(file)
    assert review[["recording", "verdict", "weight"]].values.tolist() == [[DOG, "keep", 1.], [WILD, "drop", 1.], [OWL, "", 1.], [LATE, "", .5]]
    assert review.drop_s[[0, 1, 3]].tolist() == ["", "", ""]
    start, end = map(float, review.drop_s[2].split("-"))
    assert abs(start - 1.2) < .03 and abs(end - 2) < .03                  # .3 and .5 of 4 s
    whole = read_table(file, "", keep_default_na=False)
    pd.testing.assert_frame_equal(whole[COLUMNS[:6]], review_sheet(SEGMENTS, RECORDINGS)[COLUMNS[:6]], check_dtype=False)
    done = apply_review(SEGMENTS, review, RECORDINGS)
    assert done[done.recording == OWL].values.tolist() == [[OWL, 0., 1., False, "speech"], [OWL, 1., start, True, ""],
                                                           [OWL, start, end, False, "review: drop"], [OWL, end, 4., True, ""]]
    assert done[done.recording.isin([DOG, WILD])].keep.tolist() == [True, False]
    assert clip_weights(RECORDINGS, review).weight.tolist() == [1, .5, 1, 1]


@in_browser
def test_the_second_download_counts(browser, page):
    browser.click("#clip-1 [data-verdict=keep]")
    os.utime(download(browser), (1, 1))
    browser.click("#clip-1 .choice [data-verdict='']")
    browser.click("#clip-2 .choice [data-verdict=drop]")
    download(browser, "review (1).csv")
    assert read_review(browser.folder / "review.csv").set_index("recording").verdict.to_dict() == {DOG: "", WILD: "drop", OWL: "", LATE: ""}


@in_browser
def test_sound_plays_and_the_cursor_follows(browser, page):
    browser.click("#clip-3 .play")
    browser.wait(f"document.getElementById('player').readyState >= 3 && {TIME} > .2")
    assert abs(browser.run("return document.getElementById('player').duration") - 2.5) < .05
    assert browser.run("return document.querySelector('#clip-3 .play').textContent") == "Pause"
    browser.press(SPACE)
    browser.wait("document.getElementById('player').paused")
    place, time = browser.run(f"return [parseFloat(document.querySelector('#clip-3 .cursor').style.left), {TIME}]")
    assert abs(place - 100 * time / 4) < 1
    browser.run("const player = document.getElementById('player'); window.held = player.play; player.play = () => Promise.resolve()")
    browser.drag("#clip-4 .picture", .75, .75)                            # a click at 3 s, of which 1.5 to 4 s can be heard
    browser.wait("document.getElementById('player').readyState >= 1")
    assert abs(browser.run(f"return {TIME}") - 1.5) < .05
    browser.run("window.held.call(document.getElementById('player'))")
    browser.wait("document.querySelectorAll('.playing').length == 1 && document.querySelector('#clip-4.playing')")
    browser.wait("document.getElementById('player').ended && !document.querySelector('.playing')")
    assert "1.5 to 4.0 s" in browser.run("return document.querySelector('#clip-4 .note').textContent")
    assert browser.run("return document.getElementById('deaf').hidden")


@in_browser
def test_keyboard_alone(browser, page):
    browser.press([DOWN, "k", DOWN, "d", DOWN])
    assert browser.run("return document.activeElement.id") == "clip-3"
    browser.press([UP, "u", DOWN, SPACE])
    browser.wait(f"{TIME} > .4")                                          # the player's clock may step back a little
    browser.press(["m"])
    marked = browser.run(f"return {TIME}")
    browser.wait(f"{TIME} > {marked + .5}")
    browser.press(["m", SPACE])
    mark = browser.run("return document.querySelector('#clip-3 .drop_s').value")
    start, end = map(float, mark.split("-"))
    assert .3 <= start < end - .3
    browser.fill("#clip-4 .drop_s", "1-2;1.5-9")                          # letters and digits typed into a field are no commands
    assert browser.run("return document.activeElement.id") == "clip-4"
    browser.click("#clip-3 .mark button")                                 # the cross takes a mark away
    review = read_review(download(browser))
    assert review.verdict.tolist() == ["keep", "", "", ""]
    assert review.drop_s.tolist() == ["", "", "", "1.0-4.0"]              # joined, and ended with the recording


@in_browser
def test_only_undecided(browser, page):
    seen = "[...document.querySelectorAll('.card, section')].filter((e) => e.offsetParent).map((e) => e.id || 'section')"
    browser.click("#clip-1 [data-verdict=keep]")
    browser.click("#clip-3 [data-verdict=keep]")
    browser.click("#filter")
    assert browser.run(f"return {seen}") == ["section", "clip-2", "section", "clip-3", "clip-4"]     # where one is, it stays
    browser.press([DOWN])
    assert browser.run(f"return {seen}") == ["section", "clip-2", "section", "clip-4"]


@in_browser
@pytest.mark.parametrize("field, text, warning", [(".drop_s", "2-1", "such as 1.2-3.4;7.0-8.0"), (".drop_s", "8-Jul", "in seconds"),
                                                  (".weight", "-1", "0 or more")])
def test_wrong_input_is_told_and_not_taken(browser, page, field, text, warning):
    browser.fill(f"#clip-2 {field}", text)
    assert warning in browser.run("return document.querySelector('#clip-2 .warn').textContent")
    assert browser.run("return document.querySelector('#clip-2 [aria-invalid=true]').value") == text
    assert told(browser).startswith("0 of 4")
    browser.fill(f"#clip-2 {field}", "0-1" if field == ".drop_s" else "2")
    assert browser.run("return document.querySelector('#clip-2 .warn').textContent + document.querySelectorAll('[aria-invalid]').length") == "0"
    assert told(browser).startswith("1 of 4")


@in_browser
def test_what_a_newer_file_says_counts(browser, page):
    browser.click("#clip-1 [data-verdict=keep]")
    file = download(browser)
    browser.click("#clip-2 .choice [data-verdict=drop]")                  # not in a file yet
    said = read_review(file)
    write(page.parent, seconds=2.5, review=said)                          # the next run of 02_clean
    browser.open(page)
    assert told(browser) == "2 of 4 decided; 1 not downloaded yet"
    write(page.parent, seconds=2.5, review=said.assign(verdict=["drop", "", "", ""]))      # somebody has changed the file
    browser.open(page)
    pressed = "document.querySelector('#clip-{} .choice [aria-pressed=true]').textContent"
    assert [browser.run("return " + pressed.format(i)) for i in (1, 2)] == ["Drop", "Drop"]


@in_browser
def test_a_mark_stays_with_the_part_that_was_heard(browser, page):
    browser.drag("#clip-3 .picture", .3, .5)
    other = RECORDINGS.assign(rms_db=RECORDINGS.rms_db - 3)
    review_page(page.parent, SEGMENTS, other, Tones(), seconds=2.5)
    browser.open(page)                                                    # 01_prepare keeps another part, as long
    assert told(browser) == "0 of 4 decided; "
    write(page.parent, seconds=2.5)
    browser.open(page)
    assert told(browser) == "1 of 4 decided; 1 not downloaded yet"
    review = read_review(download(browser))
    with pytest.raises(KitError, match="marked on another part of 1"): apply_review(SEGMENTS, review, other)


@in_browser
def test_a_mark_to_the_end_leaves_nothing_behind_it(browser, tmp_path):
    odd, rules = RECORDINGS[:1].assign(duration_s=4.014), SEGMENTS[:2].assign(end_s=[1., 4.014])
    browser.open(review_page(tmp_path, rules, odd, Tones())[0])
    browser.drag("#clip-1 .picture", .2, 1)                               # from .8 s, within the speech
    review = read_review(download(browser))
    assert review.drop_s[0].endswith("-4.014")
    assert not apply_review(rules, review, odd).keep.any()
    browser.fill("#clip-1 .drop_s", "1-2;2.25-3.1;3.2004-4")              # zeros at the end are not written
    assert browser.run("return document.querySelector('#clip-1 .drop_s').value") == "1.0-2.0;2.25-3.1;3.2-4.0"


@in_browser
def test_pages_are_linked_and_download_their_own_part(browser, tmp_path):
    first, second = write(tmp_path, per_page=3)
    browser.open(first)
    browser.click("#clip-1 [data-verdict=keep]")
    download(browser, "review-1.csv")
    browser.click("#sheet + nav a:nth-child(2)")
    browser.wait("location.pathname.endsWith('review-2.html') && document.querySelectorAll('.card').length == 1")
    browser.click("#clip-1 .choice [data-verdict=drop]")
    download(browser, "review-2.csv")
    assert read_review(browser.folder / "review.csv").set_index("recording").verdict.to_dict() == {DOG: "keep", WILD: "", OWL: "", LATE: "drop"}


@in_browser
def test_nothing_is_fetched_and_names_are_only_text(browser, page):
    assert browser.run("return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:')).length") == 0
    assert browser.run("return document.querySelector('#clip-2 h3').textContent") == WILD.split("/")[-1]
    titles = browser.run("return [...document.querySelectorAll('h2')].map((h) => h.textContent)")
    assert titles == ["47144 1 recording", "Wren wren · 1 recording", "Tawny Owl Strix aluco owl · 2 recordings"]
    assert browser.run("return [...document.querySelectorAll('.facts')].map((f) => f.textContent)") == \
        ["2.0 s · rules keep 0.0 s", "3.0 s · rated 3", "4.0 s · rated 4.5 · rules keep 3.0 s", "4.0 s · not rated"]
    assert browser.run("return document.querySelector('#clip-3 .note').textContent").startswith("Dropped by rules: 0.0–1.0 s speech.")
    rule = browser.run("const s = document.querySelector('#clip-3 .rule').style; return [s.left, s.width]")
    assert rule == ["0%", "25%"]


@in_browser
def test_without_memory_the_page_works_and_says_so(browser, page):
    script = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })"
    hook = browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
    browser.open(page)
    assert not browser.run("return document.getElementById('forgets').hidden")
    browser.click("#clip-1 [data-verdict=keep]")
    assert read_review(download(browser)).verdict[0] == "keep"
    browser.devtools("Page.removeScriptToEvaluateOnNewDocument", identifier=hook)


@in_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_telephone(browser, page, dark):
    browser.look(400, dark)
    browser.open(page)
    assert browser.run("return document.documentElement.scrollWidth") == 400
    controls = "[...document.querySelectorAll('button, .field input')].filter((e) => e.offsetParent)"
    assert browser.run(f"return {controls}.filter((e) => e.offsetHeight < 24 || e.offsetWidth < 24).length") == 0
    colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    ground, ink = (sum(map(int, re.findall(r"\d+", colour))) for colour in browser.run(colours))
    assert (ground < ink) == dark


@in_browser
def test_every_control_has_a_name(browser, page):
    tree = browser.devtools("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "spinbutton", "checkbox", "image", "article", "progressbar")
    controls = [node for node in tree if node.get("role", {}).get("value") in roles]
    assert len(controls) >= 4 * 8
    assert [node["role"]["value"] for node in controls if not node.get("name", {}).get("value")] == []
