"""Shells complete commands and options."""

import os
import subprocess
import sys

import pytest


def complete(words: str) -> set[str]:
    """Return what a bash is told that may follow."""
    variables = {"_FASTFORGET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-c", "import sys; sys.argv = ['fastforget']; import fastforget.cli as c; c.main()"]
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    return set(done.stdout.split())


def test_commands_and_options_are_completed() -> None:
    assert {"forget", "embed-check", "serve"} <= complete("fastforget ")
    assert complete("fastforget for") == {"forget"}
    assert "--receipt" in complete("fastforget forget --re")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell: str) -> None:
    """It is installed by `--install-completion`, for the shell that it is called from."""
    script = "import sys; sys.argv = ['fastforget', '--show-completion']; import fastforget.cli as c; c.main()"
    detect = f"import shellingham; shellingham.detect_shell = lambda: ('{shell}', '/bin/{shell}'); "
    command = [sys.executable, "-c", detect + script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own interpreter)
    assert done.returncode == 0, done.stderr
    assert "_FASTFORGET_COMPLETE" in done.stdout
