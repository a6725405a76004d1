"""A small network, others like it, and what the engines' tools make of it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

Network = Callable[..., nn.Module]


@contextmanager
def exporting() -> Iterator[None]:
    """torch.export copies its own structures in a way that it has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        yield


def build(seed: int = 0, classes: int = 3) -> nn.Module:
    """Convolution, BatchNorm, a linear layer over tokens and one as the head; seed 0 is the one that is packaged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(2), nn.Linear(64, 10), nn.ReLU(),
            nn.Flatten(), nn.Linear(40, classes),
        )  # fmt: skip
        nn.init.normal_(made[1].weight)
        nn.init.normal_(made[1].bias)
        return made.eval()


@pytest.fixture
def network() -> Network:
    return build


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def onnx_model(images: Tensor) -> Callable[..., bytes]:
    """Exports a network, the packaged one unless told."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    def export(model: nn.Module | None = None, inputs: object = None, *, optimize: bool = False) -> bytes:
        batch = ({0: torch.export.Dim.DYNAMIC},) if inputs is None else None
        given = images if inputs is None else inputs
        with exporting():
            program = torch.onnx.export(
                model or build(), given if isinstance(given, tuple) else (given,), dynamo=True, optimize=optimize,
                dynamic_shapes=batch, verbose=False,
            )  # fmt: skip
        return program.model_proto.SerializeToString()

    return export


@pytest.fixture(scope="session")
def exported(onnx_model: Callable[..., bytes]) -> bytes:
    return onnx_model()


@pytest.fixture(scope="session")
def package(images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compiles a network ahead of time, the packaged one unless told; takes long."""

    def compile_(model: nn.Module | None = None, **settings: object) -> str:
        path = tmp_path_factory.mktemp("package") / "model.pt2"
        with exporting(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.script_method` is deprecated", DeprecationWarning)
            program = torch.export.export(model or build(), (images,))
            made = torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
        return str(made)

    return compile_


@pytest.fixture(scope="session")
def packaged(package: Callable[..., str]) -> str:
    return package(always_keep_tensor_constants=True)
