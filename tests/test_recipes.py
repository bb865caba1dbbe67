"Every recipe of the books, whole: each member learns, its round of soft labels runs, the ensemble is exported and hears the test soundscapes."
import json

import numpy as np
import pandas as pd
import pytest

from birdkit.anytime import run_submission
from birdkit.check import check_submission
from birdkit.clean import CLEAN, clean
from birdkit.cleaning import Cleaning, lay_segments
from birdkit.competition import Competition, row_ids
from birdkit.core import Clock, KitError, Workspace, write_table
from birdkit.distill import distill_round, final_models, round_count
from birdkit.export import export_runs
from birdkit.prepare import prepare
from birdkit.pseudo import LABEL_STEPS
from birdkit.recipe import all_recipes, find_recipe, list_recipes
from birdkit.review import clip_weights, no_review
from birdkit.rows import input_shapes
from birdkit.runtime import load_export
from birdkit.handover import class_prior, judging_windows, parity_sound
from birdkit.material import cleaned_clips, labelled_windows, trained_members
from birdkit.stages import find_members, lead_of, train_fold
from birdkit.submit import find_sample
from birdkit.trained import TrainedModel
from toys import tones

SMALL = {"model.backbone": "test_resnet", "model.raw_backbone": "test_resnet", "model.weights": "none", "model.hidden": 32, "optim.epochs": 1, "optim.batch": 4,
         "pseudo.epochs": 1, "ensemble.seeds": 1, "data.at_least": 0, "infer.precision": "f32", "optim.accumulate": 1}
QUANTISED = "birdclef2025_07"   # Keeps its int8 networks, two of them specialists


LOOSE = {"threshold": {"keep": 0.}, "high_low": {"high": 0., "low": 1.}}   # Networks of one epoch are sure of nothing


def shrunk(name):
    "A recipe with small networks, one epoch a stage, and labels that are not filtered away."
    small = {field: value for field, value in SMALL.items() if (name, field) != (QUANTISED, "infer.precision")}
    steps = [step for step, *_ in find_recipe(name).pseudo.labels if step in LOOSE]
    loose = {f"pseudo.labels.{step}.{key}": value for step in steps for key, value in LOOSE[step].items()}
    student = tuple((field, value) for field, value in find_recipe(name).pseudo.student if field not in SMALL)
    return find_recipe(name, small | loose | {"pseudo.student": student})


@pytest.fixture(scope="module")
def world(request, tmp_path_factory):
    "A competition of four classes and two soundscapes, one of them labelled in 2026, and its prepared and cleaned workspace."
    folder = tmp_path_factory.mktemp(f"recipes{request.param}")
    comp, space = Competition.find(str(tones(folder / "data", year=request.param))), Workspace.find(folder / "work")
    data = prepare(comp, space)
    assert (labelled_windows(data) is not None) == (comp.year == 2026) == (request.param == 2026)
    write_table(space.clean / "segments.csv", lay_segments(Cleaning.of(data)))
    write_table(space.clean / "weights.csv", clip_weights(data.recordings, no_review()))
    return comp, space, data


def distinct(members):
    "Members that differ in more than their backbone, which all have been made small."
    seen = {}
    for m in members: seen.setdefault(json.dumps(vars(m.but({"ensemble.weight": 1.}).but(name="", about="")), default=repr), m)
    return list(seen.values())


def worlds(names):
    "Each recipe with the year of the world it is tried in: those of 2026 need labelled soundscapes."
    return [pytest.param(2026 if "2026" in name else 2025, name, id=name) for name in names]


# the last one is a specialist alone
@pytest.mark.parametrize(("world", "name"), worlds([*sorted(all_recipes()), "birdclef2025_01-frogs"]), indirect=["world"])
def test_recipe_goes_from_clips_to_submission(name, world, tmp_path):
    comp, made, data = world
    space, config = Workspace.find(tmp_path / "work"), shrunk(name)                     # no run of another recipe is found in it
    for part in ("prepared", "clean"): (space.root / part).symlink_to(made.root / part)
    members = distinct(trained_members(config, data))
    clean(Cleaning.of(data), config.data.clean)                          # its rules run here, though all learn from the same clips
    for m in members: train_fold(data, cleaned_clips(data, space, m), space, m, 0, lead=lead_of(m, members, space, 0))
    models = [find_members(space, members, data.classes)]
    if round_count("auto", members, data):
        models.append(distill_round(models[0], 1, members, data, cleaned_clips(data, space, config), space).runs)
        assert models[1] != models[0]
    networks = final_models(models, members)
    clips = cleaned_clips(data, space, config)
    manifest = export_runs(networks, tmp_path / "export", parity_sound(data), class_prior(clips, data.classes), config,
                           validation=judging_windows(data, clips))
    assert max(m["parity"] for m in manifest["models"]) < 1e-4 and any("int8" in m for m in manifest["models"]) == (name == QUANTISED)
    sheet, report = run_submission(comp, load_export(tmp_path / "export"), comp.test_files, tmp_path / "submission.csv", Clock(90), find_sample(comp))
    table = pd.read_csv(tmp_path / "submission.csv")
    assert check_submission(table, find_sample(comp), row_ids=[i for f in comp.test_files for i in row_ids(f.stem, comp.rows(f))]) == []
    assert set(report.model) == {name for name, model in networks.items() if model.weight}
    assert (report.what == "heard all files").all() and table.iloc[:, 1:].std().max() > 0


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_every_member_builds_with_its_own_backbone(name, built=set()):
    for m in find_recipe(name).members():
        key = repr((m.model, input_shapes(m)))
        if key in built: continue                                        # by another recipe or member
        built.add(key)
        clip, frames = TrainedModel(m.but({"model.weights": "none"}), "abc").probabilities(*(np.zeros((1, *shape), "float32") for shape in input_shapes(m)))
        assert clip.shape == (1, 3) and frames.shape[::2] == (1, 3) and np.isfinite(clip).all() and np.isfinite(frames).all()


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_names_in_a_recipe_exist(name):
    for m in find_recipe(name).members():
        assert {step for step, *_ in m.data.clean} <= set(CLEAN)
        assert {step for step, *_ in m.pseudo.labels} <= set(LABEL_STEPS)
        assert m.frontend.shape(m.sampling.window_s)[2] > 0 and m.about


def test_the_table_has_every_rank():
    table = list_recipes().set_index("recipe")
    for year, ranks in ((2024, 10), (2025, 14), (2026, 5)):
        assert [f"birdclef{year}_{r:02}" in table.index for r in range(1, ranks + 1)] == [True] * ranks
    assert {"base", "small", "best", "tiny", "public2025_nfnet", "public2025_seresnext",
            "public2025_blend", "public2025_final", "course2024"} <= set(table.index)
    assert (table.models > 0).all()


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(KitError, match="did you mean birdclef2025_"): find_recipe("birdclef2025_1st")
    with pytest.raises(KitError, match="Optim has no field 'epoch'; did you mean epochs"): find_recipe("birdclef2025_01", {"optim.epoch": 1})
