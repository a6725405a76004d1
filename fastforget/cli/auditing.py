"""`fastforget audit`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from fastforget.audit import audit as run_audit
from fastforget.cli import checkpoints, samples
from fastforget.cli.options import FILES, MODEL, Checkpoint, Force, Json, Model
from fastforget.cli.outputs import check_outputs, show, written_whole
from fastforget.codes import MnemonicCodes

__all__ = ["audit"]

_SAMPLES = "Samples: `inputs` and `targets` in safetensors files"


def audit(
    model: Model,
    checkpoint: Checkpoint,
    forget: Annotated[
        Path, typer.Option(metavar="FILE", help="That it was to forget, of its training.", rich_help_panel=_SAMPLES)
    ],
    remain: Annotated[
        Path, typer.Option(metavar="FILE", help="That remain, of its training.", rich_help_panel=_SAMPLES)
    ],
    test: Annotated[
        Path,
        typer.Option(metavar="FILE", help="It was not trained on; some of every class.", rich_help_panel=_SAMPLES),
    ],
    original: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checkpoint before forgetting.", rich_help_panel=MODEL)
    ] = None,
    retrained: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Checkpoint trained without the samples.", rich_help_panel=MODEL),
    ] = None,
    codes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Mnemonic codes, to see if they act as triggers.", rich_help_panel=MODEL),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write a page with plots.", rich_help_panel=FILES)
    ] = None,
    force: Force = False,
    relearning_steps: Annotated[int, typer.Option(min=0, help="Steps of learning again that are watched.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples that are run at once.")] = 256,
    as_json: Json = False,
) -> None:
    """Measure what a model still knows of what it was to forget, and what that cost.

    Exit status 1 where something speaks against the model.
    """
    given = (checkpoint, forget, remain, test, original, retrained, codes)
    check_outputs({"--html": html}, given, force=force)
    if html is not None:
        _check_plots()
    known = None if codes is None else MnemonicCodes.load(codes)
    audited = checkpoints.load(model, checkpoint)
    before, again = (None if path is None else checkpoints.load(model, path).model for path in (original, retrained))
    report = run_audit(
        audited.model,
        *(samples.batches(path, audited, batch_size) for path in (forget, remain, test)),
        original=before,
        retrained=again,
        codes=known,
        relearning_steps=relearning_steps,
    )
    if html is not None:
        with written_whole(html) as (draft,):
            report.save_html(draft)
    show(report.describe(), str(report), as_json=as_json, failed=bool(report.findings))


def _check_plots() -> None:
    """Notice before the work that its result could not be drawn."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("`--html` needs matplotlib: pip install matplotlib")
