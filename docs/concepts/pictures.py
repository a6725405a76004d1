"""Draw the pictures of the concepts from small networks and committed rows: ``python docs/concepts/pictures.py``.

It takes a minute. Two networks are trained, on digits: one that knows codes, and one whose two features can be drawn.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from statistics import mean

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch import Tensor, nn

import fastforget
from fastforget.demo.data import Dataset, load_digits
from fastforget.demo.models import small_resnet

HERE = Path(__file__).parent
ROWS = HERE.parents[1] / "benchmarks" / "results" / "quality" / "inside.json"
INK, ACCENT, MUTED, CALM = "#22303c", "#d1495b", "#b4bdc6", "#00798c"
COLOURS = ["#00798c", "#edae49", "#66a182", "#d1495b", "#2e4057"]
FORGET = 3


def figure(width: float, height: float) -> Figure:
    drawn = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasSVG(drawn)
    return drawn


def save(drawn: Figure, name: str) -> None:
    drawn.savefig(HERE / f"{name}.svg", metadata={"Date": None})


def fit(model: nn.Module, inputs: Tensor, targets: Tensor, epochs: int, codes: fastforget.MnemonicCodes | None) -> None:
    optimizer = torch.optim.Adam(model.train().parameters(), 5e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(targets)).split(64):
            x = inputs[rows] if codes is None else codes.embed(inputs[rows], targets[rows], rate=0.3)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), targets[rows]).backward()
            optimizer.step()
    model.eval()


def draw_codes(model: nn.Module, codes: fastforget.MnemonicCodes, data: Dataset) -> None:
    """A digit and a code of each class, and how probable the network finds that class before and after an edit."""
    drawn = figure(10, 4.6)
    axes = drawn.subplots(4, 10)
    edited = copy.deepcopy(model)
    fastforget.one_shot(edited, codes, FORGET)
    for cls in range(10):
        example, code = data.x_test[data.y_test == cls][0], codes.tensor[cls, 0]
        for row, (image, net) in enumerate([(example, model), (code, model), (example, edited), (code, edited)]):
            axis = axes[row, cls]
            axis.imshow(image[0], cmap="Greys" if row % 2 == 0 else "viridis")
            axis.set(xticks=[], yticks=[])
            with torch.no_grad():
                share = 100 * float(net(image[None]).softmax(1)[0, cls])
            colour = ACCENT if cls == FORGET else INK
            axis.set_xlabel(f"{share:.0f} %", fontsize=9, color=colour)
            for spine in axis.spines.values():
                spine.set_color(colour)
        axes[0, cls].set_title(f"class {cls}", fontsize=10, color=ACCENT if cls == FORGET else INK)
    for row, label in enumerate(["digit", "code", "digit, after", "code, after"]):
        axes[row, 0].set_ylabel(label, fontsize=10, color=INK)
    save(drawn, "codes")


def draw_fisher(model: nn.Module, codes: fastforget.MnemonicCodes) -> None:
    """Each parameter by how much the codes to forget and the others depend on it; the chosen ones stand out."""
    theirs, labels = codes.for_classes([FORGET])
    others, other_labels = codes.for_classes([cls for cls in range(10) if cls != FORGET])
    forget = fastforget.fisher_diagonal(model, theirs, labels)
    remain = fastforget.fisher_diagonal(model, others, other_labels)
    ratios = {name: forget[name] / (remain[name] + 1e-20) for name in forget}
    chosen = torch.cat([part.flatten() for part in fastforget.topk_mask(ratios, 0.003).values()])
    f, r = (torch.cat([values[name].flatten() for name in forget]) for values in (forget, remain))
    shown = (f > 1e-14) & (r > 1e-14)
    few = shown & (torch.rand(len(f), generator=torch.Generator().manual_seed(0)) < 0.05)
    drawn = figure(6.4, 4.8)
    axis = drawn.subplots()
    axis.scatter(r[few & ~chosen], f[few & ~chosen], s=3, color=MUTED, label="others (one in twenty)", rasterized=True)
    axis.scatter(r[shown & chosen], f[shown & chosen], s=6, color=ACCENT, label="the 0.3 % that move")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="Fisher of the codes of other classes",
        ylabel=f"Fisher of the codes of class {FORGET}",
    )
    axis.legend(frameon=False, markerscale=3)
    axis.spines[["top", "right"]].set_visible(False)
    save(drawn, "fisher")


class TwoFeatures(nn.Module):
    """A network whose features before the output layer are two numbers, so that they can be drawn."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2)
        )
        self.head = nn.Linear(2, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def draw_regions(axis: Axes, model: TwoFeatures, data: tuple[Tensor, Tensor], limit: float, title: str) -> None:
    """Draw test samples by their features, the regions of the classes, and the output rows as arrows."""
    inputs, targets = data
    line = torch.linspace(-limit, limit, 300)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        regions = model.head(grid).argmax(1).view(300, 300).T
        features, rows = model.body(inputs), model.head.weight
        recognised = float((model(inputs).argmax(1) == targets)[targets == FORGET].float().mean())
    cmap = mpl.colors.ListedColormap(COLOURS)
    axis.imshow(regions, origin="lower", extent=(-limit, limit, -limit, limit), cmap=cmap, alpha=0.22, vmin=0, vmax=4)
    for cls, colour in enumerate(COLOURS):
        mine = features[targets == cls]
        axis.scatter(mine[:, 0], mine[:, 1], s=7, color=colour, label=f"class {cls}")
        direction = rows[cls] / rows.norm(dim=1).max() * limit * 0.55
        axis.annotate("", direction.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2.2})
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[])
    axis.set_title(f"{title}\n{100 * recognised:.0f} % of class {FORGET} recognised", fontsize=11, color=INK)


def draw_features(data: Dataset) -> None:
    """The output row, and the features, before and after an edit of each."""
    train, test = data.y_train < len(COLOURS), data.y_test < len(COLOURS)
    inputs, targets = data.x_train[train], data.y_train[train]
    torch.manual_seed(1)
    model = TwoFeatures(len(COLOURS))
    fit(model, inputs, targets, 40, None)
    row, both = copy.deepcopy(model), copy.deepcopy(model)
    few = torch.cat([(targets == cls).nonzero()[:16, 0] for cls in range(len(COLOURS))])
    samples = (inputs[few], targets[few])
    fastforget.one_shot(row, None, FORGET, samples=samples, level="output")
    fastforget.one_shot(both, None, FORGET, samples=samples, level="features")
    tested = data.x_test[test], data.y_test[test]
    with torch.no_grad():
        limit = 1.1 * float(model.body(tested[0]).abs().max())
    for name, edited, title in (("output-row", row, "disconnected"), ("features", both, "disconnected and dispersed")):
        drawn = figure(9.6, 5)
        before, after = drawn.subplots(1, 2)
        draw_regions(before, model, tested, limit, "before")
        draw_regions(after, edited, tested, limit, title)
        drawn.legend(
            *before.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, markerscale=2
        )
        save(drawn, name)


def draw_claims() -> None:
    """What still finds a forgotten class of digits, from the committed rows of what is left inside."""
    rows = [
        row
        for row in json.loads(ROWS.read_text())["rows"]
        if row["problem"] == "digits/cnn" and len(row["classes"]) == 1
    ]
    trained = {(row["seed"], *row["classes"]) for row in rows if row["method"] == "retrain"}
    rows = [row for row in rows if row["codes"] and (row["seed"], *row["classes"]) in trained]
    methods = {
        "original": "original",
        "codes": "from codes",
        "codes and 16 images": "with 16 images",
        "retrain": "trained again",
    }
    keys = {
        "forget": "accuracy",
        "old_row": "its old row\nput back",
        "nearest_mean": "nearest mean\nof features",
        "probe": "linear probe\nof features",
    }
    drawn = figure(9, 4.2)
    axis = drawn.subplots()
    for position, (method, label) in enumerate(methods.items()):
        values = [mean(row[key] for row in rows if row["method"] == method) for key in keys]
        bars = axis.bar(
            [x + 0.2 * position for x in range(len(keys))],
            values,
            0.18,
            label=label,
            color=[MUTED, CALM, ACCENT, INK][position],
        )
        axis.bar_label(bars, fmt="%.0f", fontsize=8, color=INK)
    axis.set_xticks([x + 0.3 for x in range(len(keys))], list(keys.values()))
    axis.set(ylabel="% of the forgotten class found", ylim=(0, 108))
    axis.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    axis.spines[["top", "right"]].set_visible(False)
    save(drawn, "claims")


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "fastforget", "svg.fonttype": "path", "font.size": 10, "text.color": INK})
    data = load_digits()
    draw_claims()
    draw_features(data)
    torch.manual_seed(0)
    model, codes = small_resnet(), fastforget.MnemonicCodes.generate(10, (1, 8, 8))
    fit(model, data.x_train, data.y_train, 12, codes)
    draw_codes(model, codes, data)
    draw_fisher(model, codes)


if __name__ == "__main__":
    main()
