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


def test_classes_by_name(fastforget: CommandLine, folder: Path) -> None:
    with closing(RequestLog("requests.log")) as log:
        log.append({"classes": [1, 2]})
        log.append({"other": 3})
    Path("names.txt").write_text("cat\ndog\n")
    shown = fastforget.output("log", "show", "requests.log", "--names", "names.txt").splitlines()
    first, second = map(json.loads, shown)
    assert (first["classes"], first["class_names"]) == ([1, 2], ["dog", None])
    assert "class_names" not in second
    assert "none.txt" in fastforget.error_line("log", "show", "requests.log", "--names", "none.txt")


def test_a_repair_is_said_and_then_done(fastforget: CommandLine, folder: Path) -> None:
    with closing(RequestLog("requests.log")) as log:
        for c in (3, 5):
            log.append({"class": c})
    assert fastforget.output("log", "repair", "requests.log") == "requests.log: nothing to repair\n"
    Path("requests.log.head").unlink()
    outcome = fastforget("log", "repair", "requests.log")
    assert (outcome.status, outcome.err) == (1, "")
    assert outcome.out.startswith("would write the head anew, of record 2: it is missing")
    assert outcome.out.endswith("nothing was changed; --yes does it\n")
    assert not Path("requests.log.head").exists()
    found = json.loads(fastforget.output("log", "repair", "requests.log", "--yes", "--json"))
    assert (found["done"], len(found["steps"]), found["beyond_repair"]) == (True, 1, [])
    assert "2 records" in fastforget.output("log", "verify", "requests.log")
    Path("requests.log").write_bytes(b"")
    outcome = fastforget("log", "repair", "requests.log", "--yes")
    assert outcome.status == 1
    assert outcome.out.startswith("cannot repair: no record of `requests.log` can be read")
