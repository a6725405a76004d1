"""What Prometheus is told."""

import sys
from pathlib import Path

import pytest
from serving.archive_workers import CODES, X, network
from serving.history.archives import until
from torch import nn

from fastforget.serving import LiveModel

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from serving.test_web import HERE

from fastforget.serving.web import application

TOKENS = {"ask": "a secret to file with", "see": "a secret to see with"}


def told(web: TestClient) -> dict[str, float]:
    answer = web.get("/metrics", headers={"Authorization": f"Bearer {TOKENS['see']}"})
    assert (answer.status_code, answer.headers["content-type"][:10]) == (200, "text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {"".join((one.name, *one.labels.values())): one.value for one in samples}


def test_what_is_told(tmp_path: Path) -> None:
    live = LiveModel(nn.DataParallel(network()).eval(), CODES, archive=tmp_path / "archive")
    with TestClient(application(live, token=TOKENS, every=0.01, metrics=True), base_url=HERE) as web:
        assert web.get("/metrics").status_code == 401
        before = told(web)
        assert (before["fastforget_version"], before["fastforget_ready"], before["fastforget_follows"]) == (0, 1, 1)
        assert before["fastforget_edits_total"] == before["fastforget_prediction_seconds_count"] == 0
        for _ in range(3):
            web.post("/predict", json={"inputs": X.tolist()})
        web.post("/predict", json={"inputs": "none"})
        for name, cls in (("one", 3), ("two", 3)):
            web.post(
                "/requests",
                json={"classes": [cls], "request": name},
                headers={"Authorization": f"Bearer {TOKENS['ask']}"},
            )
            until(lambda: all(request.state != "waiting" for request in live.requests()))
        until(lambda: live.version.number == 1)
        found = told(web)
        assert found["fastforget_prediction_seconds_count"] == 3
        assert 0 < found["fastforget_prediction_seconds_sum"] < 60
        assert found["fastforget_predictions_failed_total"] == 1
        assert (found["fastforget_version"], found["fastforget_edits_total"]) == (1, 1)
        assert (found["fastforget_forgotten_classes"], found["fastforget_held_seconds_total"] > 0) == (1, True)
        states = [found[f"fastforget_requests{state}"] for state in ("waiting", "done", "refused")]
        assert states == [0, 1, 1]
        (tmp_path / "archive" / "requests.jsonl.head").write_text("{}")
        until(lambda: told(web)["fastforget_ready"] == 0)
        assert "fastforget_requestsdone" not in told(web)


def test_there_are_none_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveModel(network(), CODES)
    with TestClient(application(live), base_url=HERE) as web:
        assert web.get("/metrics").status_code == 404
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "fastforget.serving.metrics", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastforget\[metrics\]'"):
        application(live, metrics=True)
