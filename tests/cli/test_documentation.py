"""The session in docs/guide/command-line.md runs as written, and prints what the page shows, apart from numbers."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from cli.command_line import CommandLine

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "command-line.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


def without_numbers(text: str) -> list[str]:
    """Return the words of each line. Each number becomes #, and each run of dashes becomes --."""
    return [
        " ".join(re.sub(r"-{2,}", "--", re.sub(r"-?\d[\d.,]*(\+\w+)?", "#", line)).split())
        for line in text.splitlines()
    ]


def test_the_session(fastforget: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    run = []
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            (folder / text.splitlines()[0].removeprefix("# ")).write_text(text)
            continue
        assert language == "console"
        for command, shown in COMMAND.findall(text):
            program, *arguments = shlex.split(command.replace("\\\n", " "))
            run.append(arguments[0])
            if program == "python":
                runpy.run_path(arguments[0])
                continue
            assert program == "fastforget"
            assert without_numbers(fastforget.output(*arguments)) == without_numbers(shown)
    assert run[:2] == ["codes", "train.py"]
    assert set(run[2:]) == {"embed-check", "forget", "audit", "apply", "revert", "bench"}
    assert Path("back.safetensors").read_bytes() == Path("net.safetensors").read_bytes()
    assert Path("copy.safetensors").read_bytes() == Path("without-3.safetensors").read_bytes()
