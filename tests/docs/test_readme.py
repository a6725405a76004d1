"""The examples of the README run as written, with a model, data and an optimizer."""

import re
from pathlib import Path

import pytest
import torch

from fastforget.demo.data import load_digits
from fastforget.demo.models import small_resnet

README = Path(__file__).parents[2] / "README.md"


def test_the_example_forgets_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example, second = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    data, model = load_digits(), small_resnet()
    torch.manual_seed(0)
    parts = torch.randperm(len(data.y_train)).split(64)
    loader = [(data.x_train[part], data.y_train[part]) for _ in range(15) for part in parts]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)

    # the line that undoes the edit runs later, so that the model can be tested in between
    lines = example.splitlines()
    undo = next(line for line in lines if "revert" in line)
    names = {"torch": torch, "model": model, "loader": loader, "optimizer": optimizer}
    exec("\n".join(line for line in lines if line != undo), names)  # noqa: S102 (our own README)
    with torch.no_grad():
        forgotten = model(data.x_test[data.y_test == 3]).argmax(1)
        exec(undo, names)  # noqa: S102
        known = model(data.x_test[data.y_test == 3]).argmax(1)
        # the second example uses the model of the first
        loader = list(zip(data.x_train.split(64), data.y_train.split(64), strict=True))
        unseen = list(zip(data.x_test.split(64), data.y_test.split(64), strict=True))
    exec(second, names | {"forget": loader[:2], "remain": loader[2:], "unseen": unseen})  # noqa: S102
    assert (forgotten == 3).float().mean() <= 0.01
    assert (known == 3).float().mean() >= 0.9
    assert {file.name for file in tmp_path.iterdir()} == {"codes.safetensors", "forgot-3.safetensors"}
