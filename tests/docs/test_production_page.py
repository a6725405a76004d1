"""The examples of docs/guide/production.md run as written, with a trained model, its codes and data."""

import copy
import re
from pathlib import Path
from typing import Any

import known_codes
import torch
from torch import nn

import fastforget

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "production.md"


def test_classes_and_samples(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8").replace("/var/lib/forgetting", str(tmp_path / "archive"))
    classes, samples, own = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model, codes, data = known_codes.digits()
    measured: list[nn.Module] = []

    def measure(edited: nn.Module) -> dict[str, float]:
        measured.append(edited)
        return {"models": 1.0}

    inputs = data.x_test[:8]
    names: dict[str, Any] = {
        "model": copy.deepcopy(model), "codes": codes, "measure": measure, "inputs": inputs, "deepcopy": copy.deepcopy,
        "fastforget": fastforget,
    }  # fmt: skip
    exec(classes, names)  # noqa: S102 (our own page)
    live = names["live"]
    live.close()
    assert measured
    assert live.versions[1].classes == (3,)
    assert () in [version.classes for version in live.versions[2:]]  # the thread may carry out the other request first
    assert live.requests()[-1].name == "ticket-18"
    parts = list(zip(data.x_train.split(64), data.y_train.split(64), strict=True))
    others = list(zip(data.x_test.split(64), data.y_test.split(64), strict=True))
    before = live.predict(inputs)
    exec(samples, names | {"forget": parts[:1], "remain": parts[1:], "unseen": others})  # noqa: S102
    assert live.predict(inputs).version == before.version + 1
    assert not torch.equal(live.predict(inputs).outputs, before.outputs)

    def your_method(edited: nn.Module, *_: Any) -> None:
        nn.init.zeros_(next(edited.parameters()))

    exec(own, names | {"your_method": your_method, "forget": (), "remain": ()})  # noqa: S102
    assert live.version.number == before.version + 2
    assert live.version.classes[-1] == 9
    assert fastforget.fingerprint(names["model"]) == live.version.fingerprint
