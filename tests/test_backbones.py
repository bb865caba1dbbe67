"Every backbone of the solutions: forward, levels, gradients, ImageNet weights, and the same answer from OpenVINO."
import gc

import numpy as np
import openvino as ov
import pytest
import torch
from torch import nn

from birdkit.backbones import BACKBONES, SPELT, Backbone, fit_state, import_timm, timm_id
from birdkit.core import KitError

SIZE, CLASSES = (64, 96), 8
LARGE = ("tf_efficientnet_b4", "tf_efficientnet_b5", "efficientnet_b4", "tf_efficientnetv2_m", "hgnetv2_b5")
# windows, channels last, tokens of a pyramid, a head before the last map
OTHERS = ("swin_tiny_patch4_window7_224", "mambaout_femto", "levit_128s", "selecsls42b")
ARCHS = list(dict.fromkeys(name.split(".")[0] for name in (*BACKBONES, *OTHERS)))     # weights do not change the network
UNUSED = ("net.conv_head",)                                                           # MobileNetV3's comes after the last map


class Probabilities(nn.Module):
    "A backbone, its map averaged, a linear layer and a sigmoid."
    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.classify = backbone, nn.Linear(backbone.features, CLASSES)

    def forward(self, picture):
        return self.classify(self.backbone(picture).mean((2, 3))).sigmoid()


def pictures():
    "Three pictures of different loudness and grain, one channel."
    x = torch.randn(3, 1, *SIZE)
    return torch.stack([.3 * x[0], x[1].cumsum(1) / 4, 2 * x[2]])


def settle(norm, inputs):
    "Running statistics near those of the first input, so that an untrained network neither fades out nor blows up."
    energy = inputs[0].square().mean()
    norm.running_var.uniform_(.8, 1.2).mul_(energy)
    norm.running_mean.normal_(std=.1).mul_(energy.sqrt())


@torch.no_grad()
def settled(net, x):
    "The network ready to infer: norms settled, and logits of zero mean and unit spread."
    norms = [m for m in net.eval().modules() if getattr(m, "running_var", None) is not None]
    hooks = [m.register_forward_pre_hook(settle) for m in norms]
    features = net.backbone(x).mean((2, 3))
    for hook in hooks: hook.remove()
    logits = features @ net.classify.weight.normal_().T
    net.classify.weight.div_(logits.std(0).mean())
    net.classify.bias.copy_(-logits.mean(0) / logits.std(0).mean())
    return net


def check_levels(backbone, x):
    "The last level is the forward pass; channels are the promised ones; each level is half of the one before."
    maps = backbone.levels(x)
    assert tuple(m.shape[1] for m in maps) == backbone.level_features[-3:]
    assert [m.shape[2] for m in maps] == sorted((m.shape[2] for m in maps), reverse=True) and maps[0].shape[2] > maps[-1].shape[2]
    assert maps[-1].shape[1] == backbone.features and torch.equal(maps[-1], backbone(x))


def check_gradients(net, x):
    "Every parameter before the last map learns, with finite steps."
    net.train()(x).square().mean().backward()
    grads = {name: p.grad for name, p in net.backbone.named_parameters() if not name.startswith(UNUSED)}
    assert not [name for name, g in grads.items() if g is None or not g.isfinite().all()]
    assert next(iter(grads.values())).abs().sum() > 0
    net.zero_grad()


def imagenet_state(backbone):
    "Names and shapes of the RGB network with its classifier; the first layer is random, the rest zero."
    with torch.device("meta"): rgb = import_timm().create_model(backbone.name, **({"img_size": SIZE} if backbone.pad else {}))
    fill = lambda v: torch.rand(v.shape) if v.ndim == 4 and v.shape[1] == 3 else torch.zeros(v.shape, dtype=v.dtype)
    return {name: fill(v) for name, v in rgb.state_dict().items()}


def check_imagenet(backbone):
    "Such weights fit; only the first layer is changed, by a sum over colours."
    rgb, own = imagenet_state(backbone), backbone.net.state_dict()
    fitted = fit_state(rgb, backbone.net, "rgb.pth")
    changed = [name for name in own if fitted[name].shape != rgb[name].shape]
    assert set(fitted) == set(own) and len(changed) == 1
    torch.testing.assert_close(fitted[changed[0]], rgb[changed[0]].sum(1, keepdim=True))


def check_openvino(net, x):
    "The same probabilities from OpenVINO in float32, one window or three, and not the same for all windows."
    traced = torch.jit.trace(net, x[:2], check_trace=False)
    model = ov.convert_model(traced, example_input=x[:2], input=[(-1, *x.shape[1:])])
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad(): expected = net(x).numpy()
    assert expected.std(0).mean() > .1
    for n in (1, 3): assert np.abs(compiled(x[:n].numpy())[0] - expected[:n]).max() <= 1e-4


@pytest.mark.parametrize("arch", [pytest.param(a, marks=pytest.mark.slow) if a in LARGE else a for a in ARCHS])
def test_backbone(arch):
    torch.manual_seed(0)
    x, net = pictures(), Probabilities(Backbone(arch, size=SIZE, weights="none"))
    check_gradients(net, x)
    settled(net, x)
    with torch.no_grad(): check_levels(net.backbone, x)
    check_openvino(net, x)
    check_imagenet(net.backbone)
    del net
    gc.collect()


def test_names():
    assert [timm_id(name) for name in BACKBONES] == list(BACKBONES) and len(set(BACKBONES)) == len(BACKBONES)
    assert {timm_id(name) for name in SPELT} <= set(BACKBONES)
    assert timm_id("tf_efficientnet_b0_ns") == "tf_efficientnet_b0.ns_jft_in1k"
    for wrong in ("resnot18", "tf_efficientnet_b0.ns", ""):
        with pytest.raises(KitError) as caught: timm_id(wrong)
        assert "\n" not in str(caught.value) and repr(wrong) in str(caught.value)


def test_real_weights_by_channels():
    "The packaged ImageNet weights: grey pictures give the same map through one channel as through three."
    x = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    one, three = (Backbone("tf_efficientnet_lite0", in_chans=n).eval() for n in (1, 3))
    with torch.no_grad(): torch.testing.assert_close(one(x), three(x.repeat(1, 3, 1, 1)), rtol=1e-3, atol=1e-3)
    six = Backbone("tf_efficientnet_lite0", in_chans=6).net.conv_stem.weight
    torch.testing.assert_close(six, three.net.conv_stem.weight.repeat(1, 2, 1, 1) / 2)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s16_224"])
def test_plain_tokens_are_refused(name):
    with pytest.raises(KitError, match="is a plain token transformer"): Backbone(name, size=SIZE, weights="none")
