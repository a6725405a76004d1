"""`--names`, and names in the configuration of the model: in what commands print, and in their JSON."""

import json
import sys
from pathlib import Path

import pytest
from cli.command_line import CODES, FORGET, NET, CommandLine

NAMED = """
from types import SimpleNamespace
from nets import mlp

def named():
    model = mlp()
    model.config = SimpleNamespace(id2label={0: "cat", 1: "dog", 2: "eel", 3: "fox"})
    return model
"""
NAMES = ("--names", "names.txt")
NEW = ("--model", "nets:mlp", "--checkpoint", "new.safetensors")


@pytest.fixture
def names(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with names of the classes in a file, others in the configuration of a model."""
    (model_folder / "names.txt").write_text("ape\nbee\ncow\ndeer\n\n")
    (model_folder / "named.py").write_text(NAMED)
    monkeypatch.setitem(sys.modules, "named", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "named")
    return model_folder


def test_an_edit_and_its_way_back(fastforget: CommandLine, names: Path) -> None:
    printed = fastforget.output(*FORGET, *NAMES)
    assert printed.startswith("forgot class 2 (cow): disconnected, ")
    back = ("revert", *NEW, "--receipt", "forgot.safetensors", "--output", "back.safetensors")
    again = ("apply", *NET, "--receipt", "forgot.safetensors", "--output", "again.safetensors")
    assert ": class 2 (cow): disconnected, " in fastforget.output(*again, *NAMES)
    found = json.loads(fastforget.output(*back, *NAMES, "--json"))
    assert (found["reverted"][0]["classes"], found["reverted"][0]["class_names"]) == ([2], ["cow"])
    line = fastforget.error_line(
        "forget", *NEW, *CODES, "--cls", "2", "--output", "b.safetensors", "--receipt", "c.safetensors", *NAMES
    )
    assert line.startswith("class 2 (cow) is forgotten already according to `new.safetensors`")


def test_the_names_that_a_model_has(fastforget: CommandLine, names: Path) -> None:
    command = ("forget", "--model", "named:named", *FORGET[3:])
    assert fastforget.output(*command).startswith("forgot class 2 (eel): disconnected, ")
    assert fastforget.output(*command, *NAMES, "--force").startswith("forgot class 2 (cow): disconnected, ")


def test_times(fastforget: CommandLine, names: Path) -> None:
    command = ("bench", *NET, *CODES, "--cls", "1", "--rounds", "3")
    assert fastforget.output(*command, *NAMES).splitlines()[-1].startswith("class 1 (bee); 708 parameters, ")
    found = json.loads(fastforget.output(*command, *NAMES, "--json"))
    assert (found["class"], found["name"]) == (1, "bee")


def test_a_table(fastforget: CommandLine, names: Path) -> None:
    command = ("embed-check", *NET, *CODES)
    assert "\n2 (cow)   " in fastforget.output(*command, *NAMES)
    found = json.loads(fastforget.output(*command, *NAMES, "--json"))
    assert [row["name"] for row in found["classes"]] == ["ape", "bee", "cow", "deer"]
    assert "name" not in json.loads(fastforget.output(*command, "--json"))["classes"][0]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            b"ape\nbee\n",
            "`--names` must have the name of class 2, got 2 lines in names.txt; the first line is for class 0",
        ),
        (b"ape\n\nbee\n", "`--names` must have the name of a class in each line, got an empty line 2 in names.txt"),
        (b" \n", "`--names` must have the name of a class in each line, got nothing in names.txt"),
        (b"\xff\xfe", "`--names` must be a text file in UTF-8, got names.txt: "),
    ],
)
def test_refusals(fastforget: CommandLine, names: Path, content: bytes, text: str) -> None:
    (names / "names.txt").write_bytes(content)
    assert fastforget.error_line(*FORGET, *NAMES).startswith(text)


def test_a_file_that_is_not_there(fastforget: CommandLine, names: Path) -> None:
    assert "none.txt" in fastforget.error_line(*FORGET, "--names", "none.txt")
    assert "`--receipt` must not be a file that is read" in fastforget.error_line(*FORGET[:-1], "names.txt", *NAMES)
