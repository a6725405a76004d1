"""All commands together."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from fastforget.cli import auditing, codes, demonstration, forgetting, log, serving, timing

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make PyTorch classifiers forget classes, with a receipt and with undo.",
    epilog="Exit status: 0, done; 1, it could not be done, or a check failed; 2, the command line is wrong.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastforget {version('fastforget')}")
        raise typer.Exit


@app.callback()
def _options(
    version_wanted: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _add(command: Callable[..., Any], *example: str) -> None:
    app.command(epilog=" ".join(("Example: fastforget", *example)))(command)


# In the order of `--help`.
_NET = "--model nets:resnet --checkpoint net.safetensors"
_add(codes.codes, "codes --classes 10 --shape 3x32x32 --output codes.safetensors")
_add(codes.embed_check, "embed-check", _NET, "--codes codes.safetensors")
_add(
    forgetting.forget,
    *("forget", _NET, "--codes codes.safetensors --cls 3"),
    "--output without-3.safetensors --receipt forgot-3.safetensors",
)
_add(forgetting.apply, "apply", _NET, "--receipt forgot-3.safetensors --in-place")
_add(forgetting.revert, "revert", _NET, "--receipt forgot-3.safetensors --receipt forgot-5.safetensors --in-place")
_add(
    auditing.audit,
    *("audit", _NET, "--original before.safetensors"),
    "--forget threes.safetensors --remain rest.safetensors --test test.safetensors --html audit.html",
)
app.add_typer(log.log, name="log")
_add(serving.serve, "serve", _NET, "--codes codes.safetensors --archive archive --undo expire:30d")
_add(demonstration.demo, "demo --data digits")
_add(timing.bench, "bench", _NET, "--codes codes.safetensors --cls 3")


def main() -> None:
    """Runs the command line; an expected failure is one line on standard error and exit status 1."""
    try:
        app()
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"fastforget: {' '.join(str(error).splitlines())}")
