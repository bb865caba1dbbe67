"Every head with every option: shapes, gradients, silence, and the same answer from OpenVINO."
import numpy as np
import openvino as ov
import pytest
import torch

from birdkit.core import KitError
from birdkit.heads import HEADS, POOLS, build_head

FEATURES, CLASSES, SHAPES = (6, 8, 10), 5, ((6, 8, 12), (8, 4, 6), (10, 2, 3))   # (D, bands, frames) of three stages
TIMED = ("sed", "double_sigmoid", "att_gem", "frames", "deep")                     # heads that keep time
PLAIN = [(name, {}) for name in HEADS]
POOLED = [(name, dict(pool=pool)) for name in HEADS for pool in POOLS]
OTHERS = [("sed", dict(clip="probability")), ("sed", dict(activation="clamp")), ("sed", dict(joined=False, early=.5)),
          ("double_sigmoid", dict(pool="gem", activation="clamp")), ("att_gem", dict(clip="probability")), ("frames", dict(clip="lse")),
          ("frames", dict(clip="lse", sharpness=5.)), ("deep", dict(shares=(1, 1, 2), clip="logit")), ("pool", dict(drops=5)),
          ("mlp", dict(layers=3)), ("mlp", dict(layers=0))]
CONVERTED = PLAIN + OTHERS[:7] + [(name, dict(pool=pool)) for name in ("sed", "pool") for pool in ("max", "gem", "attention")]


def heads(cases):
    "A test for each pair of head and options."
    return pytest.mark.parametrize("name, options", cases, ids=["-".join([n, *map(str, o.values())]) for n, o in cases])


class Network(torch.nn.Module):
    "A head that ends in probabilities; only \"deep\" looks at more than the last map."
    def __init__(self, name, options):
        super().__init__()
        torch.manual_seed(0)
        self.deep = name == "deep"
        self.shapes = SHAPES if self.deep else SHAPES[-1:]
        self.head = build_head(name, FEATURES if self.deep else FEATURES[-1], CLASSES, hidden=16, options=tuple(options.items()))

    def maps(self, n, scale=1., seed=0):
        "Feature maps of n windows."
        gen = torch.Generator().manual_seed(seed)
        return [scale * torch.randn(n, *shape, generator=gen) for shape in self.shapes]

    def hear(self, *maps): return self.head(maps if self.deep else maps[0])

    def forward(self, *maps):
        heard = self.hear(*maps)
        return heard.clip.sigmoid(), heard.frames.sigmoid()


@heads(PLAIN + POOLED + OTHERS)
def test_shapes(name, options):
    net = Network(name, options)
    heard = net.hear(*net.maps(3))
    assert heard.clip.shape == (3, CLASSES) and heard.frames.shape == (3, 3 if name in TIMED else 1, CLASSES)
    assert heard.embedding.shape == (3, net.head.embedding_size)
    assert [f.shape[1] for _, f in heard.levels] == ([12, 6, 3] if name == "deep" else [])


@heads(PLAIN + POOLED + OTHERS)
def test_finite(name, options):
    for scale in (1., 0., 1e3):                     # sound, silence, and what no recording holds
        net = Network(name, options)
        heard = net.hear(*net.maps(3, scale))
        (heard.clip.sigmoid().sum() + heard.frames.sum() + heard.embedding.sum()).backward()
        assert all(t.isfinite().all() for t in heard[:3])
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@heads(PLAIN + POOLED + OTHERS)
def test_windows_are_heard_one_by_one(name, options):
    net = Network(name, options).eval()
    x = net.maps(4)
    for all_, one in zip(net(*x), net(*(m[2:3] for m in x))): torch.testing.assert_close(all_[2:3], one)


@heads(CONVERTED)
def test_openvino_says_the_same(name, options):
    net = Network(name, options).eval()
    graph = ov.convert_model(net, example_input=tuple(net.maps(2)), input=[(-1, *shape) for shape in net.shapes])
    compiled = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for n in (1, 5):
        x = net.maps(n, 2., seed=n)
        for ours, theirs in zip(net(*x), compiled([m.numpy() for m in x]).values(), strict=True):
            assert np.abs(ours.detach().numpy() - theirs).max() < 1e-4


@pytest.mark.parametrize("name, option, told", [
    ("sed", ("pol", 1), "has no option 'pol'; did you mean pool"), ("pool", ("clip", "max"), "there are: drops, pool"),
    ("frames", ("clip", "mean"), "There are: lse, max"), ("deep", ("shares", (1, 2)), "one share for each of 3 levels"),
    ("sad", ("pool", "gem"), "did you mean sed")])
def test_wrong_options_name_the_right_ones(name, option, told):
    with pytest.raises(KitError, match=told): build_head(name, FEATURES if name == "deep" else 8, 3, options=(option,))
