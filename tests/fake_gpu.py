"""A stand-in for a GPU, which computes on the CPU.

Its tensors say that they lie on cuda. Like CUDA's they refuse to meet tensors that lie elsewhere, numbers from a CPU's generator, and numpy.
Numbers are those of the CPU, so that results can be compared to the last bit.
It knows nothing of speed, streams and memory.
"""
import threading
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
import torch._dynamo   # It reads torch's functions when the first optimiser is made, which should not be those of the stand-in
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
APART = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
aten, CpuGenerator, CpuAutocast = torch.ops.aten, torch.Generator, torch.autocast
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
INDICES = torch.long, torch.int, torch.bool, torch.uint8   # May lie on the CPU


class OnGpu(torch.Tensor):
    "A tensor of the stand-in; `held` has its values."
    device, is_cuda = property(lambda self: CUDA), property(lambda self: True)

    @staticmethod
    def __new__(cls, held):
        new = torch.Tensor._make_wrapper_subclass(cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=CPU)
        new.held = held
        return new

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        flat, spec = tree_flatten((args, kwargs or {}))
        check_together(func, flat)
        args, kwargs = tree_unflatten([x.held if isinstance(x, OnGpu) else x for x in flat], spec)
        given = {id(x.held): x for x in flat if isinstance(x, OnGpu)}              # what changes in place is given back
        return tree_map_only(torch.Tensor, lambda x: given[id(x)] if id(x) in given else on_same_side(func, x), func(*args, **kwargs))

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = OnGpu(self.held.clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter): memo[id(self)]._is_param = True
        return memo[id(self)]

    def __reduce_ex__(self, protocol): return self.held.__reduce_ex__(protocol)   # as if it was read with map_location="cpu"


def on_same_side(func, x):
    "The result of an operation: on the stand-in, unless a tensor of the CPU was written to."
    return x if func is aten.copy_.default else OnGpu(x)


def check_together(func, flat):
    "Refuse what CUDA refuses."
    check_generators(func, flat)
    elsewhere = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, OnGpu) and x.dim()]
    if func in INDEXED: elsewhere = [x for x in elsewhere if x.dtype not in INDICES]
    if elsewhere and func is not aten.copy_.default: raise RuntimeError(f"{APART} ({func})")


def check_generators(func, flat):
    "Refuse a CPU's generator."
    if any(isinstance(x, CpuGenerator) and getattr(x, "kind", "cpu") != "cuda" for x in flat):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")


def is_cuda(x): return isinstance(x, (str, torch.device)) and str(x).startswith("cuda")


class ToGpu(torch.autograd.Function):
    "A copy on the stand-in, with gradients."
    @staticmethod
    def forward(ctx, x): return OnGpu(x.detach().clone())
    @staticmethod
    def backward(ctx, grad): return grad.held


class ToCpu(torch.autograd.Function):
    "A copy on the CPU, with gradients."
    @staticmethod
    def forward(ctx, x): return x.held.detach().clone()
    @staticmethod
    def backward(ctx, grad): return OnGpu(grad)


def to_cpu(x): return ToCpu.apply(x) if isinstance(x, OnGpu) else x


def to_numpy(x, **options):
    "What torch says to tensors of a GPU."
    if isinstance(x, OnGpu): raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
    return torch.Tensor.numpy(x, **options)


def plain(method): return lambda x, *args, **options: method(x.held if isinstance(x, OnGpu) else x, *args, **options)


def to(x, *args, **options):
    "Tensor.to."
    words = [*args, *options.values()]
    where = next((w.device if isinstance(w, torch.Tensor) else w for w in words if isinstance(w, (str, torch.device, torch.Tensor))), None)
    home = lambda w: CPU if is_cuda(w) else w.held if isinstance(w, OnGpu) else w
    x = x if where is None or is_cuda(where) else to_cpu(x)
    out = torch.Tensor.to(x, *map(home, args), **{k: home(v) for k, v in options.items()})
    return ToGpu.apply(out) if is_cuda(where) and not isinstance(out, OnGpu) else out


INSTEAD = {torch.Tensor.cpu: to_cpu, torch.Tensor.to: to, torch.Tensor.numpy: to_numpy,
           torch.Tensor.tolist: plain(torch.Tensor.tolist), torch.Tensor.__repr__: plain(torch.Tensor.__repr__)}


class FakeGpu(TorchFunctionMode):
    "While it is entered, what is sent to cuda, or made there, lies on the stand-in."
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in INSTEAD: return INSTEAD[func](*args, **kwargs)
        if not is_cuda(kwargs.get("device")): return func(*args, **kwargs)
        check_generators(func, kwargs.values())
        out = func(*args, **kwargs | dict(device=CPU))
        return out if isinstance(out, OnGpu) else OnGpu(out)


class Generator(CpuGenerator):
    "A generator that says where it is."
    device = property(lambda self: torch.device(self.kind))

    def __new__(cls, device="cpu"):
        new = super().__new__(cls, "cpu")
        new.kind = torch.device(device).type
        return new


class autocast(CpuAutocast):
    "Half precision of the stand-in is the CPU's."
    def __init__(self, device_type, *args, **options): super().__init__("cpu" if device_type == "cuda" else device_type, *args, **options)


@contextmanager
def parameters_stay_themselves():
    "A module that moves to the stand-in keeps its parameter objects, as on its way to a GPU."
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try: yield
    finally: torch.__future__.set_swap_module_params_on_conversion(before)


@contextmanager
def fake_gpu(
    capability=(7, 5),  # A T4's; bfloat16 from (8, 0) on
):
    "A machine with one GPU, for all threads that are started meanwhile."
    run, nothing = threading.Thread.run, lambda *_: None
    def _run(thread):
        with FakeGpu(): run(thread)
    cuda = dict(is_available=lambda: True, device_count=lambda: 1, get_device_capability=lambda *_: capability, synchronize=nothing, manual_seed_all=nothing,
                is_current_stream_capturing=lambda: False, get_rng_state=lambda *_: torch.get_rng_state(), set_rng_state=nothing)
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(torch.cuda, **cuda))
        stack.enter_context(patch.multiple(torch, Generator=Generator, autocast=autocast))
        stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))   # else GradScaler does nothing
        stack.enter_context(patch("threading.Thread.run", _run))
        stack.enter_context(parameters_stay_themselves())
        stack.enter_context(FakeGpu())
        yield
