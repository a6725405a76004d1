"""What every engine must do, whatever runs the weights."""

import gc
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from torch import Tensor, nn

from fastforget import one_shot
from fastforget.serving import LiveModel
from fastforget.serving.engines import AOTInductor, Engine, OnnxRuntime, OpenVINO, Rebuilt
from fastforget.serving.engines.swapped import Swapped
from fastforget.serving.gate import Gate

Network = Callable[..., nn.Module]


def scripted(model: nn.Module, example: Tensor) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"`torch\.jit\.(trace|trace_method|freeze)` is deprecated", DeprecationWarning
        )
        made: Callable[..., Tensor] = torch.jit.freeze(torch.jit.trace(model, example))
        return made


def torch_script(request: pytest.FixtureRequest, example: Tensor) -> Engine:
    return Rebuilt(lambda model: scripted(model, example), example=example)


def onnx_runtime(request: pytest.FixtureRequest, example: Tensor) -> Engine:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return OnnxRuntime(request.getfixturevalue("exported"), example=example, options=options)


def openvino(request: pytest.FixtureRequest, example: Tensor) -> Engine:
    pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return OpenVINO(request.getfixturevalue("exported"), example=example, settings=settings)


def aot_inductor(request: pytest.FixtureRequest, example: Tensor) -> Engine:
    return AOTInductor(request.getfixturevalue("packaged"), example=example, runners=2)


ENGINES = [torch_script, onnx_runtime, openvino, pytest.param(aot_inductor, marks=pytest.mark.slow)]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, images: Tensor) -> Swapped:
    """An engine that runs the network with seed 0."""
    made = request.param(request, images)
    assert isinstance(made, Engine)
    return made


def assert_close(found: Tensor, model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        assert float((found - model(images)).abs().max()) <= 1e-5


def test_follows_edits_and_back(engine: Swapped, network: Network, images: Tensor) -> None:
    model, edited = network(), network(1)
    engine.check(model)
    before = engine(images)
    assert_close(before, model, images)
    switch = engine.stage(edited)
    assert_same_bits(engine(images), before)
    running = weakref.ref(engine._predictor)
    switch()
    assert_close(engine(images), edited, images)
    del switch
    gc.collect()
    if not isinstance(engine, AOTInductor):  # which keeps two, in turns
        assert running() is None, "what ran before must be freed"
    nn.init.zeros_(edited[-1].weight)  # the engine has nothing of its storage
    assert_close(engine(images), network(1), images)
    engine.stage(model)()
    assert_same_bits(engine(images), before)
    assert_close(engine(images[:5]), model, images)


def test_follows_an_edit_of_the_output_row(engine: Swapped, network: Network, images: Tensor) -> None:
    """One that a live model makes, from inputs alone."""
    subject, model = LiveModel(network(), engine=engine), network()
    before = subject(images)
    deep: dict[str, Any] = {"level": "output", "samples": (images, None), "output_depth": 12.0}
    made = subject.forget(1, **deep)
    assert made.claims == ("disconnected",)
    one_shot(model, None, 1, **deep)
    assert float((subject(images) - before)[:, 1].abs().min()) > 1
    assert_close(subject(images), model, images)
    subject.revert(0)
    assert_same_bits(subject(images), before)


@pytest.mark.parametrize("classes", [3, 4])
def test_refuses_another_model(engine: Swapped, network: Network, images: Tensor, classes: int) -> None:
    if not isinstance(engine, Rebuilt):  # which has no weights yet
        with pytest.raises(ValueError, match="must"):
            engine.check(network(1, classes))
    with pytest.raises(RuntimeError, match=r"^`check` must have accepted a model first$"):
        engine(images)
    engine.check(network())
    before = engine(images)
    with pytest.raises(ValueError, match="must"):
        engine.check(network(1, classes))
    assert_same_bits(engine(images), before)


def test_refuses_broken_models(engine: Swapped, network: Network, images: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"^`check` must have accepted a model first$"):
        engine.stage(network())
    engine.check(network())
    before = engine(images)
    broken = network(1)
    broken[4].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^`model` must give numbers for the example inputs, got NaN$"):
        engine.stage(broken)
    with pytest.raises(
        ValueError, match=r"^`model` must be built like the one that was checked, got `7.bias`: .*4,.*3,"
    ):
        engine.stage(network(1, 4))
    with pytest.raises(ValueError, match=r"^`model` must be built like the one that was checked, got `8.bias`: .*none"):
        engine.stage(nn.Sequential(*network(), nn.Linear(3, 3)).eval())
    with pytest.raises(ValueError, match=r"^`model` must be in eval mode"):
        engine.stage(network(1).train())
    assert_same_bits(engine(images), before)
    engine.stage(network(1))()
    assert_close(engine(images), network(1), images)


def test_no_prediction_is_torn(engine: Swapped, network: Network, images: Tensor) -> None:
    """Every answer from four threads is that of the version at that moment, to the bit, while weights change."""
    models = [network(), network(1)]
    engine.check(models[0])
    answers = []
    for model in (models[1], models[0]):
        engine.stage(model)()
        answers.insert(0, engine(images))
    gate, now, seen, wrong, stop = Gate("engine"), [0], [0, 0], list[object](), threading.Event()

    def client() -> None:
        try:
            while not stop.is_set() and not wrong:
                with gate.shared():
                    version, found = now[0], engine(images)
                seen[version] += 1
                if not torch.equal(found, answers[version]):
                    wrong.append((version, found))
        except BaseException as error:  # noqa: BLE001 (shown below)
            wrong.append(error)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 21):
            switch = engine.stage(models[number % 2])
            with gate.alone(60):
                switch()
                now[0] = number % 2
            enough = seen[number % 2] + 1
            while seen[number % 2] < enough and not wrong:
                time.sleep(0.001)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert wrong == []
