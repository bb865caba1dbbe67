"""The demo competition: its layout, its truth, and that a seed always gives the same valley."""
import ast, json, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data_prep"))
import make_demo as demo
import synth

from birdkit.audio import SR, decode
from birdkit.core import KitError, read_table

SCALE = .08   # 28 focal recordings and 4 soundscapes


def build(folder, **kwargs):
    return demo.make_demo(folder / "demo", scale=SCALE, **kwargs)


def table(folder, name):
    return read_table(folder / name, "make the demo", keep_default_na=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("made"), faults=True)


def test_layout(made):
    for folder in made:
        names = {p.name for p in folder.iterdir()} - {"test_soundscapes_truth.csv"}
        assert names == {".demo.json", "train.csv", "taxonomy.csv", "sample_submission.csv", "recording_location.txt",
                         "train_audio", "train_soundscapes", "test_soundscapes"}
        train = table(folder, "train.csv")
        assert tuple(train.columns) == demo.COLUMNS
        assert train.filename.is_unique and set(train.filename) == {
            p.relative_to(folder / "train_audio").as_posix() for p in folder.glob("train_audio/*/*.ogg")}
        assert (train.filename.str.split("/").str[0] == train.primary_label).all()
        assert set(train.type) <= {"['song']", "['call']", "['']"} and set(train.license) <= set(demo.LICENCES)
        assert train.rating.between(0, 5).all() and (train.rating * 2 % 1 == 0).all()
        assert all(Path(f).name.startswith(c) for f, c in zip(train.filename, train.collection))
    assert sorted(p.name for p in made[0].parent.iterdir()) == ["demo", "demo-past"]


def test_labels(made):
    for folder, many in zip(made, (12, 16)):
        train, taxonomy = table(folder, "train.csv"), table(folder, "taxonomy.csv")
        labels = list(taxonomy.primary_label)
        assert len(labels) == many and labels == sorted(labels)
        assert list(table(folder, "sample_submission.csv").columns[1:]) == labels
        assert set(train.primary_label) == set(labels)
        secondary = train.secondary_labels.map(ast.literal_eval)
        assert {name for names in secondary for name in names} <= {*labels, ""}
        assert all(names for names in secondary) and "['']" in set(train.secondary_labels)


def test_classes_of_the_valley(made):
    taxonomy = table(made[0], "taxonomy.csv")
    assert taxonomy.class_name.value_counts().to_dict() == {"Aves": 9, "Amphibia": 2, "Insecta": 1}
    assert list(taxonomy.class_name[taxonomy.primary_label.str.isdigit()]) == ["Amphibia"]


def test_species_are_disjoint(made):
    here, past = (table(folder, "taxonomy.csv") for folder in made)
    for column in ("primary_label", "scientific_name", "common_name"):
        assert not set(here[column]) & set(past[column])


def test_truth(made):
    truth, sample = table(made[0], "test_soundscapes_truth.csv"), table(made[0], "sample_submission.csv")
    assert list(truth.columns) == list(sample.columns) and list(truth.row_id) == list(sample.row_id)
    stems = sorted(p.stem for p in made[0].glob("test_soundscapes/*.ogg"))
    assert list(truth.row_id) == [f"{stem}_{end}" for stem in stems for end in range(5, 65, 5)]
    values = truth.drop(columns="row_id").to_numpy()
    assert set(np.unique(values)) == {0, 1} and .02 < values.mean() < .3
    assert np.allclose(sample.drop(columns="row_id"), 1 / 12, atol=1e-6)


def test_soundscapes(made):
    files = sorted(made[0].glob("*_soundscapes/*.ogg"))
    assert len(files) == 4 and all(len(decode(p).samples) == 60 * SR for p in files)
    assert all(.005 < np.sqrt(np.mean(decode(p).samples ** 2)) < .1 for p in files)


def test_sites_are_disjoint():
    scenes = demo.plan_scenes(Path("valley"), 24, 16, seed=0)
    train, test = ({s.site for s in scenes if s.path.parent.name.startswith(part)} for part in ("train", "test"))
    assert train and test and not train & test
    assert len({s.path for s in scenes}) == 40 and {len(s.species) for s in scenes} == {0, 1, 2, 3, 4, 5}
    heard = pd.Series([a.label for s in scenes[24:] for a in s.species]).value_counts()
    assert len(heard) == 12 and heard.min() >= 2


def test_scene_truth_is_where_the_sound_is():
    scene = demo.Scene(Path("x"), "V01", demo.VALLEY[:2], (0, 0))
    mix, heard = demo.render_scene(scene, seed=0)
    assert len(mix) == 60 * SR and set(heard) == {"valtri1", "slatri1"}
    assert all(seconds.shape == (12,) and 0 < seconds.sum() < 30 for seconds in heard.values())


def test_full_size():
    takes = demo.plan_takes(demo.VALLEY, demo.CLIPS, (4.5, 18), True, (0, 0))
    assert 150 <= len(takes) <= 180
    assert min(demo.CLIPS.values()) == 3 and max(demo.CLIPS.values()) == 40
    assert all(sum(map(bool, flags)) > 5 for flags in zip(*((t.talk, t.still_s, t.other) for t in takes)))


def test_focal_durations(made):
    train = table(made[0], "train.csv")
    good = train[~train.filename.str.contains("XC999")]
    seconds = np.array([decode(made[0] / "train_audio" / f).duration_s for f in good.filename])
    assert seconds.min() >= 3.5 and seconds.max() <= 20


def test_duplicates(made):
    audio, train = made[0] / "train_audio", table(made[0], "train.csv")
    again = sorted(f for f in train.filename if "XC99000" in f)
    label = train.primary_label[train.filename == again[0]].item()
    first = sorted(f for f in train.filename[train.primary_label == label] if f not in again and "XC999" not in f)
    gains = []
    for copy in again:
        x = decode(audio / copy).samples
        same = [decode(audio / f).samples for f in first if len(decode(audio / f).samples) == len(x)]
        gains.append(max((float(x @ y / (y @ y)) for y in same if np.corrcoef(x, y)[0, 1] > .95), default=0))
    assert np.allclose(gains, [1, .4, 1], atol=.05)
    assert any((audio / again[0]).read_bytes() == (audio / f).read_bytes() for f in first)


def test_faults(made, tmp_path):
    bad = sorted(f for f in table(made[0], "train.csv").filename if "XC999" in f)
    assert (made[0] / "train_audio" / bad[0]).stat().st_size == 0
    for name in bad:
        with pytest.raises(KitError): decode(made[0] / "train_audio" / name)


def test_same_seed_same_samples(made, tmp_path):
    again = build(tmp_path, faults=True)
    for one, two in zip(made, again):
        files = sorted(p.relative_to(one) for p in one.rglob("*.*") if p.is_file())
        assert files == sorted(p.relative_to(two) for p in two.rglob("*.*") if p.is_file())
        for name in files:
            if name.suffix == ".ogg" and "XC999" not in name.stem:   # the container has a random serial number
                assert np.array_equal(decode(one / name).samples, decode(two / name).samples)
            else: assert (one / name).read_bytes() == (two / name).read_bytes()


def test_other_seed_other_samples():
    one, two = (demo.render_take(demo.plan_takes(demo.VALLEY, demo.CLIPS, (4.5, 18), True, (s, 0))[0]) for s in (0, 1))
    assert len(one) != len(two) or not np.allclose(one, two)


def test_what_is_there_stays(made, capsys):
    before = (made[0] / "train.csv").stat().st_mtime_ns
    demo.make_demo(made[0], scale=SCALE, faults=True)
    assert capsys.readouterr().out.count("is there already") == 2
    assert (made[0] / "train.csv").stat().st_mtime_ns == before


def test_replaces_an_older_demo_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "build_valley", lambda folder, *rest: (folder / "new").touch())
    monkeypatch.setattr(demo, "build_past", lambda folder, *rest: None)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/old").touch()
    with pytest.raises(KitError, match="is not a demo"): demo.make_demo(tmp_path / "demo")
    with pytest.raises(SystemExit) as stop: demo.main(["--out", str(tmp_path / "demo")])
    assert stop.value.code == 1 and "is not a demo" in capsys.readouterr().err
    (tmp_path / "demo/.demo.json").write_text(json.dumps({"version": 0}))
    demo.make_demo(tmp_path / "demo")
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == [".demo.json", "new"]


@pytest.fixture
def bare(monkeypatch):
    "Demos of no files."
    for name in ("build_valley", "build_past"): monkeypatch.setattr(demo, name, lambda folder, *rest: None)


@pytest.mark.parametrize("past", ["demo", "demo/past", ".", "x/../demo"])
def test_one_part_is_not_made_over_the_other(tmp_path, bare, past):
    with pytest.raises(KitError, match="are not apart: give another --past"): demo.make_demo(tmp_path / "demo", past=tmp_path / past)
    assert not list(tmp_path.iterdir())


def test_nothing_is_made_where_one_place_is_taken(tmp_path, bare):
    (tmp_path / "valley").mkdir()
    (tmp_path / "valley/.demo.json").write_text(json.dumps({"part": "valley"}))
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    for out, past, part in (("demo", "valley", "past"), ("demo", "file", "past"), ("file", None, "valley")):
        with pytest.raises(KitError, match=f"exists and is not a demo's {part}: give"): demo.make_demo(tmp_path / out, past=past and tmp_path / past)
    with pytest.raises(KitError, match="^/ and /-past are not apart"): demo.make_demo("/")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf"])
def test_a_factor_is_above_0(tmp_path, scale):
    with pytest.raises(KitError, match=f"--scale {scale} makes nothing: give a factor above 0"): demo.make_demo(tmp_path / "demo", scale=float(scale))


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def fail(folder, *rest): raise OSError("disk full")
    monkeypatch.setattr(demo, "build_past", fail)
    with pytest.raises(OSError, match="disk full"): demo.make_demo(tmp_path / "demo")
    assert not list(tmp_path.iterdir())


def test_at_snr_is_measured_in_the_band():
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 3000 * np.arange(SR) / SR).astype("float32")
    noise = synth.coloured(SR, [(100, 0), (16000, 0)], rng)
    loud, soft = (np.square(synth.at_snr(tone, noise, db)).mean() for db in (10, 0))
    assert np.isclose(loud / soft, 10, rtol=1e-3)
    assert soft < np.square(noise).mean() / 100   # a tone competes with little of the noise


def test_an_announcement_is_speech_to_silero():
    torch, silero, soxr = (pytest.importorskip(name) for name in ("torch", "silero_vad", "soxr"))
    model, seconds = silero.load_silero_vad(onnx=True), []
    for seed in range(6):
        x = .5 * synth.speech(3., np.random.default_rng(seed))
        found = silero.get_speech_timestamps(torch.from_numpy(soxr.resample(x, SR, 16_000)), model)
        seconds.append(sum(s["end"] - s["start"] for s in found) / 16_000)
    assert np.median(seconds) > 1.5
