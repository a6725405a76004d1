"""`--help` explains every option, and its examples are valid."""

import re

import pytest
import typer
from cli.command_line import CommandLine

from fastforget.cli import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WANTED = {
    "codes",
    "embed-check",
    "inscribe",
    "forget",
    "unlearn",
    "apply",
    "revert",
    "audit",
    "compare",
    "keys",
    "check-signature",
    "describe",
    "log",
    "serve",
    "demo",
    "bench",
}
PLAIN = {name: command for name, command in COMMANDS.items() if name != "log"}


def test_the_commands_are_listed_with_the_exit_statuses(fastforget: CommandLine) -> None:
    assert COMMANDS.keys() >= WANTED
    printed = fastforget.output("--help")
    assert all(re.search(rf"^\W*{name} +[A-Z]", printed, re.MULTILINE) for name in WANTED)
    assert "Exit status: 0, done; 1, " in " ".join(printed.split())


@pytest.mark.parametrize("name", PLAIN)
def test_examples_use_options_that_exist_and_all_that_are_required(name: str) -> None:
    command = PLAIN[name]
    options = {option for parameter in command.params for option in parameter.opts}
    words = command.epilog.split()
    assert words[:3] == ["Example:", "fastforget", name]
    used = {word for word in words if word.startswith("--")}
    assert used <= options
    needed = [parameter for parameter in command.params if parameter.required]
    assert {parameter.opts[0] for parameter in needed if parameter.param_type_name == "option"} <= used
    arguments = [parameter for parameter in needed if parameter.param_type_name == "argument"]
    assert not arguments or len(words) - 3 - len(used) >= len(arguments)


@pytest.mark.parametrize("name", PLAIN)
def test_every_option_is_explained_in_a_sentence(name: str) -> None:
    # without square brackets, which the printed help would leave out
    for parameter in PLAIN[name].params:
        if parameter.name != "help":
            assert re.fullmatch(r"[A-Z][^\[\]]*\.", parameter.help), parameter.name


@pytest.mark.parametrize("name", WANTED - {"demo", "log", "serve"})
def test_every_result_can_be_had_as_json(name: str) -> None:
    assert "--json" in {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.mark.parametrize("name", PLAIN)
def test_help_is_shown(fastforget: CommandLine, name: str) -> None:
    printed = fastforget.output(name, "--help")
    assert f"Usage: fastforget {name} [OPTIONS]" in printed
    assert f"Example: fastforget {name} " in printed


def test_a_missing_option_is_a_usage_error(fastforget: CommandLine) -> None:
    outcome = fastforget("forget")
    assert (outcome.status, outcome.out) == (2, "")
