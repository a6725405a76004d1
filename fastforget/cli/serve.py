"""`fastforget serve`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastforget.cli import checkpoints
from fastforget.cli.earlier import earlier_classes
from fastforget.cli.issuer import (
    AudienceOption,
    IssuerClaimOption,
    IssuerKeysOption,
    IssuerOption,
    IssuerRolesOption,
    issuer_of,
    issuer_settings,
)
from fastforget.cli.keys import SignOption, signing_key
from fastforget.cli.names import known_names
from fastforget.cli.options import CheckpointOption, CodesOption, ForgottenOption, ModelOption, NamesOption
from fastforget.cli.serve_checks import start_lines
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.serving import Archive, LiveModel
from fastforget.serving.history.entries import now
from fastforget.serving.history.undo_policy import kept_until

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["application", "serve"]

_OPTIONS_VARIABLE, _TOKEN_VARIABLE = "FASTFORGET_SERVE", "FASTFORGET_TOKEN"
_ROLES = ("ask", "see", "revert")  # as in fastforget.serving.tokens
_CONNECTIONS = 1_000  # of one worker at a time; others are answered 503
_SECONDS_TO_END = 10  # that requests under way have when the service is told to end


def serve(
    model: ModelOption,
    checkpoint: CheckpointOption,
    codes: CodesOption,
    archive: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where edits and the log are kept. All workers share it."),
    ],
    forgotten: ForgottenOption = None,
    undo: Annotated[
        str, typer.Option(metavar="POLICY", help="How long edits can be undone: keep, never, or expire:30d.")
    ] = "keep",
    sign: SignOption = None,
    metrics: Annotated[
        bool,
        typer.Option("--metrics", help="Answer GET /metrics in the format of Prometheus, to who may see requests."),
    ] = False,
    names: NamesOption = None,
    deadline: Annotated[
        int, typer.Option(min=1, metavar="DAYS", help="Days after filing by which requests are to be answered.")
    ] = 30,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Pictures of classes for the page, by number, such as 3.png.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default only this machine is served.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes, each with its own copy of the model.")] = 1,
    issuer: IssuerOption = None,
    audience: AudienceOption = None,
    issuer_keys: IssuerKeysOption = None,
    issuer_claim: IssuerClaimOption = "roles",
    issuer_roles: IssuerRolesOption = None,
) -> None:
    """Serve predictions and forgetting requests by HTTP, with a page to file requests on.

    The service starts in the newest version in the archive.

    Set the environment variable FASTFORGET_TOKEN to a secret that callers must send to file or see requests, or to go
    back. Or set one for each: FASTFORGET_TOKEN_ASK, FASTFORGET_TOKEN_SEE and FASTFORGET_TOKEN_REVERT. With --issuer,
    tokens that it signed let in, too. Without any, every user of this machine can.
    """
    issued = issuer_settings(issuer, audience, issuer_keys, issuer_claim, issuer_roles)
    _check_before_start(undo, host, closed=bool(issued or _tokens()))
    paths = {
        "checkpoint": checkpoint,
        "codes": codes,
        "archive": archive,
        "names": names,
        "sign": sign,
        "pictures": pictures,
    }
    options: dict[str, Any] = {"model": model, "undo": undo, "forgotten": forgotten, "metrics": metrics}
    options |= {"deadline": deadline, "issuer": issued}
    options |= {name: path and str(path) for name, path in paths.items()}
    os.environ[_OPTIONS_VARIABLE] = json.dumps(options)
    uvicorn = _import_uvicorn()
    # Reports faults here, once, and not in every worker.
    for line in _made(_options())[1](f"http://{f'[{host}]' if ':' in host else host}:{port}/"):
        typer.echo(f"fastforget: {line}", err=True)
    uvicorn.run(
        "fastforget.cli.serve:application",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        http="fastforget.serving.slow_callers:ImpatientProtocol",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )


def _check_before_start(undo: str, host: str, *, closed: bool) -> None:
    kept_until(undo, now())
    if host not in ("127.0.0.1", "::1", "localhost") and not closed:
        raise ValueError(
            f"`{_TOKEN_VARIABLE}` must be set where others reach the service: on {host} anybody could file requests"
        )


def _tokens() -> dict[str, str] | None:
    """Return the tokens by role; None where there are none."""
    by_role = {role: os.environ.get(f"{_TOKEN_VARIABLE}_{role.upper()}") for role in _ROLES}
    everything = os.environ.get(_TOKEN_VARIABLE)
    found = {role: own or everything for role, own in by_role.items()}
    return {role: token for role, token in found.items() if token} or None


def _import_uvicorn() -> ModuleType:
    try:
        import uvicorn  # noqa: PLC0415 (needs the extra "serve")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("serving by HTTP needs uvicorn: pip install 'fastforget[serve]'") from error
    return uvicorn


def application() -> "FastAPI":
    """Return the application of a worker process.

    `serve` passes its options to the workers in an environment variable.

    Returns:
        The application.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not what it must be, or the files do not fit together.
    """
    return _made(_options())[0]


def _options() -> dict[str, Any]:
    options: dict[str, Any] = json.loads(os.environ[_OPTIONS_VARIABLE])
    return options


def _made(options: dict[str, Any]) -> tuple["FastAPI", Callable[[str], list[str]]]:
    """Return the application, and what checks it and says what it found when it is told the address."""
    from fastforget.serving.web import application as web_application  # noqa: PLC0415 (needs the extra "serve")

    loaded = checkpoints.load(options["model"], Path(options["checkpoint"]))
    codes = MnemonicCodes.load(options["codes"])
    earlier = earlier_classes(loaded, options["forgotten"])
    key = signing_key(Path(options["sign"]) if options["sign"] else None)
    archive = Archive(options["archive"], key=key)
    live = LiveModel(loaded.model, codes, archive=archive, forgotten=earlier, undo=options["undo"])
    names = known_names(Path(options["names"]) if options["names"] else None, loaded.model)
    tokens, issuer = _tokens(), issuer_of(options["issuer"])
    more = {name: options[name] for name in ("metrics", "deadline", "pictures")}
    app = web_application(live, token=tokens, names=names, issuer=issuer, **more)
    roles = None if tokens is None and issuer is None else [*(tokens or ()), *(issuer.roles if issuer else ())]
    return app, lambda url: start_lines(url, live, loaded.model, codes, archive, roles)
