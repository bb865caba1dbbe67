"Macro ROC-AUC against scikit-learn's, and its pictures."
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from birdkit.core import KitError
from birdkit.metrics import auc_columns, class_auc, macro_auc
from birdkit.plots import plot_class_auc
from birdkit.rounds import plot_auc_change


def draw(seed, rows=300, classes=12, decimals=15, share=.1):
    "Truth and scores as tables with row_id as index."
    rng = np.random.default_rng(seed)
    ids, names = [f"s_{5 * i + 5}" for i in range(rows)], [f"c{i}" for i in range(classes)]
    truth = pd.DataFrame((rng.random((rows, classes)) < share).astype(int), ids, names)
    return truth, pd.DataFrame(rng.normal(size=(rows, classes)).round(decimals), ids, names)


@pytest.mark.parametrize("decimals", [0, 1, 2, 15])
@pytest.mark.parametrize("share", [.02, .5, .97])
def test_parity(decimals, share):
    truth, scores = draw(1, decimals=decimals, share=share)
    scored = [c for c in truth if 0 < truth[c].sum() < len(truth)]
    theirs = [roc_auc_score(truth[c], scores[c]) for c in scored]
    assert np.abs(class_auc(truth, scores)[scored] - theirs).max() < 1e-12
    assert abs(macro_auc(truth, scores) - np.mean(theirs)) < 1e-12


def test_order_and_extras_do_not_matter():
    truth, scores = draw(2)
    mixed = scores.sample(frac=1, random_state=0)[list(scores)[::-1]].assign(extra=np.nan)
    mixed.loc["other_5"] = .5
    assert macro_auc(truth, mixed) == macro_auc(truth, scores)
    flat = [table.rename_axis("row_id").reset_index() for table in (truth, mixed)]
    assert macro_auc(*flat) == macro_auc(truth, scores)


def test_unscored_classes():
    truth, scores = draw(3)
    truth["c0"], truth["c1"] = 0, 1
    auc = class_auc(truth, scores)
    assert auc[["c0", "c1"]].isna().all() and macro_auc(truth, scores) == auc[2:].mean()


def test_monotone_maps_change_nothing():
    truth, scores = draw(4, decimals=1)
    assert macro_auc(truth, scores) == macro_auc(truth, np.exp(scores))
    assert np.isclose(macro_auc(truth, -scores), 1 - macro_auc(truth, scores), atol=1e-12)


def test_single_precision_and_booleans():
    truth, scores = draw(5, decimals=2)
    halves = scores.astype("float32")
    assert abs(macro_auc(truth.astype(bool), halves) - roc_auc_score(truth, halves)) < 1e-12


def test_no_rows_is_an_array_of_nan(): assert np.isnan(auc_columns(np.zeros((0, 3)), np.zeros((0, 3)))).all()


@pytest.mark.parametrize("spoil, says", [
    (lambda t, s: (t, s.drop(index=["s_5", "s_10"])), "scores lack rows of the truth: 2 (s_5, s_10)"),
    (lambda t, s: (t, s.drop(columns=["c3"])), "scores lack classes of the truth: 1 (c3)"),
    (lambda t, s: (t, pd.concat([s, s[:4]])), "scores hold row_ids more than once: 4 (s_5, s_10, s_15, ...)"),
    (lambda t, s: (pd.concat([t, t[:1]]), s), "truth holds row_ids more than once: 1 (s_5)"),
    (lambda t, s: (t, pd.concat([s, s[["c1"]]], axis=1)), "scores hold classes more than once: 1 (c1)"),
    (lambda t, s: (t, s.assign(c2=np.nan)), "NaN or infinite in classes: 1 (c2)"),
    (lambda t, s: (t, s.assign(c2=np.inf)), "NaN or infinite in classes: 1 (c2)"),
    (lambda t, s: (t * .7, s), "binarise it"),
    (lambda t, s: (t.assign(c5=np.nan), s), "truth is neither 0 nor 1 in classes: 1 (c5)"),
    (lambda t, s: (t * 0, s), "no class of the truth has both"),
])
def test_errors(spoil, says):
    with pytest.raises(KitError) as caught: macro_auc(*spoil(*draw(6)))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_of_many_classes_the_pictures_name_the_extremes(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    names = [f"c{i}" for i in range(206)]
    auc, counts = pd.Series(np.linspace(.9, .3, 206), names), pd.Series(range(206), names)
    plot_class_auc(auc, counts)
    assert plt.gca().get_xlabel().startswith("206 classes; lowest: c205 (205) 0.30, c204 (204) 0.30, ")
    change = np.linspace(-.2, .3, 206)
    plot_auc_change(pd.DataFrame(dict(before=.5, after=.5 + change, change=change, clips=3), names))
    assert plt.gca().get_xlabel().startswith("206 classes; lowest changes: c0 -0.20, c1 -0.20, ") and "highest changes: c205 +0.30" in plt.gca().get_xlabel()
    plt.close("all")
