"Which recordings, which windows, which labels: folds, cuts and repeats, batches, and labels that are not known."
import math, time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from birdkit.audio import SR
from birdkit.augment import PICTURE, POWER, WAVE
from birdkit.batches import Batches, Scapes, make_clips
from birdkit.cleaning import Scores
from birdkit.examples import MemoryStore
from birdkit.groups import Data, Sampling
from birdkit.losses import LOSSES, bce, dual
from birdkit.mixing import Sample, append_scapes, join_scape, sumup
from birdkit.prepare import assign_folds, source_groups
from birdkit.labels import labels_of
from birdkit.pseudo import file_weights, labelled_scapes, power, weigh_files
from birdkit.sampling import PICKS, balance, draw_weights, pick_start, piece_spans

# Folds


def a_table(recordings=3000, classes=60, authors=150, seed=0):
    "Classes of very different sizes; a few authors recorded much, and every tenth is not named."
    rng = np.random.default_rng(seed)
    size = 1 / np.arange(1, classes + 1)
    author = (authors * rng.random(recordings) ** 3).astype(int)
    labels = [f"c{i}" for i in rng.choice(classes, recordings, p=size / size.sum())]
    names = [f"x/XC{i}.ogg" for i in rng.permutation(recordings)]
    return pd.DataFrame(dict(primary_label=labels, filename=names, url="", author=np.where(author % 10, author.astype(str), "")))


def unevenness(table, fold):
    "Mean over classes of the standard deviation of their shares of the folds."
    held = pd.crosstab(table.primary_label, fold).reindex(columns=range(5), fill_value=0)
    return held.div(held.sum(axis=1), axis=0).std(axis=1, ddof=0).mean()


@pytest.mark.parametrize("group", ["source", "author"])
def test_folds_are_as_even_as_those_of_scikit_learn(group):
    from sklearn.model_selection import StratifiedGroupKFold
    table = a_table()
    groups, often = source_groups(table, group), table.groupby("primary_label").filename.transform("size") >= 20
    theirs = pd.Series(-1, table.index)
    for i, (_, held) in enumerate(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(table, table.primary_label, groups)): theirs[held] = i
    ours = assign_folds(table, Data(group=group))
    assert unevenness(table[often], ours[often]) <= 1.05 * unevenness(table[often], theirs[often]) + 1e-3
    assert np.ptp(np.bincount(ours[ours >= 0])) <= .05 * len(table) / 5


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("min_groups", [0, 2, 4])
def test_what_folds_promise(seed, min_groups):
    table = a_table(recordings=90, classes=25, authors=12, seed=seed)
    fold, group = assign_folds(table, Data(group="author", min_groups=min_groups), seed), source_groups(table, "author")
    known_to = group.groupby(table.primary_label).nunique()
    assert fold.groupby(group).nunique().max() == 1                                              # groups stay together
    assert (fold[table.primary_label.map(known_to) < max(2, min_groups)] == -1).all()                  # the rare ones are always learnt from
    for k in range(5): assert set(table.primary_label[fold != k]) == set(table.primary_label)    # every class in every training part
    assert fold.index.equals(table.index) and set(fold) <= {-1, 0, 1, 2, 3, 4}


def test_a_group_is_held_back_where_every_fold_would_lose_a_class():
    # Each class has an author of its own, and one who knows all
    pairs = [(f"c{k}", f"w{k}") for k in range(5)] * 9 + [(f"c{k}", "all") for k in range(5)]
    table = pd.DataFrame([dict(primary_label=label, author=author, filename=f"{i}.ogg", url="") for i, (label, author) in enumerate(pairs)])
    fold = assign_folds(table, Data(group="author"))
    assert fold[table.author == "all"].tolist() == [-1] * 5 and sorted(fold[:5]) == [0, 1, 2, 3, 4]


def test_no_fold_takes_both_groups_of_a_class():
    rows = [("a", "1")] * 10 + [("a", "2")] * 6 + [("a", "3")] * 3 + [("b", "2")] + [("b", "3")]     # 10 | 6 + 3 would be more even
    table = pd.DataFrame([dict(primary_label=label, author=author, filename=f"{i}.ogg", url="") for i, (label, author) in enumerate(rows)])
    fold = assign_folds(table, Data(group="author", folds=2)).groupby(table.author).first()
    assert fold["2"] != fold["3"] and fold["1"] != fold["2"]


def test_folds_of_a_whole_competition_take_seconds():
    table, started = a_table(28_000, 206, 2500), time.process_time()                    # of this process, however busy the machine is
    for group in ("source", "author"): assign_folds(table, Data(group=group))
    assert time.process_time() - started < 10

# Cuts, repeats, weights


def test_cut_then_repeated_then_weighed():
    labels, newness = np.array([0] * 6 + [1] * 2 + [2]), np.array([.1, .6, .3, .9, .2, .5, 0, 0, 0])
    index = balance(labels, newness, Data(newest=4, at_least=3))
    assert index.tolist() == [1, 2, 3, 5, 6, 6, 7, 8, 8, 8]
    for g, share in ((0, [.4, .3, .3]), (.5, np.sqrt([4, 3, 3]) / np.sqrt([4, 3, 3]).sum()), (1, [1 / 3] * 3)):
        assert np.allclose(np.bincount(labels[index], draw_weights(labels[index], g)), share)


def test_the_primary_label_is_the_class_that_counts():
    world = a_world(secondary=1.)
    clips = make_clips(world)
    assert clips.targets[1].tolist() == [1, 1, 0] and clips.primary.tolist() == [0, 1, 2, 2]
    assert np.allclose(draw_weights(clips.primary, 1), [1 / 3, 1 / 3, 1 / 6, 1 / 6])
    assert np.allclose(Batches(world.store, clips, Sampling(class_power=1.), 2).chance, [1 / 3, 1 / 3, 1 / 6, 1 / 6])

# Windows and batches


def a_world(secondary=-1.):
    "Four recordings of three classes: b is of y and perhaps of x, d is of z."
    store = MemoryStore({k: np.arange(s * SR, dtype="float32") / SR for k, s in zip("abcd", (8, 1, 12, 30))})
    table = pd.DataFrame({"recording": list("abcd"), "primary_label": ["x", "y", "z", "z"]})
    targets = lambda s: np.float32([[1, 0, 0], [s, 1, 0], [0, 0, 1], [0, 0, 1]])
    return SimpleNamespace(store=store, classes=("x", "y", "z"), recordings=table, targets=targets if secondary else lambda s: targets(0))


def a_scape(labelled=True):
    "Two soundscapes of 10 s; of the second, nobody is sure."
    labels = np.float32([[[.9, 0, 0], [0, .8, 0]], [[.1, 0, 0], [.1, 0, .2]]]) if labelled else None
    return Scapes(np.array(["a", "c"], object), np.array([8 * SR, 12 * SR]), labels, None if labels is None else file_weights(labels))


def alike(one, two):
    "Are two batches the same, to the last bit?"
    return all(torch.equal(a, b) if a is not None else b is None for a, b in zip(vars(one).values(), vars(two).values(), strict=True))


@pytest.mark.parametrize("pick", PICKS)
def test_windows_stay_in_their_clip(pick):
    rng, places = np.random.default_rng(0), (np.array([[0, 4], [7, 9], [20, 30]]), np.array([.2, .5, .3]))
    starts = np.array([pick_start(30, length, rng, pick, within, places) for length in (3, 30) for within in (0, 2, 10) for _ in range(100)])
    assert starts.min() >= 0 and (starts[:300] <= 27).all() and (starts[300:] == 0).all()
    short = np.array([pick_start(30, 40, rng, pick, 10, places) for _ in range(100)])
    assert short.min() >= -10 and short.max() <= 0


def test_scores_draw_windows_in_proportion():
    rng, places = np.random.default_rng(0), (np.array([[0, 5], [10, 15]]), np.array([.2, .8]))
    starts = [pick_start(30, 5, rng, "scored", places=places) for _ in range(2000)]
    assert set(starts) == {0, 10} and abs(np.mean(np.array(starts) == 10) - .8) < .03


def test_a_batch_reads_where_a_model_heard_the_clip():
    world = a_world()
    probs = np.float32([[1, 1, 0], [0, 0, .4], [0, 0, .4], [0, 0, 0]])
    scores = Scores(np.array(["d", "d", "d", "c"]), np.array([0., 12, 20, 2]), np.array([3., 15, 23, 5]), probs)
    batches = Batches(world.store, make_clips(world)[[3, 2]], Sampling(window_s=3., best_of=1, pick="scored", class_power=0.), 2, scores=scores)
    assert [p is None for p in batches.places] == [False, True]          # of c, nothing was heard: from anywhere
    rng = np.random.default_rng(0)
    starts = np.array([batches.read(np.array([0, 1]), rng).wave[:, 0].tolist() for _ in range(200)])
    assert set(starts[:, 0]) == {12, 20} and starts[:, 1].std() > 1


@pytest.mark.parametrize("seed", range(5))
def test_pieces_hold_every_kept_sample_once(seed):
    rng = np.random.default_rng(seed)
    spans = np.sort(rng.choice(200, 8, replace=False)).reshape(4, 2)
    pieces = piece_spans(spans, 11)
    samples = lambda parts: [i for a, b in parts for i in range(a, b)]
    assert samples(np.concatenate(pieces)) == samples(spans)
    assert [len(samples(p)) for p in pieces[:-1]] == [11] * (len(pieces) - 1)
    assert len(pieces) == 1 or 11 <= len(samples(pieces[-1])) < 22


def test_pieces_have_their_turn():
    world = a_world()
    batches = Batches(world.store, make_clips(world)[[3]], Sampling(window_s=5., piece_s=10., best_of=1), 3)
    assert (len(batches), batches.size) == (1, 3)
    starts = np.concatenate([b.wave[:, 0].numpy() for e in range(40) for b in batches.epoch(e)])
    assert np.bincount((starts // 10).astype(int)).min() > 25 and ((starts % 10) <= 5).all()


@pytest.mark.parametrize("secondary", [-1., 1.])
@pytest.mark.parametrize("share", [0., .5])
def test_an_epoch_begun_at_any_step_goes_on_alike(secondary, share):
    world = a_world()
    make = lambda seed=3: Batches(world.store, make_clips(world, secondary=secondary)[[0, 1, 2, 3] * 3], Sampling(), 4, a_scape(), seed, share)
    whole = list(make().epoch(2))
    assert len(whole) == len(make()) == (3 if not share else 6)
    for first in range(len(whole) + 1):
        rest = list(make().epoch(2, first))
        assert len(rest) == len(whole) - first and all(map(alike, rest, whole[first:]))
    assert not any(map(alike, whole, make(4).epoch(2))) and not any(map(alike, whole, make().epoch(1)))


def test_soundscapes_that_stand_for_themselves():
    world = a_world()
    batch = next(Batches(world.store, make_clips(world, secondary=0.)[[0, 1, 2, 3] * 4], Sampling(), 8, a_scape(), share=.25).epoch(0))
    assert (len(batch.wave), len(batch.scape), len(batch.scape_targets), len(batch.alone), len(batch.alone_targets)) == (6, 6, 6, 2, 2)
    assert len(next(Batches(world.store, make_clips(world), Sampling(), 8, a_scape(False)).epoch(0)).scape) == 4


def test_soundscapes_are_drawn_by_what_lives_in_them():
    probs = np.array([[[.9, 0, 0], [0, .8, 0]], [[.1, 0, 0], [.1, 0, .2]]])
    assert np.allclose(file_weights(probs), np.array([1.7, .3]) / 2, atol=1e-5)          # sum over classes of the maximum over time
    assert np.allclose(file_weights(probs[:, ::-1]), file_weights(probs))
    table = pd.DataFrame(probs.reshape(4, 3), columns=["x", "y", "z"])
    table.insert(0, "recording", list("aacc")); table.insert(1, "end_s", [5., 10, 5, 10])
    world = a_world()
    scapes = labelled_scapes(weigh_files(power(labels_of(table), 2)), world)
    assert np.allclose(scapes.weights, np.array([.81 + .64, .01 + .04]) / 1.5, atol=1e-5)  # of the sharpened labels
    batches = Batches(world.store, make_clips(world), Sampling(), 4, scapes)
    drawn = torch.cat([b.scape_targets for e in range(200) for b in batches.epoch(e)])
    assert abs((drawn.amax(1) > .1).float().mean() - 1.45 / 1.5) < .03


def test_reading_is_quick():
    world = a_world()
    batches = Batches(world.store, make_clips(world)[[0, 2, 3] * 200], Sampling(), 60, a_scape())
    started = time.process_time()
    windows = sum(len(b.wave) for b in batches.epoch(0))
    assert windows == 600 and (time.process_time() - started) / windows < 5e-3          # a step of 32 takes 100 ms and more

# Labels that are not known

SHAPES = {"wave": (6, 4000), "power": (6, 16, 25), "picture": (6, 3, 16, 25)}
STEPS = {(stage, name): step for stage, table in (("wave", WAVE), ("power", POWER), ("picture", PICTURE)) for name, step in table.items()}
UNKNOWN = torch.eye(6, 9).roll(2, 1).bool() | torch.eye(6, 9).roll(5, 1).bool()


def a_sample(stage, unknown=0.):
    "A random batch; some labels are not known, and have the value `unknown`."
    gen = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(shape, generator=gen)
    x, targets = draw(*SHAPES[stage]) - (.5 if stage == "wave" else 0), torch.eye(6, 9) + .4 * torch.eye(6, 9).roll(1, 1) + torch.eye(6, 9).roll(3, 0)
    return Sample(x, torch.where(UNKNOWN, unknown, targets.clamp(0, 1)), draw(6) + .1, scape=draw(*x.shape) - .5, scape_targets=draw(6, 9).round())


def masked(sample):
    "The same with a weight for each class, 0 where the label is not known."
    return replace(sample, weight=sample.weight[:, None] * ~UNKNOWN)


@pytest.mark.parametrize("p", [.5, 1.])
@pytest.mark.parametrize("case", STEPS, ids=" ".join)
def test_a_label_is_known_where_the_unknown_makes_no_difference(case, p):
    run = lambda sample: STEPS[case](sample, torch.Generator().manual_seed(3), p=p)
    low, high, out = run(a_sample(case[0], 0.)), run(a_sample(case[0], 1.)), run(masked(a_sample(case[0])))
    assert torch.equal(out.x, low.x) and torch.equal(out.targets, low.targets)
    assert torch.equal(out.weight, low.weight[:, None] * (low.targets == high.targets))


@pytest.mark.parametrize("case", STEPS, ids=" ".join)
def test_where_all_labels_are_known_nothing_changes(case):
    run = lambda sample: STEPS[case](sample, torch.Generator().manual_seed(3), p=1.)
    plain, each = run(a_sample(case[0])), run(replace(a_sample(case[0]), weight=a_sample(case[0]).weight[:, None].repeat(1, 9)))
    assert torch.equal(plain.x, each.x) and torch.equal(plain.targets, each.targets) and torch.equal(plain.weight[:, None].expand(6, 9), each.weight)
    z = torch.linspace(-2, 2, 54).reshape(6, 9)
    for loss in LOSSES.values():
        assert torch.isclose(loss(z, plain.targets, weight=plain.weight), loss(z, each.targets, weight=each.weight), rtol=1e-5)


def test_without_secondary_labels_a_mask_changes_no_bit():
    world = a_world(secondary=0)
    one, two = (next(Batches(world.store, make_clips(world, secondary=s), Sampling(), 4, a_scape(), 1).epoch(0)) for s in (1., -1.))
    assert alike(one, two) and one.weight.shape == (4,)


def test_a_batch_tells_which_labels_are_not_known():
    world = a_world()
    clips = make_clips(world, weights=pd.Series({"b": .5}), secondary=-1.)
    batch = Batches(world.store, clips, Sampling(), 4).read(np.arange(4), np.random.default_rng(0))
    assert batch.targets.tolist() == np.eye(3)[[0, 1, 2, 2]].tolist()
    assert batch.weight.tolist() == [[1, 1, 1], [0, .5, .5], [1, 1, 1], [1, 1, 1]]
    for s in (0., .3, 1.): assert make_clips(world, secondary=s).known is None


def test_what_the_unknown_costs():
    y, weight = torch.tensor([[1., 0], [0, 1]]), torch.tensor([[1., 0], [1, 1]])         # of the first clip, the second class is not known
    z = torch.zeros(2, 2, requires_grad=True)                                             # every known label costs ln 2
    value = bce(z, y, weight=weight)
    value.backward()
    assert math.isclose(value.item(), 1.5 * math.log(2), rel_tol=1e-6) and z.grad.tolist() == [[-.25, 0], [.25, -.25]]
    both = sumup(Sample(torch.ones(2, 8), y, weight), torch.Generator(), p=1.)            # each meets the other, which has it for sure
    assert (both.targets.tolist(), both.weight.tolist()) == ([[1, 1]] * 2, [[2, 2]] * 2)
    scape = replace(Sample(torch.ones(2, 8), y, weight), scape=torch.ones(2, 8), scape_targets=torch.tensor([[0, .9], [.7, 0]]))
    mixed = join_scape(scape, torch.Generator(), mode="half")
    assert torch.equal(mixed.targets, torch.tensor([[1, .9], [.7, 1]])) and torch.equal(mixed.weight, weight)
    out = append_scapes(mixed, torch.ones(1, 8), torch.tensor([[.5, .5]]), .5)
    level = dual(bce, torch.zeros(3, 2), torch.zeros(3, 4, 2), out.targets, .5, out.weight)
    assert math.isclose(level.item(), math.log(2) * (1 + 2 + .5 * 2) / 2.5, rel_tol=1e-6)  # weights 1, 1 and 1/2
