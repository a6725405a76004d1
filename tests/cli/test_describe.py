"""`fastforget describe`."""

import hashlib
import json
from pathlib import Path

from cli.command_line import FORGET, CommandLine


def test_a_receipt_for_inventories_and_catalogues(model_folder: Path, fastforget: CommandLine) -> None:
    fastforget.output(*FORGET)
    receipt = FORGET[FORGET.index("--receipt") + 1]
    checkpoint = FORGET[FORGET.index("--output") + 1]
    describe = ("describe", "--receipt", receipt, "--bom", "bom.json", "--lineage", "event.json")
    Path("names.txt").write_text("a\nb\nc\nd\n")
    printed = fastforget.output(*describe, "--name", "net", "--checkpoint", checkpoint, "--names", "names.txt")
    assert printed.splitlines()[1:] == ["wrote bom.json", "wrote event.json"]
    bom, event = (json.loads(Path(name).read_text()) for name in ("bom.json", "event.json"))
    assert bom["metadata"]["component"]["name"] == event["outputs"][0]["name"] == "net"
    hashes = {one["name"]: one["hashes"][0]["content"] for one in bom["components"] if one["type"] == "file"}
    assert hashes == {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in (receipt, checkpoint)}
    assert "which exists" in fastforget.error_line(*describe)
    said = json.loads(fastforget.output(*describe[:3], "--json"))
    assert (said["written"], said["after"]) == ([], event["outputs"][0]["facets"]["version"]["datasetVersion"])
    assert "must not be empty" in fastforget.error_line(*describe, "--name", "", "--force")
