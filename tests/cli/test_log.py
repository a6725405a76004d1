"""`fastforget log`."""

import json
from contextlib import closing
from pathlib import Path

from cli.command_line import CommandLine
from torch import nn

from fastforget.serving import LiveModel, RequestLog


def test_a_log_is_verified_and_shown(fastforget: CommandLine, folder: Path) -> None:
    with closing(RequestLog("requests.log")) as log:
        records = [log.append({"class": c}) for c in (3, 5)]
    printed = fastforget.output("log", "verify", "requests.log", "--known", records[0].hash)
    assert printed == "requests.log: 2 records, none changed, dropped, added or moved\n"
    found = json.loads(fastforget.output("log", "verify", "requests.log", "--json"))
    assert found == {"log": "requests.log", "records": 2}
    lines = fastforget.output("log", "show", "requests.log").splitlines()
    assert [json.loads(line)["class"] for line in lines] == [3, 5]


def test_of_an_archive(fastforget: CommandLine, folder: Path) -> None:
    LiveModel(nn.Linear(2, 2).eval(), archive="kept").close()
    with closing(RequestLog("kept/requests.jsonl")) as log:
        log.append({"class": 3})
    assert fastforget.output("log", "verify", "kept").startswith("kept/requests.jsonl: 1 record, none changed")
    assert json.loads(fastforget.output("log", "show", "kept"))["class"] == 3
    assert "requests.jsonl" in fastforget.error_line("log", "verify", ".")


def test_a_changed_log_is_refused(fastforget: CommandLine, folder: Path) -> None:
    with closing(RequestLog("requests.log")) as log:
        log.append({"class": 3})
    Path("requests.log").write_bytes(Path("requests.log").read_bytes().replace(b'"class":3', b'"class":4'))
    for command in ("verify", "show"):
        assert fastforget.error_line("log", command, "requests.log").startswith(
            "record 1 of `requests.log` was changed"
        )
