"""All commands, in the order of `--help`."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from fastforget.cli import audit, bench, codes, compare, demo, describe, forget, inscribe, keys, log, serve, unlearn
from fastforget.cli.outputs import plain_warnings
from fastforget.cli.words import in_command_words

__all__ = ["app", "main"]

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
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


_NETWORK = "--model nets:resnet --checkpoint net.safetensors"
_add(codes.codes, "codes --classes 10 --shape 3x32x32 --output codes.safetensors")
_add(codes.embed_check, "embed-check", _NETWORK, "--codes codes.safetensors")
_add(
    inscribe.inscribe,
    *("inscribe", _NETWORK, "--codes codes.safetensors --data train.safetensors --output with-codes.safetensors"),
)
_add(
    forget.forget,
    *("forget", _NETWORK, "--codes codes.safetensors --cls 3"),
    "--output without-3.safetensors --receipt forgot-3.safetensors",
)
_add(
    unlearn.unlearn,
    *("unlearn", _NETWORK, "--forget theirs.safetensors --remain rest.safetensors --unseen unseen.safetensors"),
    "--output without.safetensors --receipt unlearnt.safetensors",
)
_add(forget.apply, "apply", _NETWORK, "--receipt forgot-3.safetensors --in-place")
_add(forget.revert, "revert", _NETWORK, "--receipt forgot-3.safetensors --receipt forgot-5.safetensors --in-place")
_add(
    audit.audit,
    *("audit", _NETWORK, "--original before.safetensors"),
    "--forget threes.safetensors --remain rest.safetensors --test test.safetensors --html audit.html",
)
_add(compare.compare, "compare comparison.toml")
_add(describe.describe, "describe --receipt forgot-3.safetensors --bom bom.json --lineage event.json")
app.add_typer(log.log, name="log")
_add(keys.keys, "keys --output private.pem --public public.pem")
_add(keys.check_signature, "check-signature --file audit.json --public-key public.pem")
_add(serve.serve, "serve", _NETWORK, "--codes codes.safetensors --archive archive --undo expire:30d")
_add(demo.demo, "demo --data digits")
_add(bench.bench, "bench", _NETWORK, "--codes codes.safetensors --cls 3")


def main() -> None:
    """Run the command line. An expected failure prints one line on standard error and exits with status 1."""
    try:
        with plain_warnings():
            app()
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"fastforget: {in_command_words(' '.join(str(error).splitlines()))}")
