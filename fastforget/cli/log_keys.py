"""`fastforget log change-key`."""

from pathlib import Path
from typing import Annotated

import typer

from fastforget.cli.options import JsonOption
from fastforget.cli.outputs import print_result
from fastforget.serving import Archive

__all__ = ["change_key"]


def change_key(
    archive: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The archive; its service is stopped.")],
    sign: Annotated[Path, typer.Option("--sign", metavar="FILE", help="The private key that signs it so far.")],
    new: Annotated[
        Path,
        typer.Option("--new", metavar="FILE", help="The private key that signs from now on."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Hand over to another key, which signs the log from then on; the old one can sign nothing that follows.

    Who knows the old public key goes on checking with it: the log and new proofs hold the old key's signature over the
    new one. Start the service again with the new key, which `fastforget keys` makes.
    """
    from fastforget.files.signing import SigningKey  # noqa: PLC0415 (needs the extra "signing")

    before, after = SigningKey.load(sign), SigningKey.load(new)
    Archive(archive, key=before).change_key(after)
    text = f"{archive}: signed by the key {after.public.text} from here on; {before.public.text} handed over to it"
    result = {"archive": str(archive), "public_key": after.public.text, "previous_key": before.public.text}
    print_result(result, text, as_json=as_json)
