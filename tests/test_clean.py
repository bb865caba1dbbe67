"The cleaning rules on real files, in a recipe's chain, and in numbers."
import weakref
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import soxr
import torch
from synth import background, speech
from toys import toy_folder

from birdkit.audio import SR, decode
from birdkit.augment import apply_wave
from birdkit.batches import make_clips
from birdkit.clean import CLEAN, clean, clean_report, plot_segments
from birdkit.cleaning import Cleaning, lay_segments
from birdkit.competition import Competition
from birdkit.copies import _candidates, find_copies, fingerprint
from birdkit.core import Workspace
from birdkit.examples import MemoryStore
from birdkit.mixing import Sample
from birdkit.prepare import prepare
from birdkit.recipe import Recipe
from birdkit.speech import bank_waves, voice_bank

LISTENING = ("loudness", "speech", "silence", "silence_split", "duplicates")


class Counted:
    "A store of noise that counts how many recordings are in memory, and how often each is read."
    def __init__(self): self.alive, self.most, self.reads = 0, 0, Counter()
    def length(self, key): return 2 * SR

    def _freed(self): self.alive -= 1

    def window(self, key, start=0, length=None):
        x = np.random.default_rng(int(key)).normal(0, .1, 2 * SR).astype("float32")
        weakref.finalize(x, self._freed)
        self.alive += 1
        self.most = max(self.most, self.alive)
        self.reads[key] += 1
        return x


def noise_cleaning(n):
    "n recordings of 2 s."
    names = [str(i) for i in range(n)]
    table = pd.DataFrame(dict(recording=names, primary_label="wren", secondary_labels="", duration_s=2., rating=0.))
    return Cleaning(table, Counted(), ("wren",), np.ones((n, 1), "float32"))


@pytest.mark.parametrize("name", LISTENING)
def test_listening_keeps_no_samples(name, monkeypatch):
    monkeypatch.setattr("birdkit.threads.cores", lambda: 2)
    start = noise_cleaning(40)
    clean(start, [(name,)])
    assert set(start.store.reads.values()) == {1} and len(start.store.reads) == 40
    assert start.store.most <= 6, start.store.most


@pytest.mark.parametrize("name", sorted(CLEAN))
def test_every_rule_takes_no_recording_and_changes_nothing_in_place(name):
    none, some = noise_cleaning(0), noise_cleaning(3)
    assert len(clean(none, [(name,)]).drops) == 0
    before = some.recordings.copy(), some.targets.copy()
    clean(some, [(name,)])
    pd.testing.assert_frame_equal(some.recordings, before[0])
    assert (some.targets == before[1]).all() and len(some.drops) == 0 and some.notes == ()


def test_a_folder_goes_through_the_chain_of_the_recipe(tmp_path):
    toy_folder(tmp_path / "data", 2025, audio=True)
    data = prepare(Competition.find(str(tmp_path / "data")), Workspace.find(tmp_path / "work"))
    start = Cleaning.of(data, secondary=.5, seed=3)
    steps = [list(step) for step in Recipe("toy").data.clean] + [["rating", {"least": 2}], ["within", 4, 3]]     # as JSON holds them
    after = clean(start, steps)
    again = clean(start, steps)
    pd.testing.assert_frame_equal(after.drops, again.drops)
    segments = lay_segments(after)
    whole = segments.assign(s=segments.end_s - segments.start_s).groupby("recording").s.sum()
    np.testing.assert_allclose(whole[data.recordings.recording], data.recordings.duration_s, atol=1e-3)
    assert clean_report(segments, after.notes).seconds.sum() == pytest.approx(data.recordings.duration_s.sum(), abs=.5)
    assert len(make_clips(data, segments)) == len(data.recordings)


@pytest.mark.parametrize("rule", ["speech", "silence_split"])
def test_a_rule_that_was_stopped_hears_only_the_rest(tmp_path, monkeypatch, rule):
    toy_folder(tmp_path / "data", 2025, audio=True)
    comp, space = Competition.find(str(tmp_path / "data")), Workspace.find(tmp_path / "work")
    start, asked = Cleaning.of(prepare(comp, space)), []

    def detector(samples, most=np.inf):
        if len(asked) >= most: raise KeyboardInterrupt
        asked.append(len(samples))
        return np.tile(np.float32([.9] * 20 + [0] * 20), 50)[:-(-len(samples) // 1024)]

    monkeypatch.setattr("birdkit.threads.cores", lambda: 1)
    monkeypatch.setattr("birdkit.speech.speech_probs", lambda samples: detector(samples, 3))
    with pytest.raises(KeyboardInterrupt): clean(start, [(rule,)])
    monkeypatch.setattr("birdkit.speech.speech_probs", detector)
    whole = clean(start, [(rule,)]).drops
    assert len(asked) == len(start.recordings)                                     # three before the stop, each of the others after it
    pd.testing.assert_frame_equal(clean(start, [(rule,)]).drops, whole)
    assert len(asked) == len(start.recordings)

    other = {"speech": ("speech", {"pad_s": 0.}), "silence_split": ("silence_split", {"slack": .5})}[rule]
    clean(start, [other])
    assert len(asked) == 2 * len(start.recordings)                                 # other settings: all again
    changed = comp.folder / start.recordings.recording[0]
    sf.write(changed, np.random.default_rng(1).normal(0, .1, 6 * SR), SR)
    clean(Cleaning.of(prepare(comp, space)), [(rule,)])
    assert asked[2 * len(start.recordings):] == [6 * SR]                           # another sound: that one again


def test_segments_are_drawn_where_there_are_none(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    for n in (0, 20):
        plot_segments(lay_segments(noise_cleaning(n)))
        assert len(plt.gca().patches) == min(n, 12)
        plt.close("all")


def test_recordings_that_lose_a_part_are_drawn_before_those_dropped_whole(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    whole = [(f"x/whole{i}.ogg", 0., 60., False, "rating (2)") for i in range(12)]
    parts = [("x/part.ogg", 0., 3., True, ""), ("x/part.ogg", 3., 9., False, "speech")]
    plot_segments(pd.DataFrame(whole + parts, columns=["recording", "start_s", "end_s", "keep", "reason"]))
    names = [label.get_text() for label in plt.gca().get_yticklabels()]
    assert names[0] == "part.ogg" and len(names) == 12
    plt.close("all")


def test_voice_is_found_and_put_behind_other_clips():
    rng = np.random.default_rng(0)
    bed = lambda s: .02 * background(round(s * SR), {"wind": 0, "hiss": -15}, rng).astype("float32")
    sounds = MemoryStore({"talk": np.r_[.5 * speech(3., rng), np.zeros(2 * SR, "float32")] + bed(5), "calm": bed(5)})
    table = pd.DataFrame(dict(recording=list(sounds), primary_label="wren", secondary_labels="", duration_s=5.))
    after = clean(Cleaning(table, sounds, ("wren",), np.ones((2, 1), "float32")), [("speech",)])
    assert set(after.drops.recording) == {"talk"} and 2 < (after.drops.end_s - after.drops.start_s).sum() < 4
    bank = torch.from_numpy(bank_waves(voice_bank(lay_segments(after)), sounds, 5.))
    recipe = Recipe("toy").but({"augment.wave": (("add_bank", dict(p=1., snr_db=(10.5, 10.5))),)})
    clip = Sample(torch.from_numpy(sounds["calm"])[None] * 10, torch.ones(1, 1))
    mixed = apply_wave(clip, recipe.augment, torch.Generator().manual_seed(0), bank)
    voice = (mixed.x - clip.x).square().mean().sqrt() / clip.x.square().mean().sqrt()
    assert float(voice) == pytest.approx(.3, abs=.01)             # 30 % of a voice


def test_copies_are_found_in_another_codec_at_another_gain_and_rate(tmp_path):
    rng = np.random.default_rng(1)
    x = (.3 * np.concatenate([_bout(rng) for _ in range(4)])).astype("float32")
    slow = soxr.resample(x, SR, 22_050)
    sf.write(tmp_path / "a.flac", x, SR)
    sf.write(tmp_path / "b.mp3", .2 * x[3 * SR:], SR)
    sf.write(tmp_path / "c.wav", .7 * np.stack([slow, slow], 1), 22_050, subtype="PCM_16")
    sf.write(tmp_path / "d.flac", (.3 * np.concatenate([_bout(rng) for _ in range(4)])).astype("float32"), SR)
    found = find_copies([fingerprint(decode(tmp_path / name).samples) for name in ("a.flac", "b.mp3", "c.wav", "d.flac")])
    assert found[["i", "j"]].values.tolist() == [[0, 1], [0, 2], [1, 2]]
    np.testing.assert_allclose(found.offset_s, [3, 0, -3], atol=.1)


def _bout(rng):
    "Three seconds of whistles over noise."
    t = np.arange(3 * SR) / SR
    x = rng.normal(0, .01, len(t))
    for start in rng.uniform(0, 2.5, 5):
        u = np.clip((t - start) / rng.uniform(.1, .4), 0, 1)
        x += np.sin(np.pi * u) ** 2 * np.sin(2 * np.pi * (rng.uniform(1500, 5000) + rng.uniform(-800, 800) * u) * t)
    return x


def test_the_search_for_copies_grows_with_the_sound_and_not_with_its_square():
    rng = np.random.default_rng(2)
    hum = rng.integers(1, 2 ** 32, 50, dtype="uint32")
    def prints(n):
        some = [rng.integers(1, 2 ** 32, 300, dtype="uint32") for _ in range(n)]
        for p in some[::4]: p[:] = hum[rng.integers(0, 50, 300)]                # every fourth recording hums alike
        some[-1] = some[1][100:]
        return some
    few, many = prints(400), prints(1600)
    assert len(_candidates(many)) < 8 * len(_candidates(few)) + 100
    assert [1, 1599, 100] in _candidates(many).tolist()
    assert [1, 1599] in find_copies(many)[["i", "j"]].values.tolist()
