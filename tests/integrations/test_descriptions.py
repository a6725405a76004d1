"""Edits described for inventories (CycloneDX) and catalogues (OpenLineage), against the published formats."""

import copy
import json
import re
import uuid
from datetime import datetime
from typing import Any

import known_codes
import pytest

from fastforget import Receipt, one_shot
from fastforget.integrations import bill_of_materials, lineage_event

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
NAMES = [f"person {n}" for n in range(10)]
DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def receipt() -> Receipt:
    model, codes, _ = known_codes.digits()
    return one_shot(copy.deepcopy(model), codes, [3, 5], forgotten=[7])


def unchanged() -> Receipt:
    model = known_codes.digits()[0]
    return Receipt.between(copy.deepcopy(model), model)


def bom(receipt: Receipt, **more: Any) -> dict[str, Any]:
    made = bill_of_materials(receipt, "digits", **more)
    again: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    assert again == made
    return again


def test_the_bill_has_what_the_format_requires(receipt: Receipt) -> None:
    """As ECMA-424 says, for a bill, components, hashes, properties and metrics."""
    made = bom(receipt, files={"receipt.safetensors": DIGEST})
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(f"urn:uuid:{UUID}", made["serialNumber"])
    assert datetime.fromisoformat(made["metadata"]["timestamp"]).tzinfo is not None
    model = made["metadata"]["component"]
    (before,) = model["pedigree"]["ancestors"]
    components = [model, before, *made["components"], *made["metadata"]["tools"]["components"]]
    assert all(one["type"] and one["name"] for one in components)
    assert {one["type"] for one in (model, before)} == {"machine-learning-model"}
    assert all("modelCard" not in one for one in components[1:])
    for one in (model, unchanged_model := bom(unchanged())["metadata"]["component"]):
        assert one["bom-ref"] != one["pedigree"]["ancestors"][0]["bom-ref"]
    assert "quantitativeAnalysis" not in unchanged_model["modelCard"]
    assert all(set(one) == {"name", "value"} for one in model["properties"])
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert all(isinstance(one["type"], str) and isinstance(one["value"], str) for one in metrics)
    assert {"type": "file", "name": "receipt.safetensors", "hashes": [{"alg": "SHA-256", "content": DIGEST}]} in made[
        "components"
    ]


def test_what_the_bill_says(receipt: Receipt) -> None:
    made = bom(receipt)
    model = made["metadata"]["component"]
    assert model["version"].endswith(receipt.after)
    assert model["pedigree"]["ancestors"][0]["version"].endswith(receipt.before)
    assert model["pedigree"]["notes"] == receipt.summary()
    said = [(one["name"], one["value"]) for one in model["properties"]]
    assert [value for name, value in said if name == "fastforget:forgotten-class"] == ["7", "3", "5"]
    assert ("fastforget:claim", "disconnected") in said
    assert ("fastforget:changed-parameters", str(receipt.changed)) in said
    depth = [one["value"] for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]]
    assert f"{receipt.evidence['output_depth']:g}" in depth
    assert "not a proof" in model["modelCard"]["considerations"]["technicalLimitations"][0]
    assert "person" not in json.dumps(made)
    assert "person 3" in json.dumps(bom(receipt, names=NAMES))


def test_the_bill_against_the_schema(receipt: Receipt) -> None:
    pytest.importorskip("jsonschema")
    pytest.importorskip("cyclonedx")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    plain = unchanged()
    for made in (bom(receipt, names=NAMES, files={"a": DIGEST}), bom(plain)):
        assert validator.validate_str(json.dumps(made)) is None
    assert validator.validate_str(json.dumps(made | {"more": 1})) is not None


def event(receipt: Receipt, **more: Any) -> dict[str, Any]:
    made = lineage_event(receipt, "digits", **more)
    again: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    assert again == made
    return again


def facets(made: dict[str, Any]) -> list[dict[str, Any]]:
    holders = (made["run"], made["job"], *made["inputs"], *made["outputs"])
    return [facet for holder in holders for facet in holder["facets"].values()]


def test_the_event_has_what_the_format_requires(receipt: Receipt) -> None:
    """As the specification says, for events, runs, jobs, data sets and facets."""
    made = event(receipt)
    assert {"eventTime", "producer", "schemaURL", "run", "job"} <= made.keys()
    assert made["eventType"] in ("START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER")
    assert datetime.fromisoformat(made["eventTime"]).tzinfo is not None
    assert str(uuid.UUID(made["run"]["runId"])) == made["run"]["runId"]
    for one in (made["job"], *made["inputs"], *made["outputs"]):
        assert one["namespace"]
        assert one["name"]
    assert len(facets(made)) == 4
    for facet in facets(made):
        assert re.fullmatch(r"pkg:pypi/fastforget@\S+", facet["_producer"])
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/")
    assert all({"key", "value"} <= tag.keys() for tag in made["run"]["facets"]["tags"]["tags"])


def test_what_the_event_says(receipt: Receipt) -> None:
    made = event(receipt, namespace="models")
    versions = [made[end][0]["facets"]["version"]["datasetVersion"] for end in ("inputs", "outputs")]
    assert versions == [receipt.before, receipt.after]
    assert {one["namespace"] for one in (made["job"], *made["inputs"], *made["outputs"])} == {"models"}
    tags = [(tag["key"], tag["value"]) for tag in made["run"]["facets"]["tags"]["tags"]]
    assert [value for key, value in tags if key == "forgotten-class"] == ["3", "5"]
    assert "person" not in json.dumps(made)
    assert "person 3" in json.dumps(event(receipt, names=NAMES))


def test_the_event_against_the_client(receipt: Receipt) -> None:
    pytest.importorskip("openlineage.client")
    from openlineage.client import event_v2
    from openlineage.client.generated import dataset_version_dataset, documentation_job, tags_run

    made = event(receipt)
    tags = made["run"]["facets"]["tags"]
    fields = [tags_run.TagsRunFacetFields(**tag) for tag in tags["tags"]]
    documentation = made["job"]["facets"]["documentation"]["description"]

    def model(found: dict[str, Any]) -> dict[str, Any]:
        version = found["facets"]["version"]["datasetVersion"]
        facet = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)
        return {"namespace": found["namespace"], "name": found["name"], "facets": {"version": facet}}

    built = event_v2.RunEvent(
        eventType=event_v2.RunState(made["eventType"]),
        eventTime=made["eventTime"],
        producer=made["producer"],
        run=event_v2.Run(runId=made["run"]["runId"], facets={"tags": tags_run.TagsRunFacet(tags=fields)}),
        job=event_v2.Job(
            namespace=made["job"]["namespace"],
            name=made["job"]["name"],
            facets={"documentation": documentation_job.DocumentationJobFacet(description=documentation)},
        ),
        inputs=[event_v2.InputDataset(**model(made["inputs"][0]))],
        outputs=[event_v2.OutputDataset(**model(made["outputs"][0]))],
    )
    assert built.schemaURL.split("/spec/")[1] == made["schemaURL"].split("/spec/")[1]
    theirs = [*built.run.facets.values(), *built.job.facets.values(), built.inputs[0].facets["version"]]
    ours = [tags, made["job"]["facets"]["documentation"], made["inputs"][0]["facets"]["version"]]
    for one, other in zip(theirs, ours, strict=True):
        assert type(one)._get_schema().rpartition("/")[2] == other["_schemaURL"].rpartition("/")[2]


def test_the_same_receipt_gives_the_same(receipt: Receipt) -> None:
    assert bom(receipt) == bom(receipt)
    assert event(receipt) == event(receipt)
    other = unchanged()
    assert bom(receipt)["serialNumber"] != bom(other)["serialNumber"]
    assert event(receipt)["run"]["runId"] not in (event(other)["run"]["runId"], bom(receipt)["serialNumber"][9:])


@pytest.mark.parametrize("make", [bill_of_materials, lineage_event])
def test_names_that_are_refused(make: Any, receipt: Receipt) -> None:
    with pytest.raises(TypeError, match=r"^`name` must be a text, got int$"):
        make(receipt, 3)
    with pytest.raises(ValueError, match=r"^`name` must not be empty$"):
        make(receipt, " ")
    with pytest.raises(TypeError):
        make(receipt, "digits", names=[3])
    with pytest.raises(ValueError, match=r"^`namespace` must not be empty$"):
        lineage_event(receipt, "digits", namespace="")
