"""`fastforget describe`."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fastforget.cli.keys import PublicKeyOption, public_key
from fastforget.cli.names import names_in
from fastforget.cli.options import FILES_HEADING, ForceOption, JsonOption
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.cli.receipts import receipt_description
from fastforget.edits.receipt import Receipt
from fastforget.files.durable import whole_files
from fastforget.integrations.cyclone_dx import bill_of_materials
from fastforget.integrations.open_lineage import lineage_event

__all__ = ["describe"]


def describe(
    receipt: Annotated[Path, typer.Option("--receipt", metavar="FILE", help="A receipt of an edit.")],
    name: Annotated[str, typer.Option(help="What the model is called.")] = "classifier",
    namespace: Annotated[str, typer.Option(help="Where it belongs, for the event.")] = "fastforget",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The edited checkpoint: its SHA-256 is added to the bill.")
    ] = None,
    bom: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bill of materials, CycloneDX 1.6 (JSON).", rich_help_panel=FILES_HEADING),
    ] = None,
    lineage: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Event for catalogues, OpenLineage (JSON).", rich_help_panel=FILES_HEADING),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of classes, a line each; without, only numbers."),
    ] = None,
    key: PublicKeyOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a receipt holds, and write it for inventories and catalogues."""
    check_output_files({"--bom": bom, "--lineage": lineage}, (receipt, checkpoint, names, key), force=force)
    called = None if names is None else names_in(names)
    found = Receipt.load(receipt, signed_by=public_key(key))
    files = {path.name: _digest(path) for path in (receipt, checkpoint) if path is not None}
    wanted: dict[Path, dict[str, Any]] = {}
    if bom is not None:
        wanted[bom] = bill_of_materials(found, name, names=called, files=files)
    if lineage is not None:
        wanted[lineage] = lineage_event(found, name, namespace=namespace, names=called)
    for path, content in wanted.items():
        with whole_files(path) as (draft,):
            draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = [f"{receipt}: {found.summary(called)}", *(f"wrote {path}" for path in wanted)]
    result = {**receipt_description(found, receipt, called), "written": [str(path) for path in wanted]}
    print_result(result, "\n".join(lines), as_json=as_json)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
