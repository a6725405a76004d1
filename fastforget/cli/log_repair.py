"""`fastforget log repair`."""

from typing import Annotated

import typer

from fastforget.cli.log_proofs import LogArgument
from fastforget.cli.options import JsonOption
from fastforget.cli.outputs import print_result
from fastforget.serving.history.repair import repair as repair_archive
from fastforget.serving.history.repair import repair_steps

__all__ = ["repair"]


def repair(
    path: LogArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what can be put right after a crash or a damaged disk, and with --yes do it.

    Nothing that was acknowledged is dropped, and nothing that cannot be read is lost: it is moved to a file of its own.
    The exit status is 1 where something cannot be repaired, or could be and was not.
    """
    steps = repair_archive(path) if yes else repair_steps(path)
    verb = "did" if yes else "would"
    lines = [f"{verb} {step.text}" if step.do else f"cannot repair: {step.text}" for step in steps]
    if not yes and any(step.do for step in steps):
        lines.append("nothing was changed; --yes does it")
    result = {
        "done": yes,
        "steps": [step.text for step in steps if step.do],
        "beyond_repair": [step.text for step in steps if not step.do],
    }
    failed = any(step.do is None or not yes for step in steps)
    print_result(result, "\n".join(lines) or f"{path}: nothing to repair", as_json=as_json, failed=failed)
