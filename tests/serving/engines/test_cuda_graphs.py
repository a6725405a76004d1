"""Recorded work that is run again: with CUDA graphs where there is a device, and as one could on the CPU everywhere."""

import copy
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import known_codes
import numpy as np
import pytest
import torch
from asserts import assert_same_bits
from known_codes import refused
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.serving import LiveModel
from fastforget.serving.engines import CUDAGraphs, Engine, cuda_graphs
from fastforget.serving.engines.torch_compile import check_no_cuda_graphs

Build = Callable[..., nn.Module]


class Again:
    """Records what was done as the doing itself, with the results always in the same memory."""

    recorded = 0

    def __init__(self, _: torch.device) -> None:
        self.lock = threading.Lock()

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        made = pytree.tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, work())
        Again.recorded += 1

        def replay() -> None:
            assert self.lock.locked()
            for own, new in zip(pytree.tree_leaves(made), pytree.tree_leaves(work()), strict=True):
                if isinstance(own, Tensor):
                    own.copy_(new)

        return replay, made

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self.lock:
            yield


ON_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_CUDA)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where models are."""
    if request.param == "cpu":
        monkeypatch.setattr(cuda_graphs, "Recorder", Again)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # outputs are compared to 1e-4
    return torch.device(request.param)


def close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).abs() <= 1e-4 * (1 + expected.abs())).all())


def test_follows_edits_in_place(network: Build, images: Tensor, device: torch.device) -> None:
    model, edited, images = network().to(device), network(1).to(device), images.to(device)
    engine = CUDAGraphs(images, images[:1])
    assert isinstance(engine, Engine)
    engine.check(model)
    before = engine(images)
    with torch.no_grad():
        assert close(before, model(images))
        assert close(engine(images[:1]), model(images[:1]))
        kept = before.clone()
        engine.stage(edited)()
        for own, new in zip(model.parameters(), edited.parameters(), strict=True):
            own.copy_(new)
        after = engine(images)
        assert close(after, edited(images))
        assert not close(after, before)
        assert_same_bits(before, kept)  # outputs are the caller's
    assert not after.requires_grad


def test_what_has_a_graph(
    network: Build, images: Tensor, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs like the examples do; all others are run as usual."""
    model, images = network().to(device), images.to(device)
    engine = CUDAGraphs(images, images[:2].double())
    with pytest.raises(RuntimeError, match=r"^`check` must have accepted a model first$"):
        engine(images)
    with pytest.raises(RuntimeError, match=r"^`check` must have accepted a model first$"):
        engine.stage(model)
    stream = torch.cuda.current_stream() if device.type == "cuda" else None
    with pytest.raises(ValueError, match=r"^`model` must be fit for a CUDA graph"):  # float64 in a float32 model
        engine.check(model)
    assert stream is None or torch.cuda.current_stream() == stream
    engine = CUDAGraphs(images, images[:2])
    engine.check(model)
    usual: list[int] = []
    model.register_forward_hook(lambda *_: usual.append(1))
    recorded = device.type == "cpu"  # there the model is run again
    for given, has_graph in [
        (images, True), (images.flip(0), True), (images[:2], True), (images[:3], False), (images[:0], False),
        (images.contiguous(memory_format=torch.channels_last), True),
    ]:  # fmt: skip
        usual.clear()
        with torch.no_grad():
            found, ran = engine(given), len(usual)
            assert ran == (1 if recorded or not has_graph else 0)
            assert close(found, model(given))
        found.zero_()  # of a graph, not its memory
        with torch.no_grad():
            assert close(engine(given), model(given))
    asked: list[Any] = []
    monkeypatch.setattr(type(engine._graphs[0]), "__call__", lambda _, leaves: asked.append(leaves))
    torch.set_autocast_enabled("cuda", True)
    try:
        with torch.no_grad():
            engine(images)
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert asked == []  # the graph has no casts
    engine(images)
    assert len(asked) == 1


class Several(nn.Module):
    """Takes tensors and a setting by name, writes to one, returns a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, shift: Tensor, scale: float = 1.0) -> dict[str, Any]:
        logits = scale * self.layer(x.mul_(2)) + shift
        return {"logits": logits, "pair": (logits.argmax(1), "text"), "scale": scale}


def test_structures(device: torch.device) -> None:
    model = Several().eval().to(device)
    x, shift = torch.randn(5, 4, device=device), torch.randn(3, device=device)
    engine = CUDAGraphs({"x": x.clone(), "shift": shift, "scale": 2.0}, (x.clone(), shift))
    engine.check(model)
    for args, kwargs in [((), {"x": x, "shift": shift, "scale": 2.0}), ((x, shift), {}), ((x, shift, 3.0), {})]:
        with torch.no_grad():  # the model writes to its input
            found, known = (run(*copy.deepcopy(args), **copy.deepcopy(kwargs)) for run in (engine, model))
        assert close(found["logits"], known["logits"])
        assert torch.equal(found["pair"][0], known["pair"][0])
        assert (found["pair"][1], found["scale"]) == ("text", known["scale"])


def test_what_it_refuses(network: Build, images: Tensor, device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"^there must be at least one example"):
        CUDAGraphs()
    with pytest.raises(TypeError, match=r"^`build` must be a function of a module, got int$"):
        CUDAGraphs(images, build=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^`tolerance` must be a positive number, got 0$"):
        CUDAGraphs(images, tolerance=0)
    model, images = network().to(device), images.to(device)
    with refused(model, ValueError, r"^`build` must return what can be called, got int$"):
        CUDAGraphs(images, build=lambda _: 3).check(model)
    frozen = copy.deepcopy(model)
    with refused(model, ValueError, "^the engine must run the weights it is given, got the outputs of those from be"):
        CUDAGraphs(images, build=lambda _: copy.deepcopy(frozen)).check(model)
    other = network(1).to(device)
    with refused(model, ValueError, "^outputs must be those of the eager model within 0.0001"):
        CUDAGraphs(images, build=lambda _: other).check(model)
    with refused(model, ValueError, "^`model` and the examples must be on one device, got "):
        CUDAGraphs(images.to("meta")).check(model)
    with pytest.raises(ValueError, match=r"^`model` must be in eval mode"):
        CUDAGraphs(images).check(network().train())


def test_only_on_a_cuda_device(network: Build, images: Tensor) -> None:
    model = network()
    with refused(model, ValueError, "^`model` must be on a CUDA device for CUDA graphs, got cpu$"):
        CUDAGraphs(images).check(model)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_live_model(device: torch.device, compiled: bool) -> None:
    """Answers of one version are all the same, from whatever thread, and are those of the model."""
    model, codes, data = known_codes.digits()
    model, codes, x = copy.deepcopy(model).to(device), codes.to(device), data.x_test[:32].to(device)
    build = (lambda module: torch.compile(module, backend="eager")) if compiled else None
    subject = LiveModel(model, codes, engine=CUDAGraphs(x, build=build))
    count, seen, stop, errors = Again.recorded, list[Any](), threading.Event(), list[BaseException]()

    def client() -> None:
        try:
            stream = torch.cuda.Stream() if device.type == "cuda" else None
            while not stop.is_set():
                with torch.cuda.stream(stream):
                    seen.append(subject.predict(x))
                time.sleep(0.001)
        except BaseException as error:  # noqa: BLE001 (shown below)
            errors.append(error)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        subject.forget(3)
        for _ in range(10):
            subject.revert(0)
            subject.apply(subject.receipts(1)[0])
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    if device.type == "cuda":
        torch.cuda.synchronize()  # answers are on streams of their own
    assert errors == []
    assert Again.recorded == count  # nothing is recorded anew
    known: dict[tuple[int, ...], Tensor] = {}
    for prediction in seen:
        edits = subject.versions[prediction.version].classes
        assert_same_bits(prediction.outputs, known.setdefault(edits, prediction.outputs))
    assert set(known) == {(), (3,)}
    with torch.no_grad():
        assert close(known[(3,)], model(x))
        subject.revert(0)
        assert close(known[()], model(x))
    assert subject.health()["intact"]


def test_a_model_that_waits_for_the_device(device: torch.device) -> None:
    """Which cannot be recorded; what comes after is as it was."""

    class Waits(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float(x.sum() > 0)

    x, model = torch.rand(2, 3, device=device), Waits(3, 2).eval().to(device)
    if device.type == "cuda":
        stream = torch.cuda.current_stream()
        with pytest.raises(ValueError, match=r"^`model` must be fit for a CUDA graph"):
            CUDAGraphs(x).check(model)
        assert torch.cuda.current_stream() == stream
    fit = nn.Linear(3, 2).eval().to(device)
    engine = CUDAGraphs(x)
    engine.check(fit)
    with torch.no_grad():
        assert close(engine(x), fit(x))


def test_values_that_cannot_be_compared_have_no_graph(device: torch.device) -> None:
    """Neither has an empty batch; what has none is the model's to take or to refuse."""

    class Scaled(nn.Linear):
        def forward(self, x: Tensor, by: Any) -> Tensor:
            return super().forward(x) * float(by[0])

    model, x, by = Scaled(3, 2).eval().to(device), torch.rand(2, 3, device=device), np.array([2.0, 3.0])
    engine = CUDAGraphs((x, by))
    engine.check(model)
    with torch.no_grad():
        for given in ((x, np.array([4.0, 5.0])), (x[:0], by)):
            assert_same_bits(engine(*given), model(*given))
        with pytest.raises(RuntimeError):
            engine(x[:, :2], by)


class OnCuda(nn.Linear):
    """Says that it is there."""

    def parameters(self, *_: Any, **__: Any) -> Any:
        return iter([SimpleNamespace(is_cuda=True)])


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune", "default", "max-autotune-no-cudagraphs"])
def test_modes_with_graphs_are_known(mode: str) -> None:
    model: Any = OnCuda(2, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script_method` is deprecated", DeprecationWarning)
        replaced, function = torch.compile(model, mode=mode), torch.compile(model.forward, mode=mode)
        model.compile(mode=mode)
    for made in (replaced, function, model._compiled_call_impl):
        if mode in ("reduce-overhead", "max-autotune"):
            with pytest.raises(ValueError, match=r"^torch.compile must not make CUDA graphs"):
                check_no_cuda_graphs(made, model)
        else:
            check_no_cuda_graphs(made, model)
    check_no_cuda_graphs(replaced, nn.Linear(2, 2))  # on the CPU there are none


@ON_CUDA
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_torch_compile_with_graphs_of_its_own_is_refused(mode: str) -> None:
    model, codes, _ = known_codes.digits()
    there = copy.deepcopy(model).cuda()
    in_place = copy.deepcopy(there)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script_method` is deprecated", DeprecationWarning)
        compiled: Any = torch.compile(there, mode=mode)
        in_place.compile(mode=mode)
        plain: Any = torch.compile(there)
    for model in (compiled, in_place):
        with refused(there, ValueError, "^torch.compile must not make CUDA graphs"):
            LiveModel(model, codes.to("cuda"))
    x = torch.rand(2, 1, 8, 8, device="cuda")
    with refused(there, ValueError, "^torch.compile must not make CUDA graphs"):
        CUDAGraphs(x, build=lambda module: torch.compile(module, mode=mode)).check(there)
    LiveModel(plain, codes.to("cuda"))


def test_where_there_are_no_graphs_any_mode_will_do() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script_method` is deprecated", DeprecationWarning)
        LiveModel(torch.compile(nn.Linear(2, 2).eval(), mode="reduce-overhead"))  # type: ignore[arg-type]
