"""Sounds from parameters: invented animals, weather, rooms and a talking recordist, with numpy and scipy only."""
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.signal import oaconvolve

from birdkit.audio import SR

FRAME_S = .01   # s, resolution of "is it sounding?"


@dataclass(frozen=True)
class Note:
    "A syllable and how it is repeated within a song."
    start_hz: float              # Pitch at its start
    end_hz: float                # Pitch at its end; the sweep between is straight in octaves
    length_s: float              # Duration of one repeat
    count: tuple = (1, 1)        # Fewest and most repeats
    gap_s: float = .05           # Silence after each repeat
    bend: float = 0.             # How far the middle of the sweep arches upward, octaves
    tremble: tuple = (0., 0.)    # Frequency modulation: rate in Hz, depth in octaves
    pulse: tuple = (0., 0.)      # Amplitude modulation: rate in Hz, depth from 0 to 1
    partials: tuple = (1.,)      # Strength of the harmonics
    step: float = 1.             # Pitch ratio from one repeat to the next
    hurry: float = 1.            # Ratio of gap and length from one repeat to the next
    level_db: float = 0.         # Loudness against the other notes


@dataclass(frozen=True)
class Species:
    "An invented animal: what it is called and what it sings."
    label: str                   # primary_label
    scientific_name: str
    common_name: str
    class_name: str              # Aves, Amphibia or Insecta
    notes: tuple                 # Notes of its song, in order
    pause_s: tuple = (.8, 2.2)   # Shortest and longest silence between songs
    pick: int = 0                # Notes that an individual takes, in its own order; 0 takes all in the given order


@dataclass(frozen=True)
class Singer:
    "One individual of a species."
    notes: tuple                 # Its own notes
    pause_s: tuple               # Shortest and longest silence between its songs
    attack: float                # Share of a syllable that passes until it is loudest
    wobble: float                # Sd of the pitch from syllable to syllable, octaves


def individual(
    species,  # Species
    rng,      # numpy Generator
):            # Singer
    "Draw an individual: its pitch, tempo, envelope, and where the species allows it its notes and their order."
    pitch, tempo = 2 ** np.clip(rng.normal(0, .07), -.15, .15), np.exp(np.clip(rng.normal(0, .08), -.16, .16))
    notes = species.notes
    if species.pick: notes = [notes[i] for i in rng.permutation(len(notes))[:species.pick]]
    own = tuple(_own(note, pitch, tempo, rng) for note in notes)
    return Singer(own, species.pause_s, rng.uniform(.12, .5), rng.uniform(.004, .02))


def _own(note, pitch, tempo, rng):
    "An individual's version of a note."
    start, end = np.array([note.start_hz, note.end_hz]) * pitch * 2 ** rng.normal(0, .02, 2)
    length, gap, rate = np.exp(rng.normal(0, .06, 3)) * tempo
    return replace(note, start_hz=start, end_hz=end, length_s=note.length_s * length, gap_s=note.gap_s * gap,
                   tremble=(note.tremble[0] / rate, note.tremble[1]), pulse=(note.pulse[0] / rate, note.pulse[1]),
                   level_db=note.level_db + rng.normal(0, 1.5))


def syllable(
    note,         # Note
    attack=.3,    # Share of the duration that passes until it is loudest
    pitch=1.,     # Factor on all frequencies
    length_s=None,  # Duration, by default the note's
):                # (T,) float32
    "One syllable: a tone that sweeps, trembles, pulses and has harmonics."
    n = max(32, round((length_s or note.length_s) * SR))
    u, t = np.linspace(0, 1, n, dtype="float32"), np.arange(n, dtype="float32") / SR
    octaves = u * np.log2(note.end_hz / note.start_hz) + note.bend * 4 * u * (1 - u)
    octaves += note.tremble[1] * np.sin(2 * np.pi * note.tremble[0] * t)
    phase = 2 * np.pi * np.cumsum(note.start_hz * pitch * 2 ** octaves, dtype="float64") / SR
    tone = sum(a * np.sin(k * phase) for k, a in enumerate(note.partials, 1))
    rise = np.minimum(np.minimum(u / attack, (1 - u) / (1 - attack)), 1)
    pulses = 1 - note.pulse[1] * (.5 + .5 * np.cos(2 * np.pi * note.pulse[0] * t))
    return (10 ** (note.level_db / 20) * np.sin(np.pi / 2 * rise) * pulses * tone).astype("float32")


def song(
    singer,  # Singer
    rng,     # numpy Generator
):           # (T,) float32
    "One song: the notes one after another, each repeat a little different."
    pieces = []
    for note in singer.notes:
        for k in range(rng.integers(note.count[0], note.count[1] + 1)):
            pitch = note.step ** k * 2 ** rng.normal(0, singer.wobble)
            haste = note.hurry ** k * np.exp(rng.normal(0, .03))
            part = syllable(note, singer.attack, pitch, note.length_s * haste) * np.float32(np.exp(rng.normal(0, .12)))
            pieces += [part, np.zeros(round(note.gap_s * haste * SR), "float32")]
    return np.concatenate(pieces)


def bout(
    singer,   # Singer
    seconds,  # Duration, s
    rng,      # numpy Generator
):            # (T,) float32
    "Songs and pauses that fill a stretch; the last song may be cut off."
    n, pieces = round(seconds * SR), [np.zeros(int(rng.uniform(0, .6) * SR), "float32")]
    while sum(map(len, pieces)) < n:
        pieces += [song(singer, rng), np.zeros(int(rng.uniform(*singer.pause_s) * SR), "float32")]
    return np.concatenate(pieces)[:n]


def sounding(
    x,              # (T,) dry sound
    below_db=30,    # Silent where this far below the loudest frame, dB
):                  # (frames of 10 ms,) bool
    "In which frames of 10 ms does a sound sound?"
    hop = round(FRAME_S * SR)
    power = np.square(np.pad(x, (0, -len(x) % hop))).reshape(-1, hop).mean(1)
    return power > max(power.max(initial=0), 1e-12) * 10 ** (-below_db / 10)


def at_snr(
    x,       # (T,) the dry sound
    noise,   # (T,) what it is heard against
    snr_db,  # Ratio of powers within the sound's own band, while it sounds, dB
):           # (T,) `x`, scaled
    "Scale a sound to a signal-to-noise ratio in its own band, which holds 90 % of its power."
    n = fft.next_fast_len(len(x), real=True)
    sound, around = (np.square(np.abs(fft.rfft(v, n))) for v in (x, noise))
    total = np.cumsum(sound)
    lo, hi = np.searchsorted(total, [.05 * total[-1], .95 * total[-1]])
    ratio = sound[lo:hi + 1].sum() / max(sounding(x).mean(), .01) / max(around[lo:hi + 1].sum(), 1e-12)
    return x * np.float32(np.sqrt(10 ** (snr_db / 10) / max(ratio, 1e-12)))


@lru_cache(maxsize=16)
def _gains(n, curve):
    "Amplitude factors of n's rfft bins from a curve of (Hz, dB) points, straight in octaves."
    hz, db = np.array(curve, float).T
    f = np.maximum(fft.rfftfreq(n, 1 / SR), 1)
    coarse = np.geomspace(1, SR / 2, 512)
    return np.interp(f, coarse, 10 ** (np.interp(np.log2(coarse), np.log2(hz), db) / 20)).astype("float32")


def equalise(
    x,      # (T,)
    curve,  # Points (Hz, dB)
):          # (T,) float32
    "Pass a sound through a smooth frequency response."
    n = fft.next_fast_len(len(x), real=True)
    return fft.irfft(fft.rfft(x.astype("float32"), n) * _gains(n, tuple(curve)), n)[:len(x)]


def coloured(
    n,      # Samples
    curve,  # Points (Hz, dB)
    rng,    # numpy Generator
):          # (n,) float32 of RMS 1
    "Noise of a given spectrum."
    m = fft.next_fast_len(n, real=True)
    bins = rng.standard_normal((m // 2 + 1, 2), dtype="float32").view("complex64")[:, 0] * _gains(m, tuple(curve))
    x = fft.irfft(bins, m)[:n]
    return x / max(float(np.sqrt(np.mean(np.square(x)))), 1e-9)


def swell(
    n,         # Samples
    period_s,  # Time from one level to the next, s
    depth_db,  # Sd of the level, dB
    rng,       # numpy Generator
):             # (n,) float32 factors
    "A level that wanders."
    knots = rng.normal(0, depth_db, int(n / SR / period_s) + 3)
    coarse = np.interp(np.arange(0, n, 64) / SR / period_s, np.arange(len(knots)), knots)
    return (10 ** (coarse / 20)).astype("float32").repeat(64)[:n]


def wind(
    n,    # Samples
    rng,  # numpy Generator
):        # (n,) float32
    "Gusts: deep noise that swells."
    return coloured(n, [(40, 0), (200, -4), (1000, -18), (4000, -34), (16000, -50)], rng) * swell(n, 2.5, 4, rng)


def stream(
    n,    # Samples
    rng,  # numpy Generator
):        # (n,) float32
    "Running water: broad noise that ripples."
    return coloured(n, [(100, -18), (500, -3), (1800, 0), (5000, -9), (16000, -26)], rng) * swell(n, .2, 1.5, rng)


def rain(
    n,    # Samples
    rng,  # numpy Generator
):        # (n,) float32
    "Drops on leaves over a hiss."
    hits = np.zeros(n, "float32")
    count = rng.poisson(n / SR * rng.uniform(5, 25))
    hits[rng.integers(0, n, count)] = rng.exponential(1, count)
    t = np.arange(int(.02 * SR)) / SR
    drop = np.exp(-t / .004) * rng.standard_normal(len(t)) * 4
    hiss = coloured(n, [(200, -25), (2000, -4), (6000, 0), (16000, -8)], rng)
    return oaconvolve(hits, drop.astype("float32"))[:n] + hiss


def insects(
    n,    # Samples
    rng,  # numpy Generator
):        # (n,) float32
    "A distant chorus: two narrow bands above 9 kHz that tremble."
    t, (low, high) = np.arange(n, dtype="float32") / SR, (rng.uniform(9000, 10500), rng.uniform(11500, 13500))
    curve = [(low * .96, -60), (low, 0), (low * 1.04, -60), (high * .96, -60), (high, -6), (high * 1.04, -60)]
    return coloured(n, curve, rng) * (1 + np.float32(.7) * np.sin(np.float32(2 * np.pi * rng.uniform(8, 30)) * t))


def hiss(
    n,    # Samples
    rng,  # numpy Generator
):        # (n,) float32
    "The recorder's own noise."
    return coloured(n, [(50, 0), (1000, -3), (16000, 0)], rng)


WEATHER = dict(wind=wind, stream=stream, rain=rain, insects=insects, hiss=hiss)


def background(
    n,       # Samples
    levels,  # Level of each kind, {kind: dB}
    rng,     # numpy Generator
):           # (n,) float32
    "A mixture of weather, water and insects."
    return sum(np.float32(10 ** (db / 20)) * WEATHER[kind](n, rng) for kind, db in levels.items())


def reverberate(
    x,       # (T,)
    rt60_s,  # Time in which the echo falls by 60 dB, s
    wet_db,  # Power of the echo against the direct sound, dB
    rng,     # numpy Generator; the same state gives the same room
):           # (T,) float32
    "Add the echo of a place: noise that decays exponentially."
    t = np.arange(int(rt60_s * SR)) / SR
    tail = rng.standard_normal(len(t)) * 10 ** (-3 * t / rt60_s) * (t > .008)
    tail *= 10 ** (wet_db / 20) / np.sqrt(np.square(tail).sum())
    return x + oaconvolve(x, tail.astype("float32"))[:len(x)].astype("float32")


VOWELS = np.array([(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (660, 1720, 2410),
                   (570, 840, 2410), (440, 1020, 2240), (490, 1350, 1690)], float)   # First three formants, Hz


def _throat(f, formants):
    "Magnitude of the vocal tract at frequencies f, (partials, frames), formants (4, frames)."
    out = 1 / (1 + (f / 600) ** 1.5)
    for centre, width in zip(formants, (80, 100, 140, 250)):
        out = out / np.sqrt((1 - (f / centre) ** 2) ** 2 + (f * width / centre ** 2) ** 2)
    return out


def speech(
    seconds,  # Duration, s
    rng,      # numpy Generator
):            # (T,) float32, peak 1
    "A made-up announcement: voiced syllables with moving formants and a falling pitch, and hissed consonants."
    n, frames = round(seconds * SR), np.arange(0, seconds, FRAME_S)
    starts = np.cumsum(rng.uniform(.15, .3, int(seconds / .15) + 2)) - .1
    starts = starts[starts < seconds]
    f0, loud = _voice(frames, starts, rng)
    t = np.arange(n) / SR
    phase = 2 * np.pi * np.cumsum(np.interp(t, frames, f0)) / SR
    vowels = sum(np.interp(t, frames, a) * np.sin(k * phase) for k, a in enumerate(loud, 1))
    hissed = np.tile([0, 1, 0], len(starts)) * np.repeat(rng.random(len(starts)) < .4, 3)
    breath = np.interp(t, _knots(starts, -.06, -.02, .02), hissed)
    x = vowels / np.abs(vowels).max()
    x = x + .25 * breath * coloured(n, [(800, -40), (3500, 0), (7000, 0), (16000, -20)], rng)
    return (x / np.abs(x).max()).astype("float32")


def _voice(frames, starts, rng):
    "Pitch (frames,) and strength of its partials (partials, frames) of one speaker's syllables."
    size, many = rng.uniform(.95, 1.15), len(starts)
    targets = np.c_[VOWELS[rng.integers(0, len(VOWELS), many)], np.full(many, 3500)].T * size
    formants = [np.interp(frames, starts + .08, v) for v in targets]
    voiced = rng.uniform(.6, 1, many) * (rng.random(many) > .1)
    level = np.interp(frames, _knots(starts, 0, .05, .13), np.stack([.08 * voiced, voiced, .8 * voiced]).T.ravel())
    base = rng.choice([rng.uniform(95, 140), rng.uniform(170, 230)])
    accents = np.interp(frames, starts, rng.uniform(.9, 1.22, many))
    f0 = base * (1.12 - .25 * frames / frames[-1]) * accents * (1 + rng.normal(0, .008, len(frames)))
    k = np.arange(1, int(5000 / f0.min()) + 1)[:, None]
    return f0, _throat(k * f0, formants) * level


def _knots(starts, *offsets):
    "Times at fixed offsets from every start, in order."
    return (starts[:, None] + np.array(offsets)).ravel()
