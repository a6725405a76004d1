"""`fastforget audit`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from fastforget.auditing import audit as run_audit
from fastforget.cli import checkpoints, samples
from fastforget.cli.keys import SignOption, signing_key
from fastforget.cli.names import names_in
from fastforget.cli.options import (
    FILES_HEADING,
    MODEL_HEADING,
    CheckpointOption,
    ForceOption,
    JsonOption,
    ModelOption,
    NamesOption,
)
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.files.durable import whole_files

__all__ = ["audit"]

_SAMPLES_HEADING = "Samples: `inputs` and `targets` in safetensors files"


def audit(
    model: ModelOption,
    checkpoint: CheckpointOption,
    forget: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Training samples that the model had to forget.", rich_help_panel=_SAMPLES_HEADING
        ),
    ],
    remain: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Training samples that remain.", rich_help_panel=_SAMPLES_HEADING),
    ],
    test: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Samples that were not used in training, of all classes.",
            rich_help_panel=_SAMPLES_HEADING,
        ),
    ],
    original: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Checkpoint from before forgetting.", rich_help_panel=MODEL_HEADING),
    ] = None,
    retrained: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Checkpoint trained without the forgotten samples.", rich_help_panel=MODEL_HEADING
        ),
    ] = None,
    novel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Samples of classes that the model never saw, numbered anew, to compare its features with.",
            rich_help_panel=_SAMPLES_HEADING,
        ),
    ] = None,
    codes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Mnemonic codes, to try them as triggers.", rich_help_panel=MODEL_HEADING),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write a page with plots.", rich_help_panel=FILES_HEADING),
    ] = None,
    report_path: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Where to write the result as JSON.", rich_help_panel=FILES_HEADING
        ),
    ] = None,
    sign: SignOption = None,
    force: ForceOption = False,
    relearning_steps: Annotated[
        int, typer.Option(min=0, help="How many training steps to try to learn the samples again.")
    ] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of samples that are run at once.")] = 256,
    names: NamesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a model still knows of forgotten samples, and what forgetting cost.

    The exit status is 1 if something speaks against the model.
    """
    _check_sign(sign, report_path)
    inputs = (checkpoint, forget, remain, test, original, retrained, novel, codes, names, sign)
    check_output_files({"--html": html, "--report": report_path}, inputs, force=force)
    key = signing_key(sign)
    if html is not None:
        _check_matplotlib()
    called = None if names is None else names_in(names)
    mnemonic_codes = None if codes is None else MnemonicCodes.load(codes)
    loaded = checkpoints.load(model, checkpoint)
    original_model, retrained_model = (
        None if path is None else checkpoints.load(model, path).model for path in (original, retrained)
    )
    report = run_audit(
        loaded.model,
        *(samples.batches(path, loaded, batch_size) for path in (forget, remain, test)),
        original=original_model,
        retrained=retrained_model,
        novel=None if novel is None else samples.read(novel, loaded),
        codes=mnemonic_codes,
        relearning_steps=relearning_steps,
        names=called,
        progress=True,
    )
    if report_path is not None:
        report.save(report_path, key=key)
    if html is not None:
        with whole_files(html) as (draft,):
            report.save_html(draft)
    print_result(report.describe(), str(report), as_json=as_json, failed=bool(report.findings))


def _check_sign(sign: Path | None, report: Path | None) -> None:
    """Raise typer.BadParameter where there is nothing to sign."""
    if sign is not None and report is None:
        raise typer.BadParameter("`--sign` needs `--report`, the file that is signed")


def _check_matplotlib() -> None:
    """Raise ModuleNotFoundError before the work, not after it."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("`--html` needs matplotlib: pip install matplotlib")
