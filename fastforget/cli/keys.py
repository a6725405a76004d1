"""`fastforget keys` and `fastforget check-signature`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastforget.auditing import load_report
from fastforget.cli.options import FILES_HEADING, JsonOption
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.edits.receipt import Receipt

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["PublicKeyOption", "SignOption", "check_signature", "keys", "public_key", "signing_key"]

SignOption = Annotated[
    Path | None,
    typer.Option("--sign", metavar="FILE", help="Sign with this private key, made by `fastforget keys`."),
]
PublicKeyOption = Annotated[
    Path | None,
    typer.Option("--public-key", metavar="FILE", help="Public key of whoever must have signed it."),
]


def keys(
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The private key, to sign.", rich_help_panel=FILES_HEADING)
    ],
    public: Annotated[
        Path, typer.Option("--public", metavar="FILE", help="The public key, to check.", rich_help_panel=FILES_HEADING)
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a pair of Ed25519 keys to sign logs, receipts and audits; never overwrites a file.

    Who has the private key can sign in its name: keep it where others cannot read. It has no password.
    """
    from fastforget.files.signing import SigningKey  # noqa: PLC0415 (needs the extra "signing")

    check_output_files({"--output": output, "--public": public}, (), force=False)
    key = SigningKey.generate()
    key.save(output)
    key.public.save(public)
    result = {"public_key": key.public.text, "output": str(output), "public": str(public)}
    print_result(result, f"the public key is {key.public.text}\nwrote {output} and {public}", as_json=as_json)


def check_signature(
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="A receipt, or the report of an audit.")],
    key: Annotated[
        Path, typer.Option("--public-key", metavar="FILE", help="Public key of whoever must have signed it.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Check that a receipt or the report of an audit was signed by the holder of a key, and not changed since."""
    signer = public_key(key)
    with file.open("rb") as opened:
        is_report = opened.read(1) == b"{"  # a receipt begins with the length of its header
    result: dict[str, object] = {"file": str(file), "public_key": signer and signer.text}
    if is_report:
        model = load_report(file, signed_by=signer)["model"]
        result |= {"kind": "audit", "model": model}
        text = f"{file}: signed by that key; the report of an audit of model {model}"
    else:
        receipt = Receipt.load(file, signed_by=signer)
        result |= {"kind": "receipt", "before": receipt.before, "after": receipt.after}
        text = f"{file}: signed by that key; the receipt of {receipt.summary()}"
    print_result(result, text, as_json=as_json)


def signing_key(path: Path | None) -> "SigningKey | None":
    """Return the private key in a file, if one is given.

    Args:
        path: The value of `--sign`.

    Returns:
        The key.

    Raises:
        ModuleNotFoundError: The extra ``signing`` is not installed.
        OSError: There is no such file.
        ValueError: It holds something else.
    """
    if path is None:
        return None
    from fastforget.files.signing import SigningKey  # noqa: PLC0415 (needs the extra "signing")

    return SigningKey.load(path)


def public_key(path: Path | None) -> "PublicKey | None":
    """Return the public key in a file, if one is given; errors as for `signing_key`."""
    if path is None:
        return None
    from fastforget.files.signing import PublicKey  # noqa: PLC0415 (needs the extra "signing")

    return PublicKey.load(path)
