"""`fastforget compare`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from fastforget.cli.options import FILES_HEADING, JsonOption
from fastforget.cli.outputs import print_result
from fastforget.comparison import compare as run_comparison

__all__ = ["compare"]


def compare(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.toml",
            help="What to compare: model, training, data, what to forget, methods, seeds.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where networks, rows and the result are kept; by default the one that the file names, or "
            "`comparison` beside it.",
            rich_help_panel=FILES_HEADING,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare unlearning methods on your own data, over seeds, beside networks that were trained again.

    What is in the folder already is not done again. The exit status is 1 if a method failed.
    """
    with redirect_stdout(sys.stderr):  # what functions of the user print is not the result
        found = run_comparison(config, output=output, progress=True)
    files = ", ".join(f"comparison.{kind}" for kind in ("csv", "tex", "html"))
    text = f"{found}\n\nmeasured {found.measured} of {len(found.rows)} rows; wrote {files} in {found.folder}"
    print_result(found.describe(), text, as_json=as_json, failed=bool(found.failures))
