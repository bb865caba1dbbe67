"Every recipe of the books against what is known of the system, or was decided here."
from functools import partial
from inspect import signature

import pandas as pd
import pytest
from recipe_facts import APART, FACTS

from birdkit.augment import PICTURE, POWER, WAVE
from birdkit.clean import CLEAN
from birdkit.heads import HEADS
from birdkit.losses import LOSSES
from birdkit.post import KERNELS, POST
from birdkit.pseudo import LABEL_STEPS
from birdkit.recipe import find_recipe, kept_rounds, list_recipes
from birdkit.students import STUDENTS

OWN = {"base", "small", "best", "demo", "tiny", "plain"}   # Of the kit, after no system
FEWER = {"birdclef2026_04": 0}   # Systems of which less than five facts are known beside rank and scores
CHAINS = {"augment.wave": (WAVE, 1), "augment.power": (POWER, 1), "augment.picture": (PICTURE, 1), "data.clean": (CLEAN, 0),
          # Steps by name, and how many arguments stand between x and theirs
          "pseudo.labels": (LABEL_STEPS, 0), "infer.post": (POST, 0), "ensemble.post": (POST, 0)}
# Keys of an ensemble that its members answer for themselves, or not at all
OF_WHOLES = {"origin", "models", "backbones", "weights", "mel_weights", "kernel", "shape"}
OPTIONS = {"model.options": ("model.head", HEADS), "loss.options": ("loss.name", LOSSES), "pseudo.options": ("pseudo.how", STUDENTS)}   # Whose defaults hold


def several(recipe, read):
    "What is read of each member of an ensemble, in order; one that only labels is not of it, but where it is asked alone."
    return tuple(read(m) for m in recipe.members() if m.ensemble.weight or m.name == recipe.name)


def kernel(recipe):
    "Numbers of the smoothing kernel, not scaled."
    name = next(k for place in ("infer", "ensemble") if (k := found(recipe, f"{place}.post.smooth.kernel")) != "not in the chain")
    return KERNELS.get(name, name) if isinstance(name, str) else name


SPECIAL = {
    "shape": lambda r: r.frontend.shape(r.sampling.window_s),
    "origin": lambda r: dict(r.ensemble.origin),
    "models": lambda r: sum(several(r, lambda m: m.ensemble.seeds * kept_rounds(m))),
    "backbones": lambda r: set(several(r, lambda m: m.model.backbone.split(".")[0])),
    "weights": partial(several, read=lambda m: m.ensemble.weight),
    "mel_weights": lambda r: tuple(pd.Series(several(r, lambda m: m.ensemble.weight)).groupby(list(several(r, lambda m: m.frontend.n_mels)), sort=False).sum()),
    "kernel": kernel,
}


def arguments(step, table, between):
    "All arguments of a step by name, defaults too."
    name, *given = step
    given, keywords = ([], given[0]) if given and isinstance(given[0], dict) else (given, {})
    bound = signature(table[name]).bind(*[None] * (1 + between), *given, **keywords)
    bound.apply_defaults()
    return bound.arguments | bound.arguments.get("keywords", {})


def of_steps(chain, table, between, name, argument=None):
    "Is a step in the chain, with any chance; or an argument of it, one for each time where it is there several times."
    if name not in table: return "no such step"
    steps = [step for step in chain if step[0] == name]
    if argument is None: return any(arguments(step, table, between).get("p", 1) > 0 for step in steps)
    values = tuple(arguments(step, table, between).get(argument, "no such argument") for step in steps)
    return values[0] if len(values) == 1 else values or "not in the chain"


def of_pairs(recipe, path, pairs, name):
    "The value of a pair; where there is none the default of what is chosen, or what the recipe says itself."
    if name in dict(pairs): return dict(pairs)[name]
    if path not in OPTIONS: return found(recipe, name)
    chosen, table = OPTIONS[path]
    known = signature(table[found(recipe, chosen)]).parameters
    return known[name].default if name in known else "no such option"


def found(recipe, key):
    "What a recipe says of a key: one of SPECIAL, group.field, group.chain.step (is it there), group.chain.step.argument, or group.field.pair."
    if key in SPECIAL: return SPECIAL[key](recipe)
    group, field, *rest = key.split(".")
    path, value = f"{group}.{field}", getattr(getattr(recipe, group), field)
    if not rest: return value
    return of_steps(value, *CHAINS[path], *rest) if path in CHAINS else of_pairs(recipe, path, value, ".".join(rest))


def same(want, have):
    "Do two values agree: None is not known, a set is in any order, numbers to one in ten thousand."
    if want is None: return True
    if isinstance(want, dict): return want.keys() == have.keys() and all(same(want[k], have[k]) for k in want)
    if isinstance(want, set): return want == (set(have) if isinstance(have, (set, tuple)) else {have})
    if isinstance(want, tuple): return isinstance(have, tuple) and len(want) == len(have) and all(map(same, want, have))
    if isinstance(want, (bool, str)) or isinstance(have, (bool, str)): return type(want) is type(have) and want == have
    return have == pytest.approx(want, rel=1e-4)


def members_of(recipe):
    "Members of an ensemble; none of one model."
    return [m for m in recipe.members() if m.name != recipe.name]


def answers_for(member, key):
    "Must a member be as is known of the whole? Where nothing else is known of it, and it is not of the ensemble."
    return key not in OF_WHOLES and not key.startswith("ensemble.") and key not in FACTS.get(member, {}) and key not in APART.get(member, ())


@pytest.mark.parametrize("name", FACTS)
def test_recipe_says_what_is_known(name):
    recipe = find_recipe(name)
    wrong = [f"{r.name}: {key} is {have!r}, known is {want!r}" for r in (recipe, *members_of(recipe)) for key, want in FACTS[name].items()
             if (r is recipe or answers_for(r.name, key)) and not same(want, have := found(r, key))]
    assert not wrong, "\n".join(wrong)


def test_every_system_has_facts():
    counts = dict.fromkeys(set(list_recipes().recipe) - OWN, 0)
    for name, facts in FACTS.items(): counts[name.split("-")[0]] += len(facts.keys() - {"origin"})
    few = [name for name, n in counts.items() if n < FEWER.get(name, 5)]
    assert not few, f"{few}: put what is known of the system into tests/recipe_facts.py; a recipe of your own goes into OWN above"
