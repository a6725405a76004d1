"""The examples of docs/production.md run as they are written, around a user's model, codes and data."""

import copy
import re
from pathlib import Path
from typing import Any

import known_codes
import pytest
import torch
from torch import nn

import fastforget

PAGE = Path(__file__).parents[1] / "docs" / "production.md"


def test_classes_and_samples(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8").replace("/var/lib/forgetting", str(tmp_path / "archive"))
    classes, samples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
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
    assert () in [version.classes for version in live.versions[2:]]  # the thread may carry out the other one before
    assert live.requests()[-1].name == "ticket-18"
    parts = list(zip(data.x_train.split(64), data.y_train.split(64), strict=True))
    others = list(zip(data.x_test.split(64), data.y_test.split(64), strict=True))
    before = live.predict(inputs)
    exec(samples, names | {"forget": parts[:1], "remain": parts[1:], "unseen": others})  # noqa: S102
    assert live.predict(inputs).version == before.version + 1
    assert not torch.equal(live.predict(inputs).outputs, before.outputs)
    assert fastforget.fingerprint(names["model"]) == live.version.fingerprint


@pytest.mark.parametrize(
    "page", [PAGE.parents[1] / "README.md", *sorted(PAGE.parent.glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        target = page if not link[0] else page.parent / link[0]
        if link[0].startswith("http"):
            continue
        assert target.exists(), link
        if link[1] and target.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert link[1] in anchors, link
