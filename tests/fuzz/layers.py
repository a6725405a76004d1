"""Strategies for networks: layers that fit the shape of a sample, and the shapes of their outputs."""

from collections.abc import Callable
from dataclasses import replace
from math import prod

from fuzz.draws import Draw, Memory, divisor, memories, sample_weights, shape, size, windows
from fuzz.networks import FUNCTIONS, Layer, Network
from hypothesis import strategies as st

Shape = tuple[int, ...]
Drawn = tuple[Layer, Shape]

MOST = 400  # elements of one sample's activation; thousands of cases then take seconds
EPS = 0.1  # of norms; a smaller divisor would magnify rounding too much
FLAGS = st.booleans()


def _linear(draw: Draw, inside: Shape) -> Drawn:
    out = draw(st.sampled_from([size(draw, MOST // prod(inside[:-1])), inside[-1]]))
    kind = draw(st.sampled_from(["Linear", "Matrix", "Conv1D"]))
    settings = {"bias": draw(FLAGS)} if kind == "Linear" else {}
    return Layer(kind, inside[-1], out, **settings), (*inside[:-1], out)


def _tied(draw: Draw, inside: Shape) -> Drawn:
    return Layer("Tied", inside[-1], size(draw, MOST // prod(inside[:-1]))), inside


def _padding(draw: Draw, space: Shape) -> tuple[Shape, str]:
    mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"]))
    most = {"reflect": [s - 1 for s in space], "circular": space}.get(mode, [3] * len(space))
    return tuple(draw(st.integers(0, min(3, m))) for m in most), mode


def _convolution(draw: Draw, inside: Shape) -> Drawn:
    channels, *space = inside
    groups = divisor(draw, channels)
    padding, mode = _padding(draw, tuple(space))
    kernel, stride, dilation, outside = windows(draw, space, padding)
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": mode}
    out = groups * size(draw, MOST // (prod(outside) * groups))
    if mode == "zeros" and draw(st.integers(0, 5)) == 5:  # keeps the shape, as residuals need
        settings, out, outside = {"padding": "same", "dilation": dilation}, channels, tuple(space)
    kind = f"Conv{len(space)}d"
    return Layer(kind, channels, out, kernel, groups=groups, bias=draw(FLAGS), **settings), (out, *outside)


def _transposed(draw: Draw, inside: Shape) -> Drawn:
    channels, *space = inside
    groups = divisor(draw, channels)
    settings = []
    for s in space:
        stride, dilation, kernel = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
        whole = (s - 1) * stride + dilation * (kernel - 1)
        padding, more = draw(st.integers(0, min(3, whole // 2))), draw(st.integers(0, max(stride, dilation) - 1))
        settings.append((kernel, stride, padding, more, dilation, whole - 2 * padding + more + 1))
    kernel, stride, padding, more, dilation, outside = zip(*settings, strict=True)
    out = groups * size(draw, MOST // (prod(outside) * groups))
    layer = Layer(
        f"ConvTranspose{len(space)}d", channels, out, kernel, stride=stride, padding=padding,
        output_padding=more, dilation=dilation, groups=groups, bias=draw(FLAGS),
    )  # fmt: skip
    return layer, (out, *outside)


def _trailing_norm(draw: Draw, inside: Shape) -> Drawn:
    normalized = inside[draw(st.integers(0, len(inside) - 1)) :]
    if draw(FLAGS):
        return Layer("RMSNorm", normalized, eps=draw(st.sampled_from([None, 0.01]))), inside
    return Layer("LayerNorm", normalized, eps=EPS, bias=draw(FLAGS)), inside


def _channel_norm(draw: Draw, inside: Shape) -> Drawn:
    channels, dims = inside[0], max(1, len(inside) - 1)
    groups = divisor(draw, channels)
    kinds = ["BatchNorm"]
    if prod(inside) > groups:  # PyTorch refuses statistics over one element
        kinds.append("GroupNorm")
    if len(inside) > 1:
        kinds.append("InstanceNorm")
    kind = draw(st.sampled_from(kinds))
    if kind == "GroupNorm":
        return Layer(kind, groups, channels, eps=EPS), inside
    if kind == "BatchNorm":
        return Layer(f"BatchNorm{dims}d", channels), inside
    running = prod(inside[1:]) == 1 or draw(FLAGS)
    return Layer(f"InstanceNorm{dims}d", channels, eps=EPS, affine=True, track_running_stats=running), inside


def _broadcast(draw: Draw, inside: Shape) -> Drawn:
    kept = inside[draw(st.integers(0, len(inside))) :]
    repeated = tuple(1 if draw(FLAGS) else s for s in kept)
    if len(kept) == len(inside) and draw(FLAGS):
        repeated = (1, *repeated)  # as many dimensions as the activation
    return Layer("Broadcast", repeated, draw(st.sampled_from(list(FUNCTIONS)))), inside


def _token(draw: Draw, inside: Shape) -> Drawn:
    return Layer("Token", inside[1:]), (inside[0] + 1, *inside[1:])


def _frames(draw: Draw, inside: Shape) -> Drawn:
    layer, outside = draw(st.sampled_from([_convolution, _transposed, _channel_norm]))(draw, inside[1:])
    return Layer("Frames", layer), (inside[0], *outside)


def _sequence_first(draw: Draw, inside: Shape) -> Drawn:
    layer, outside = draw(st.sampled_from([_linear, _tied]))(draw, inside)
    return Layer("SequenceFirst", layer), outside


def _around(draw: Draw, inside: Shape) -> Drawn:
    """Draw a layer around one that keeps the shape: a residual, or the layer twice."""
    layer, outside = _any(draw, inside)
    if outside != inside:
        return layer, outside
    return Layer(draw(st.sampled_from(["Residual", "InPlaceResidual", "Twice"])), layer), inside


def _glue(draw: Draw, inside: Shape) -> Drawn:
    """Draw a layer without parameters."""
    kinds = ["Tanh", "GELU", "Sigmoid", "EverySecond", "ReLU"] + ["Swap", "Mean"] * (len(inside) > 1)
    kind = draw(st.sampled_from(kinds))
    outside = {
        "EverySecond": (*inside[:-1], (inside[-1] + 1) // 2),
        "Swap": (*inside[:-2], inside[-1], inside[-2 % len(inside)]),
        "Mean": inside[:-1],
    }.get(kind, inside)
    return Layer(kind, **({"inplace": True} if kind == "ReLU" else {})), outside


def _any(draw: Draw, inside: Shape) -> Drawn:
    kinds: list[Callable[[Draw, Shape], Drawn]] = [_linear, _trailing_norm, _channel_norm, _broadcast, _tied]
    if 2 <= len(inside) <= 4:
        kinds += [_token, _sequence_first] + [_convolution, _transposed] * 3
    if 3 <= len(inside) <= 4:
        kinds += [_frames] * 2
    return draw(st.sampled_from(kinds))(draw, inside)


def _network(draw: Draw, inside: Shape, deepest: int) -> tuple[list[Layer], Shape]:
    layers: list[Layer] = []
    for _ in range(draw(st.integers(1, deepest))):
        for kind in (_around if draw(st.integers(0, 3)) == 3 else _any, _glue):
            if kind is _glue and draw(st.integers(0, 2)) < 2:
                continue
            layer, inside = kind(draw, inside)
            layers.append(layer)
    return layers, inside


def _weights(draw: Draw, samples: int) -> dict[str, object]:
    groups = draw(st.integers(0, 3))
    if groups == 0:
        return {}
    rows = draw(sample_weights(samples, groups, (1.0, 0.0, 0.5, 3.0)))
    rows = tuple(row if any(row) else (1.0, *row[1:]) for row in rows)
    return {"weights": rows, "grouped": groups > 1 or draw(FLAGS)}


@st.composite
def networks(draw: Draw) -> Network:
    """Draw one to three layers, layers without parameters between them, and the other arguments of a call."""
    tokens = draw(st.sampled_from([None] * 9 + [1, 2, 5, 13]))
    inside = shape(draw, draw(st.integers(1 if tokens is None else 0, 4)), MOST)
    layers: list[Layer] = []
    outside = inside
    if tokens is not None:
        inside = inside[:2]
        outside = (*inside, size(draw, MOST // prod(inside)))
        padding = draw(st.none() | st.integers(0, tokens - 1))
        layers = [Layer("Embedding", tokens, outside[-1], padding_idx=padding)]
    dtype = draw(st.sampled_from(["float32", "float32", "float64", "bfloat16", "float16"]))
    if tokens is None or draw(FLAGS):
        more, outside = _network(draw, outside, 3)
        layers += more
    samples = draw(st.integers(1, 5))
    memory: Memory = draw(memories(len(inside) + 1))
    if any(layer.holds("LayerNorm", "GroupNorm", "InstanceNorm") for layer in layers):
        # Equal elements minus their mean leave only rounding, so samples may repeat but elements may not.
        memory = replace(memory, steps=(memory.steps[0], *(step or 1 for step in memory.steps[1:])))
    return Network(
        layers=tuple(layers),
        shape=inside,
        outputs=prod(outside),
        samples=samples,
        memory=memory,
        tokens=tokens,
        dtype=dtype,
        loss=draw(st.sampled_from(["linear", "sum", "square"])),
        **_weights(draw, samples),
        reduction=draw(st.sampled_from(["mean", "sum"])),
        gradient=draw(FLAGS),
        every_second=draw(st.integers(0, 4)) == 4,
        seed=draw(st.integers(0, 2**16)),
    )
