"""What `fastforget serve` says when it starts: where it listens, and what it found."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastforget.class_forgetting.live_codes import prepare_codes
from fastforget.classifier.fitting import checked_logits
from fastforget.classifier.parameters import chosen_parameters
from fastforget.classifier.running import gather_logits
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.serving import Archive, LiveModel

__all__ = ["start_lines"]


def start_lines(
    url: str, live: LiveModel, model: nn.Module, codes: MnemonicCodes, archive: Archive, tokens: Sequence[str] | None
) -> list[str]:
    """Check a service before it starts, and return what to say.

    Args:
        url: Where it will listen.
        live: Its model.
        model: The module in it.
        codes: The codes.
        archive: Where edits are kept.
        tokens: The roles that have a token, or get one from an issuer; None where there are no tokens.

    Returns:
        A line each. Those that begin with "!" say what will not work.
    """
    version = live.version
    forgotten = f", {len(version.classes)} classes forgotten" if version.classes else ""
    lacking = [role for role in ("ask", "see", "revert") if tokens is not None and role not in tokens]
    if tokens is None:
        access = "! no token: every user of this machine can file requests and go back"
    elif lacking:
        access = f"tokens: set; nobody may {', '.join(lacking)}"
    else:
        access = "tokens: set"
    return [
        f"serving {url} - the page is there, GET {url}readyz says when it is ready",
        f"model: version {version.number}{forgotten}",
        _codes_line(model, codes, version.classes),
        _archive_line(archive),
        access,
        "audit: none; edits are put on record without one",
    ]


def _codes_line(model: nn.Module, codes: MnemonicCodes, forgotten: Sequence[int]) -> str:
    left = [cls for cls in range(len(codes)) if cls not in forgotten]
    if not left:
        return "codes: every class is forgotten"
    like = next(iter(chosen_parameters(model, None).values()))
    try:
        known, _ = prepare_codes(model, codes, left[0], forgotten, like)
        logits = gather_logits(lambda some: checked_logits(model, some, "mnemonic_codes"), known.inputs, None)
    except (RuntimeError, TypeError, ValueError) as error:
        return f"! codes: the model does not take them, so that no request can be carried out: {error}"
    share = float((logits.argmax(1) == known.labels).double().mean())
    told = f"codes: the model recognises {share:.0%} of those of classes that remain"
    return told if share >= 0.5 else f"! {told}: requests will be refused, see `fastforget embed-check`"


def _archive_line(archive: Archive) -> str:
    try:
        with archive.writing(1.0):
            pass
    except (OSError, ValueError) as error:
        return f"! archive: {archive.folder} cannot be written, so that no request can be filed: {error}"
    waiting = sum(request.state == "waiting" for request in archive.requests())
    signed = "signed" if (archive.folder / "requests.jsonl.signed").exists() else "not signed"
    return f"archive: {archive.folder} can be written, {signed}; {waiting} requests wait"
