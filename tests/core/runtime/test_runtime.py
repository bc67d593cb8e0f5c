"""The sparse runtime against torch: convolutions of all kinds, graphs, threads, and memory that is nobody's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("llvmlite")

from yolov5_prune_plugin.core.runtime import choose, native
from yolov5_prune_plugin.core.runtime.fast import FastModel
from yolov5_prune_plugin.core.runtime.graph import Convolution, Decode, Torch, Value, trace
from yolov5_prune_plugin.core.runtime.native import Kernels, Target, kernels, this_machine
from yolov5_prune_plugin.core.runtime.plan import Choice, Planner, _packed_in_time
from yolov5_prune_plugin.core.runtime.program import Program
from yolov5_prune_plugin.core.runtime.streams import build, entries
from yolov5_prune_plugin.errors import PruneError

CLOSE = 1e-4  # of the largest
ACTIVATIONS = {"none": nn.Identity, "silu": nn.SiLU, "relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1),
               "hardswish": nn.Hardswish}  # fmt: skip


@pytest.fixture(scope="module")
def here() -> Kernels:
    return kernels(this_machine())


def run(model: nn.Module, x: Tensor, kernels_: Kernels, choice: Choice | None = None, threads: int = 1) -> Any:
    planner = Planner(trace(model, x), kernels_, threads)
    convolutions = [o for o in planner.graph.operations if isinstance(o, Convolution)]
    chosen = choose.applied(planner, {}) if choice is None else dict.fromkeys(convolutions, choice)
    return Program(planner.plan(chosen), kernels_)(x, threads=threads)


def check(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert found.isfinite().all()
    assert (found - wanted).abs().max() <= CLOSE * wanted.abs().max().clamp_min(1e-6)


def zeroed(weight: Tensor, share: float, block: int) -> None:
    """Zero a share of weights in blocks of output channels."""
    many = -(-len(weight) // block)
    kept = (torch.rand(many, *weight.shape[1:]) >= share).repeat_interleave(block, 0)[: len(weight)]
    weight.data.mul_(kept)


def test_a_stream_by_hand() -> None:
    """Two outputs in a block, three taps: the second tap is zero in both, the first in one of them."""
    weight = np.array([[0, 0, 5], [2, 0, 7]], np.float32)
    made = build(weight, np.array([10, 11, 12]), np.zeros(2, int), 2, [0, 3], 1)
    assert made.data[:, :2].tolist() == [[0, 2], [5, 7]]
    assert np.ascontiguousarray(made.data[:, 2]).view(np.int32).tolist() == [10, 12]
    assert made.counts.tolist() == [[2]]
    single = build(weight, np.array([10, 11, 12]), np.zeros(2, int), 1, [0, 1, 3], 2)
    assert single.counts.tolist() == [[0, 1], [1, 1]]  # by blocks of inputs, and outputs
    assert single.data[:, 0].tolist() == [2, 5, 7]
    assert single.starts.tolist() == [[0, 0], [8, 16]]
    assert [entries(weight.reshape(2, 3, 1, 1), block) for block in (1, 2)] == [3, 2]


@settings(max_examples=120)
@given(data=st.data())
def test_any_convolution(data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    depthwise = draw(st.integers(0, 5)) == 0
    inputs = draw(st.integers(1, 6)) * groups
    outputs = draw(st.integers(1, 7)) * groups
    if depthwise:
        groups, outputs = inputs, inputs * draw(st.integers(1, 2))
    size = [draw(st.integers(1, 6)) for _ in range(2)]
    stride = [draw(st.integers(1, 3)) for _ in range(2)]
    padding = [draw(st.integers(0, 4)) for _ in range(2)]
    dilation = [draw(st.integers(1, 3)) for _ in range(2)]
    shape = [draw(st.integers(max(1, (k - 1) * d + 1 - 2 * p), 40)) for k, d, p in zip(size, dilation, padding)]
    batch, zeros = draw(st.integers(1, 3)), draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    block = draw(st.sampled_from([1, 2, 4]))
    torch.manual_seed(draw(st.integers(0, 99)))
    first = nn.Conv2d(3, inputs, 1)
    conv = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=draw(st.booleans()))
    zeroed(conv.weight, zeros, draw(st.sampled_from([1, 4])))
    activation = ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]()
    ours = kernels(this_machine())
    vectors = draw(st.sampled_from(ours.tiles[block]))
    choice = Choice(block, vectors, draw(st.sampled_from([0, 2000, 24000])), draw(st.integers(0, 2)))
    model = nn.Sequential(*([] if draw(st.booleans()) and inputs == 3 else [first]), conv, activation).eval()
    x = torch.randn(batch, 3, *shape)
    with torch.no_grad():
        check(run(model, x, ours, choice, threads=draw(st.sampled_from([1, 2]))), model(x))


class _Residual(nn.Module):
    """A sum before the activation, one after, one of a thing with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.norm(self.a(x)))
        x = functional.relu(self.b(x) + x)
        y = x + functional.silu(self.c(x))
        return y + y


class _Joins(nn.Module):
    """Joins in joins, twice the same, of the input, of parts; pools; an operation that only torch knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.c = nn.Conv2d(30, 5, 1)

    def forward(self, x: Tensor) -> Any:
        a = functional.hardswish(self.a(x))
        first, second = a.chunk(2, 1)
        b = self.b(torch.cat((second, first), 1))
        inner = torch.cat((b, functional.max_pool2d(b, 5, 1, 2)), 1)
        soft = functional.softmax(b[:, 2:6], 1)
        outer = torch.cat((inner, x, inner[:, :1], first, b, soft), 1)
        outer = functional.interpolate(functional.max_pool2d(outer, 2, 2), scale_factor=2, mode="nearest")
        return {"all": self.c(outer), "mean": b.mean((2, 3)), "b": b, "number": 3, "again": [outer, x.flip(3)]}


class _Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class _Sizes(nn.Module):
    """Maps of several sizes, all with zeros around them, that are needed one after the other; one that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 6, 2, 2), nn.Conv2d(8, 12, 3, 2, 1)
        self.c, self.d = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(24, 8, 5, padding=4, dilation=2)
        self.e, self.f = nn.Conv2d(16, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = functional.silu(self.a(x))
        x = functional.silu(self.b(first))
        x = self.d(torch.cat((functional.max_pool2d(x, 5, 1, 2), functional.leaky_relu(self.c(x))), 1))
        x = self.e(torch.cat((functional.interpolate(x, scale_factor=2.0, mode="nearest"), first), 1))
        return self.f(functional.softmax(x, 1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (2, 3, 40, 24)])
def test_nothing_is_read_that_was_not_written(here: Kernels, threads: int, shape: tuple[int, ...]) -> None:
    """Memory is full of NaN before the frame, as others may have used it; all zeros around maps are written anew."""
    torch.manual_seed(0)
    model, x = _Sizes().eval(), torch.randn(shape)
    planner = Planner(trace(model, x), here, threads)
    plan = planner.plan(choose.applied(planner, {}))
    clean = plan.workspace.copy()
    plan.workspace.fill(np.nan)
    for size, place in planner.masks.items():
        mask = slice(place // 4, place // 4 + len(planner.layouts[size].mask()))
        plan.workspace[mask] = clean[mask]
    with torch.no_grad():
        for _ in range(2):
            check(Program(plan, here)(x, threads=threads), model(x))


def test_maps_of_all_sizes_share_memory() -> None:
    """Ranges overlap only if they are not needed at one time; the arena is smaller than all maps together."""
    values = [Value((1,), torch.float32) for _ in range(4)]
    wanted = {values[0]: (0, 1, 100), values[1]: (1, 2, 60), values[2]: (2, 3, 90), values[3]: (3, 4, 70)}
    found, size = _packed_in_time(wanted)
    for a, (begin, end, floats) in wanted.items():
        for b, (other_begin, other_end, others) in wanted.items():
            if a is not b and begin <= other_end and other_begin <= end:
                assert found[a] + floats <= found[b] or found[b] + others <= found[a]
    assert size == 160  # no less than the first and the second need at one time


@pytest.mark.parametrize("threads", [1, 3])
def test_sums(here: Kernels, threads: int) -> None:
    torch.manual_seed(0)
    model, x = _Residual().eval(), torch.randn(2, 8, 13, 21)
    with torch.no_grad():
        check(run(model, x, here, threads=threads), model(x))
    graph = trace(model, x)
    assert not graph.left_to_torch
    assert [o.activation for o in graph.operations if isinstance(o, Convolution)] == ["silu", "relu", "silu", "none"]


def test_joins_parts_and_what_only_torch_knows(here: Kernels) -> None:
    torch.manual_seed(0)
    model, x = _Joins().eval(), torch.randn(2, 4, 12, 20)
    with torch.no_grad():
        found, wanted = run(model, x, here), model(x)
    assert found.keys() == wanted.keys()
    assert found["number"] == 3
    for key in ("all", "mean", "b"):
        check(found[key], wanted[key])
    for a, b in zip(found["again"], wanted["again"]):
        check(a, b)
    assert "_softmax" in trace(model, x).left_to_torch


def test_values_that_are_looked_at_are_refused() -> None:
    with pytest.raises(PruneError, match="values of its input"):
        trace(_Unknown(), torch.ones(1, 1, 2, 2))


class _Head(nn.Module):
    """The head of YOLOv5, as releases wrote it."""

    def __init__(self, release: str, classes: int) -> None:
        super().__init__()
        self.release, self.no = release, classes + 5
        self.m = nn.ModuleList(nn.Conv2d(4, 3 * self.no, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        maps, made = [], []
        for i, m in enumerate(self.m):
            y = m(functional.max_pool2d(x, 2, 2) if i else x)
            b, _, ny, nx = y.shape
            y = y.view(b, 3, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            grid = torch.stack(torch.meshgrid(torch.arange(nx), torch.arange(ny), indexing="xy"), 2).float()
            grid = grid.expand(1, 3, ny, nx, 2)
            anchors = torch.tensor([[10.0, 13], [16, 30], [33, 23]]).view(1, 3, 1, 1, 2).expand(1, 3, ny, nx, 2)
            maps.append(y)
            if self.release == "7.0":
                xy, wh, rest = y.sigmoid().split((2, 2, self.no - 4), 4)
                z = torch.cat(((xy * 2 + (grid - 0.5)) * 8, (wh * 2) ** 2 * anchors, rest), 4)
            elif self.release == "segment":
                xy, wh, conf, mask = y.split((2, 2, 2, self.no - 6), 4)
                xy, wh = (xy.sigmoid() * 2 + grid) * 8, (wh.sigmoid() * 2) ** 2 * anchors
                z = torch.cat((xy, wh, conf.sigmoid(), mask), 4)
            else:
                z = y.sigmoid()
                z[..., 0:2] = (z[..., 0:2] * 2 - 0.5 + grid) * 8
                z[..., 2:4] = (z[..., 2:4] * 2) ** 2 * anchors
            made.append(z.view(b, -1, self.no))
        return torch.cat(made, 1), maps


@pytest.mark.parametrize("classes", [1, 2, 20])
@pytest.mark.parametrize("release", ["6.0", "7.0", "segment"])
def test_heads(here: Kernels, release: str, classes: int) -> None:
    torch.manual_seed(0)
    model, x = _Head(release, classes + (release == "segment")).eval(), torch.randn(2, 4, 10, 14)
    graph = trace(model, x)
    assert sum(isinstance(o, Decode) for o in graph.operations) == 1
    assert not graph.left_to_torch
    with torch.no_grad():
        (found, maps), (wanted, raw) = run(model, x, here), model(x)
    check(found, wanted)
    for a, b in zip(maps, raw):
        check(a, b)


class _Masks(_Head):
    """A detector's head beside a map that goes out as it is, as a segmenter has it."""

    def __init__(self) -> None:
        super().__init__("segment", 3)
        self.masks = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return (*super().forward(functional.silu(x)), self.masks(x), x.mean((2, 3)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("together", "parts"), [(1, 6), (2, 3), (4, 2), (5, 2), (6, 1), (9, 1)])
def test_a_batch_in_parts(here: Kernels, threads: int, together: int, parts: int) -> None:
    """Six images, at most so many together: the largest number that divides them; the same bits as all at once."""
    torch.manual_seed(0)
    model, x = _Masks().eval(), torch.randn(6, 4, 10, 14)
    made = []
    for some in (together, None):
        planner = Planner(trace(model, x), here, threads, some)
        assert planner.batch * (parts if some else 1) == 6
        with torch.no_grad():
            program = Program(planner.plan(choose.applied(planner, {})), here)
            made.append(program(x, threads=threads))
            assert len(list(program.parts(program.bases((x,), {})))) == 6 // planner.batch
    for found, all_at_once, wanted in zip(*(torch.utils._pytree.tree_leaves(one) for one in (*made, model(x)))):
        assert torch.equal(found, all_at_once)
        check(found, wanted)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softmax(0), nn.Conv2d(4, 4, 1)),  # torch mixes images in between
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2)),  # the kernels' own memory goes out
    ],
)
def test_a_batch_that_cannot_be_parted(here: Kernels, model: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 4, 6, 6)
    planner = Planner(trace(model.eval(), x), here, 1, 1)
    assert planner.batch == 4
    with torch.no_grad():
        check(Program(planner.plan(choose.applied(planner, {})), here)(x, threads=1), model(x))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 200.0, -200.0])
def test_what_is_no_number_passes(here: Kernels, activation: str, value: float) -> None:
    """A dense layer, so that torch and the kernels multiply the same numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), ACTIVATIONS[activation](), nn.MaxPool2d(3, 1, 1)).eval()
    with torch.no_grad():
        model[0].weight.abs_()
        x = torch.randn(1, 2, 9, 9)
        x[0, 1, 4, 5] = value
        torch.testing.assert_close(run(model, x, here), model(x), equal_nan=True, rtol=1e-4, atol=1e-4)


def test_a_zero_weight_hides_what_is_no_number(here: Kernels) -> None:
    """Torch makes NaN of 0 * inf; what is left out is left out."""
    model = nn.Conv2d(2, 1, 1, bias=False)
    model.weight.data = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    x = torch.ones(1, 2, 2, 2)
    x[0, 1] = float("inf")
    assert run(model, x, here).tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]


def test_the_same_bits_whatever_the_plan(here: Kernels) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 13, 3, 1, 1), nn.SiLU()).eval()
    zeroed(model[0].weight, 0.5, 1)
    zeroed(model[2].weight, 0.5, 4)
    x = torch.randn(2, 3, 37, 51)
    found = [
        run(model, x, here, Choice(block, vectors, cached, ahead), threads)
        for block, sizes in here.tiles.items() for vectors in sizes
        for cached, ahead, threads in ((0, 0, 1), (3000, 1, 2), (24000, 2, 4))
    ]  # fmt: skip
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize(("width", "registers"), [(4, 16), (4, 32), (8, 16), (16, 32)])
def test_vectors_of_other_processors(width: int, registers: int) -> None:
    """The code for AVX-512, AVX2, SSE and NEON, with LLVM splitting what this processor has not."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    other = Kernels(Target("other", "", llvm.get_host_cpu_name(), features, width, registers))
    torch.manual_seed(0)
    model, x = _Joins().eval(), torch.randn(1, 4, 12, 20)
    head, y = _Head("7.0", 20).eval(), torch.randn(1, 4, 10, 14)
    with torch.no_grad():
        check(run(model, x, other)["all"], model(x)["all"])
        check(run(head, y, other)[0], head(y)[0])


@pytest.mark.parametrize(
    ("triple", "cpu", "features", "width", "registers", "word"),
    [("aarch64-linux-gnu", "cortex-a72", "", 4, 32, "fmla"),
     ("x86_64-linux-gnu", "skylake-avx512", "+avx512f,-prefer-256-bit", 16, 32, "zmm")],
)  # fmt: skip
def test_code_for_other_processors(triple: str, cpu: str, features: str, width: int, registers: int, word: str) -> None:
    assert word in native.assembly(Target("other", triple, cpu, features, width, registers))


GUARD = """
import ctypes, mmap, sys
import numpy as np, torch
sys.path.insert(0, {root!r})
from tests.core.runtime.test_runtime import _Head, _Joins, guarded
for model, x in ((_Joins().eval(), torch.randn(2, 4, 12, 20)), (_Head("7.0", 20).eval(), torch.randn(1, 4, 9, 13))):
    guarded(model, x)
print("inside")
"""


def _before_a_wall(floats: int) -> np.ndarray:
    """Memory that ends where nothing may be read or written."""
    import ctypes
    import mmap

    page = mmap.PAGESIZE
    whole = -(-floats * 4 // page) * page
    memory = mmap.mmap(-1, whole + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(address + whole), page, 0) == 0
    _KEPT.append(memory)
    return np.frombuffer(memory, np.float32, floats, whole - floats * 4)


_KEPT: list[Any] = []


def guarded(model: nn.Module, x: Tensor) -> None:
    """Run with every buffer before a wall, for every block."""
    ours = kernels(this_machine())
    walled = torch.from_numpy(_before_a_wall(x.numel())).view(x.shape)
    walled.copy_(x)
    for block in ours.tiles:
        for threads in (1, 2):
            planner = Planner(trace(model, x), ours, threads)
            convolutions = [o for o in planner.graph.operations if isinstance(o, Convolution)]
            plan = planner.plan({c: Choice(block, ours.tiles[block][0], 2000, True) for c in convolutions})
            for name in ("workspace", "weights"):
                old = getattr(plan, name)
                floats = old.nbytes // 64 * 16  # on a line of the cache
                new = _before_a_wall(floats)
                new.view(np.uint8)[: old.nbytes] = old.view(np.uint8)[: floats * 4]
                setattr(plan, name, new if name == "workspace" else new.view(np.uint8))
            program = Program(plan, ours)
            program._memory = lambda base, floats: torch.from_numpy(_before_a_wall(floats))  # type: ignore[method-assign]
            program(walled, threads=threads)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
def test_nothing_outside_the_buffers_is_read_or_written() -> None:
    code = GUARD.format(root=str(Path(__file__).parents[3]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("inside"), done.stderr[-2000:]


def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.SiLU()).eval()
    zeroed(model[2].weight, 0.7, 1)
    return model


def test_a_module_like_the_model() -> None:
    model = small()
    fast = FastModel(model)
    with torch.no_grad():
        for shape in ((1, 3, 16, 16), (2, 3, 24, 32), (1, 3, 16, 16)):
            x = torch.randn(shape)
            check(fast(x), model(x))
        with torch.inference_mode():
            y = torch.randn(1, 3, 16, 16)
            check(fast(y), model(y))
    assert not fast.reasons
    assert fast.left_to_torch(x) == []
    assert fast.model is model


def test_changed_weights_are_noticed() -> None:
    model, x = small(), torch.randn(1, 3, 16, 16)
    fast = FastModel(model)
    with torch.no_grad():
        before = fast(x)
        model[2].weight.mul_(2)
        check(fast(x), model(x))
        assert not torch.equal(fast(x), before)
        model[0].weight = nn.Parameter(model[0].weight * 3)
        check(fast(x), model(x))


def test_copies() -> None:
    import copy
    import pickle

    model, x = small(), torch.randn(1, 3, 16, 16)
    model[3].train()  # modes stay as they are
    fast = FastModel(model)
    assert model[3].training
    with torch.no_grad():
        wanted = fast(x)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(other(x), wanted)


def test_outputs_stay_what_they_are() -> None:
    """Memory is used again when nobody holds the tensor, and not before; also if only a view of it is held."""
    torch.manual_seed(0)
    model = _Head("7.0", 3).eval()
    fast = FastModel(model)
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        held = [(fast(x + i)[0][:, :2], fast(x + i)[1][0][..., 0]) for i in range(8)]
        for i, (rows, raw) in enumerate(held):
            wanted, maps = model(x + i)
            check(rows, wanted[:, :2])
            check(raw, maps[0][..., 0])
        del held, rows, raw
        places = {fast(x)[0].data_ptr() for _ in range(9)}
    assert len(places) == 1


def test_torch_does_what_the_kernels_cannot() -> None:
    model, x = small(), torch.randn(1, 3, 16, 16)
    fast = FastModel(model)
    asked = x.clone().requires_grad_()
    fast(asked).sum().backward()
    assert asked.grad is not None
    model.double()(x.double())
    assert fast(x.double()).dtype is torch.float64
    model.float().train()
    fast(x)
    assert fast.reasons == {"gradients": 1, "input in float64": 1, "training": 1}
    with pytest.raises(PruneError, match=r"0\.weight is torch\.float64"):
        FastModel(small().double())(x)


def test_layers_are_measured() -> None:
    model, x = small(), torch.randn(1, 3, 32, 32)
    first, second = FastModel(model).layers(x, repeats=1)
    assert (first.name, second.name) == ("0.weight", "2.weight")
    assert first.zeros == 0
    assert second.zeros == pytest.approx((model[2].weight == 0).float().mean().item())
    assert second.multiplications == 8 * 8 * 9 * 16 * 16
    assert first.kernel == "dense"
    assert min(first.ms, first.before, first.share, 1 - first.share) > 0


def test_a_plan_is_kept() -> None:
    model, x = small(), torch.randn(1, 3, 16, 16)
    text = FastModel(model).save_plan(x)
    assert set(json.loads(text)["layers"]) == {"0.weight", "2.weight"}
    again = FastModel(model, plan=text)
    with torch.no_grad():
        check(again(x), model(x))
    assert again.save_plan(x) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda plan: "[]", "is not a plan"), (lambda plan: "{", "is not a plan"),
     (lambda plan: json.dumps({**plan, "format": 9}), "format 9"),
     (lambda plan: json.dumps({**plan, "kernels": "vax"}), "for vax kernels"),
     (lambda plan: json.dumps({**plan, "layers": {"0.weight": {"block": 3, "vectors": 1, "cached": 0, "ahead": 1}}}),
      "no kernel of 3 x 1"),
     (lambda plan: json.dumps({**plan, "layers": {**plan["layers"], "9.weight": plan["layers"]["0.weight"]}}),
      "that the model has not: 9.weight")],
)  # fmt: skip
def test_a_wrong_plan_is_refused(change: Any, message: str) -> None:
    model, x = small(), torch.randn(1, 3, 16, 16)
    plan = json.loads(FastModel(model).save_plan(x))
    with pytest.raises(PruneError, match=message):
        FastModel(model, plan=change(plan))(x)


def test_levels() -> None:
    model, x = small(), torch.randn(1, 3, 16, 16)
    if this_machine().level in ("avx2", "avx512"):
        fast = FastModel(model, level="sse")
        assert fast.level == "sse"
        with torch.no_grad():
            check(fast(x), model(x))
    with pytest.raises(PruneError, match="not vax"):
        FastModel(model, level="vax")


def test_without_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PruneError, match=r"pip install 'yolov5-prune-plugin\[runtime\]'"):
        FastModel(small())


def test_left_to_torch_is_in_order() -> None:
    graph = trace(_Joins().eval(), torch.randn(1, 4, 12, 20))
    names = [o.function._schema.name for o in graph.operations if isinstance(o, Torch)]
    assert "aten::_softmax" in names


@pytest.mark.parametrize(("version", "fine"), [("0.43.0", False), ("0.44.0", True), ("0.50.0rc1", True), ("1.2", True)])
def test_the_oldest_llvmlite(monkeypatch: pytest.MonkeyPatch, version: str, fine: bool) -> None:
    """It is said which one is here."""
    monkeypatch.setattr(native.metadata, "version", lambda name: version)
    assert (native.missing() == "") == fine
    if not fine:
        with pytest.raises(PruneError, match=r"needs llvmlite: pip install .*; here is llvmlite 0\.43\.0, and 0\.44"):
            native.this_machine()
