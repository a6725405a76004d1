"""The tutorial and the how-to guides run as written, and print what they say."""

import copy
import re
from pathlib import Path
from typing import Any

import known_codes
import pytest
import torch
from torch import nn

import fastforget

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

if not DOCS.is_dir():
    pytest.skip("the pages are not part of this distribution", allow_module_level=True)


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and text of each block of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the Python of a page and return what it named."""
    names = {"fastforget": fastforget, "torch": torch, **names}
    for language, text in blocks(page):
        if language == "python":
            exec(text, names)  # noqa: S102 (our own page)
    return names


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)  # where pages write their files
    model, codes, data = known_codes.digits()
    return {"model": copy.deepcopy(model), "codes": codes, "images": data.x_train, "labels": data.y_train, "data": data}


def test_the_tutorial_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    printed = ""
    shown = 0
    for language, text in blocks("tutorial.md"):
        if language == "python":
            exec(text, names)  # noqa: S102 (our own page)
            printed = capsys.readouterr().out.strip()
            continue
        said = text.strip()
        seen = "\n".join(printed.splitlines()[-len(said.splitlines()) :])
        assert NUMBER.sub("#", seen) == NUMBER.sub("#", said)
        for here, there in zip(NUMBER.findall(seen), NUMBER.findall(said), strict=True):
            assert float(here) == pytest.approx(float(there), abs=3)  # percent and nats, on another machine
        shown += 1
    assert shown == 5


def test_without_codes(trained: dict[str, Any]) -> None:
    data = trained["data"]
    torch.manual_seed(0)
    names = run("guide/without-codes.md", trained | {"validation": (data.x_test, data.y_test)})
    assert names["receipt"].classes == (3,)
    assert names["inscribed"].recognised >= 0.9
    with torch.no_grad():
        found = names["model"](data.x_test).argmax(1)
    assert (found == 3).float().mean() <= 0.01
    assert (found == data.y_test)[data.y_test != 3].float().mean() >= 0.9


def test_what_the_guide_says_of_claims(trained: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "guide" / "without-codes.md").read_text(encoding="utf-8")
    promised = re.findall(r"print\(receipt\.claims\)  # (\(.*\))", text)
    for language, block in blocks("guide/without-codes.md")[:2]:
        assert language == "python"
        exec(block, trained)  # noqa: S102 (our own page)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("(")] == promised
    assert len(promised) == 2


def test_the_record(trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = trained["data"]
    run("guide/record.md", trained | {"inputs": data.x_test, "targets": data.y_test})
    printed = capsys.readouterr().out
    assert "ticket-17" in printed
    assert "A. Person, letter of 3 May" in printed
    assert int(printed.splitlines()[-1]) >= 1
    log = tmp_path / "forgetting" / "requests.jsonl"
    log.write_text(log.read_text(encoding="utf-8").replace("A. Person", "B. Person"), encoding="utf-8")
    with pytest.raises(ValueError, match="record 1"):
        fastforget.serving.verify_log(log)


def test_samples(trained: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    images, labels, data = trained["images"], trained["labels"], trained["data"]
    sets = {"forget": (images[:100], labels[:100]), "remain": (images[100:], labels[100:])}
    half = len(data.y_test) // 2
    sets |= {"unseen": (data.x_test[:half], data.y_test[:half]), "test": (data.x_test[half:], data.y_test[half:])}
    before = copy.deepcopy(trained["model"])
    names = run("guide/samples.md", trained | sets)
    assert names["report"].metrics["test accuracy"].value > 0.9
    assert "attack: loss" in capsys.readouterr().out
    names["receipt"].revert(names["model"])
    assert fastforget.fingerprint(names["model"]) == fastforget.fingerprint(before)


def test_copies_on_several_processes(trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rank 0 and then rank 1 do, one after the other."""
    (tmp_path / "shared").mkdir()
    (_, copies), *_ = blocks("guide/several-gpus.md")
    models: list[nn.Module] = []
    for rank in range(2):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("torch.distributed.barrier", lambda: None)
        models.append(copy.deepcopy(trained["model"]))
        exec(copies, {"model": models[-1], "codes": trained["codes"]})  # noqa: S102 (our own page)
    assert fastforget.fingerprint(models[0]) == fastforget.fingerprint(models[1])
    assert fastforget.fingerprint(models[0]) != fastforget.fingerprint(trained["model"])
