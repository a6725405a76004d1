"""Table 4: networks that were trained without codes.

A row is one (problem, seed, remedy, class). The remedies are: 1, 4 or 16 real images of each class as codes; codes
inscribed by a short fine-tuning on training data; codes made from the network alone. A row holds what table 1 holds,
the accuracy that the remedy itself cost, its CPU time, and the share of the codes that the network knows.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import Row, accuracies, logits, logits_by_step_alone, parser, save_rows
from problems import PROBLEMS, CodeChoice, trained
from torch import Tensor, nn

import fastforget
from fastforget import MnemonicCodes
from fastforget.demo.data import Dataset

KEY = ("problem", "seed", "remedy", "cls")
SAMPLES = 10_000  # of the training data, for inscribing


def images(count: int) -> Callable[[nn.Module, Dataset, int], MnemonicCodes]:
    """Return a remedy: training images of each class that the model recognises, drawn with the seed, as codes."""

    def choose(model: nn.Module, data: Dataset, seed: int) -> MnemonicCodes:
        generator = torch.Generator().manual_seed(seed)
        chosen = []
        for cls in range(len(data.class_names)):
            rows = (data.y_train == cls).nonzero().squeeze(1)
            rows = rows[torch.randperm(len(rows), generator=generator)[: 20 * count]]
            right = rows[logits(model, data.x_train[rows]).argmax(1) == cls]
            chosen.append(data.x_train[right[:count]])
        return MnemonicCodes.from_tensors(torch.stack(chosen))

    return choose


def inscribed(model: nn.Module, data: Dataset, seed: int) -> MnemonicCodes:
    """Fine-tune once with four codes per class, on a part of the training data."""
    codes = CodeChoice().codes(data, seed)
    rows = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(seed))[:SAMPLES]
    batches = [(data.x_train[part], data.y_train[part]) for part in rows.split(64)]
    fastforget.inscribe(model, codes, batches, epochs=max(1, SAMPLES // len(rows)), seed=seed, progress=False)
    return codes


def from_network(model: nn.Module, data: Dataset, seed: int, steps: int = 200) -> MnemonicCodes:
    """Make four codes per class from the network alone.

    Adam changes noise until the network is sure of the class. If there are batch norms, the features also approach the
    means and variances that these keep (as in DeepInversion, Yin et al., CVPR 2020).
    """
    total, shape = len(data.class_names), data.x_train.shape[1:]
    labels = torch.arange(total).repeat_interleave(4)
    x = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    optimizer = torch.optim.Adam([x], 0.05)
    distances: list[Tensor] = []

    def compare(module: nn.BatchNorm2d, args: tuple[Tensor, ...]) -> None:
        mean, variance = args[0].mean((0, 2, 3)), args[0].var((0, 2, 3))
        distances.append((mean - module.running_mean).square().mean() + (variance - module.running_var).square().mean())

    hooks = [m.register_forward_pre_hook(compare) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for _ in range(steps):
        distances.clear()
        loss = F.cross_entropy(model(x), labels) + 0.1 * sum(distances) + 1e-3 * x.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return MnemonicCodes.from_tensors(x.detach().view(total, 4, *shape))


REMEDIES = {
    "1 image": images(1),
    "4 images": images(4),
    "16 images": images(16),
    "inscribed": inscribed,
    "from the network": from_network,
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["digits/cnn", "fashion/resnet"])
    arguments.add_argument("--remedies", nargs="+", choices=list(REMEDIES), default=list(REMEDIES))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for name in given.problems:
        for seed in given.seeds:
            data = PROBLEMS[name].dataset(seed, given.data)
            original = trained(PROBLEMS[name], data, seed, None, given.cache)
            base = logits(original, data.x_test)
            for remedy in given.remedies:
                model, start = copy.deepcopy(original), time.process_time()
                codes = REMEDIES[remedy](model, data, seed)
                seconds = time.process_time() - start
                after = logits(model, data.x_test)
                lost = accuracies(after, data.y_test, [])[1] - accuracies(base, data.y_test, [])[1]
                known = (logits(model, codes.inputs).argmax(1) == codes.labels).double().mean().item()
                rows: list[Row] = []
                for cls in range(len(data.class_names)):
                    receipt = fastforget.one_shot(model, codes, cls)
                    found = logits(model, data.x_test)
                    receipt.revert(model)
                    forget, remain = accuracies(found, data.y_test, [cls])
                    found = logits_by_step_alone(model, codes, cls, data.x_test)
                    figures = {
                        "known": 100 * known,
                        "lost_by_remedy": lost,
                        "seconds": seconds,
                        "forget": forget,
                        "forget_step_alone": accuracies(found, data.y_test, [cls])[0],
                        "change": remain - accuracies(base, data.y_test, [cls])[1],
                    }
                    facts = {"problem": name, "seed": seed, "remedy": remedy, "cls": cls}
                    rows.append(facts | {key: round(value, 3) for key, value in figures.items()})
                save_rows("without-codes", rows, given.output, KEY)
                worst = max(row["forget_step_alone"] for row in rows), min(row["change"] for row in rows)
                print(f"{name} {seed} {remedy}: {rows[0]} worst {worst}", flush=True)


if __name__ == "__main__":
    main()
