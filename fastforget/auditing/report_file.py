"""Reports of audits in files, signed or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastforget.files.durable import whole_files
from fastforget.files.signatures import check_signature, signature_of

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["load_report", "save_report"]

_LARGEST = 2**26  # bytes
_KIND, _SIGNED = "audit", "signed"


def save_report(path: str | PathLike[str], report: Mapping[str, Any], key: SigningKey | None) -> None:
    """Write the description of a report as JSON, as a whole.

    Args:
        path: The file; overwritten if it exists.
        report: What `AuditReport.describe` returns.
        key: What signs it; None for nobody.

    Raises:
        OSError: It cannot be written.
    """
    signature = signature_of(_KIND, _canonical(report), key)
    content = {**report, **({_SIGNED: signature} if signature else {})}
    with whole_files(path) as (draft,):
        draft.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_report(path: str | PathLike[str], *, signed_by: PublicKey | None = None) -> dict[str, Any]:
    """Read the report of an audit and check its signature.

    Args:
        path: The file that `AuditReport.save` wrote.
        signed_by: Who must have signed it. Without, a signature is checked, but anybody may have signed.

    Returns:
        What `AuditReport.describe` returned.

    Raises:
        ModuleNotFoundError: It is signed, and the extra ``signing`` is not installed.
        OSError: There is no such file.
        ValueError: It is no report, was changed after it was signed, or was not signed by the key.
    """
    with Path(path).open("rb") as file:
        content = file.read(_LARGEST + 1)
    try:
        return _checked(content, signed_by)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{path}` is not a usable report: {error}") from error


def _checked(content: bytes, signed_by: PublicKey | None) -> dict[str, Any]:
    if len(content) > _LARGEST:
        raise ValueError(f"it must have at most {_LARGEST} bytes")
    report = json.loads(content, parse_constant=_refuse)
    if not isinstance(report, dict) or not {"model", "metrics", "findings"} <= report.keys():
        raise ValueError("it must be a JSON object with `model`, `metrics` and `findings`")
    signature = report.pop(_SIGNED, {})
    if not isinstance(signature, dict):
        raise ValueError(f"`{_SIGNED}` must be an object")  # noqa: TRY004 (the file is at fault)
    check_signature(_KIND, _canonical(report), signature, signed_by)
    return report


def _canonical(report: Mapping[str, Any]) -> str:
    """Return the same text for equal reports, before and after a file."""
    return json.dumps(report, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _refuse(constant: str) -> None:
    raise ValueError(f"a number must be finite, got {constant}")
