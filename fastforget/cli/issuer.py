"""The options of `fastforget serve` for tokens that an issuer signed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fastforget.serving.issuer import Issuer

__all__ = [
    "AudienceOption",
    "IssuerClaimOption",
    "IssuerKeysOption",
    "IssuerOption",
    "IssuerRolesOption",
    "issuer_of",
    "issuer_settings",
]

_HEADING = "Tokens of an issuer (JWT, OpenID Connect)"

IssuerOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=_HEADING, help="Let in whoever has a token of this issuer (iss)."),
]
AudienceOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=_HEADING, help="For whom its tokens must be made (aud)."),
]
IssuerKeysOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_HEADING,
        help="Its public keys: a JSON Web Key Set or a PEM file, or the https address of a set.",
    ),
]
IssuerClaimOption = Annotated[
    str,
    typer.Option(metavar="NAME", rich_help_panel=_HEADING, help="Claim that holds roles, such as realm_access.roles."),
]
IssuerRolesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--issuer-role",
        metavar="ROLE=VALUE",
        rich_help_panel=_HEADING,
        help="What stands in the claim for ask, see or revert; repeat. By default these names. A role left out is not "
        "given by the issuer.",
    ),
]


def issuer_settings(
    issuer: str | None, audience: str | None, keys: str | None, claim: str, roles: Sequence[str] | None
) -> dict[str, Any] | None:
    """Return what makes an `Issuer`, as JSON knows it; None where none is given.

    Args:
        issuer: The value of ``--issuer``.
        audience: Of ``--audience``.
        keys: Of ``--issuer-keys``.
        claim: Of ``--issuer-claim``.
        roles: Of ``--issuer-role``.

    Returns:
        The settings.

    Raises:
        BadParameter: An option is missing, or says no role.
        ModuleNotFoundError: The extra ``jwt`` is not installed.
        OSError: The keys cannot be read.
        ValueError: They are none, or a role is none.
    """
    given = {"--issuer": issuer, "--audience": audience, "--issuer-keys": keys}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given) and not roles:
        return None
    if missing:
        raise typer.BadParameter(f"`{missing[0]}` must be given, too, for the tokens of an issuer")
    settings: dict[str, Any] = {"name": issuer, "audience": audience, "keys": keys, "claim": claim}
    if roles:
        pairs = [role.partition("=") for role in roles]
        if not all(sign and value for _, sign, value in pairs):
            raise typer.BadParameter(f"`--issuer-role` must be ROLE=VALUE, got {' '.join(roles)}")
        settings["roles"] = {role: value for role, _, value in pairs}
    from fastforget.serving.issuer import IssuedTokens  # noqa: PLC0415 (only where one is given)

    made = issuer_of(settings)
    if made is not None:
        IssuedTokens(made)  # so that faults show before anything is loaded
    return settings


def issuer_of(settings: dict[str, Any] | None) -> Issuer | None:
    """Return the issuer that settings describe.

    Args:
        settings: As `issuer_settings` returned them.

    Returns:
        The issuer.

    Raises:
        ValueError: A role is none.
    """
    from fastforget.serving.issuer import Issuer  # noqa: PLC0415 (likewise)

    return None if settings is None else Issuer(**settings)
