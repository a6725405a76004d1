"""The command line: `fastforget COMMAND`. See docs/guide/command-line.md."""

try:
    import typer  # noqa: F401 (imported first, so that the error names what to install)
except ModuleNotFoundError as _error:
    raise SystemExit("fastforget: the command line needs typer: pip install 'fastforget[cli]'") from _error

from fastforget.cli.commands import app, main

__all__ = ["app", "main"]
