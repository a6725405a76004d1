"""Train the networks of the tables and cache them. Several processes can share this work."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import CACHE
from problems import PROBLEMS, CodeChoice, trained

from fastforget.demo.training import confusion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="+", choices=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--without", type=int, nargs="*", default=[], help="train again without each of these classes")
    parser.add_argument("--no-codes", action="store_true")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as image files")
    parser.add_argument("--cache", type=Path, default=CACHE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.problems:
        for seed in arguments.seeds:
            data = PROBLEMS[name].dataset(seed, arguments.data)
            choice = None if arguments.no_codes else CodeChoice(distribution=PROBLEMS[name].codes)
            for exclude in [(cls,) for cls in arguments.without] or [()]:
                model = trained(PROBLEMS[name], data, seed, choice, arguments.cache, exclude=exclude)
                matrix = confusion(model, data.x_test, data.y_test, len(data.class_names))
                print(name, seed, exclude, f"{100 * matrix.diagonal().sum() / matrix.sum():.2f}", flush=True)


if __name__ == "__main__":
    main()
