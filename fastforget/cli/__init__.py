"""The command line: `fastforget COMMAND`, see docs/command-line.md."""

try:
    import typer  # noqa: F401 (asked for here, so that what is missing is named before anything else is loaded)
except ModuleNotFoundError as error:
    raise SystemExit("fastforget: the command line needs typer: pip install 'fastforget[cli]'") from error

from fastforget.cli.commands import app, main

__all__ = ["app", "main"]
