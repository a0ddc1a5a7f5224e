"""Health, figures and the API's own description."""

import re

import pytest
from tests.api.conftest import Api, refused
from tests.serving.test_security import LEAKS

from preftune.serving.meters import BUCKETS_S, Meters, metric
from preftune.serving.security import CONTENT_POLICY


def figures(text: str) -> dict[str, float]:
    """Read the format of Prometheus: name with labels → value."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_healthz_needs_no_key(api: Api) -> None:
    answer = api.with_secret(None).get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_readyz_names_what_is_missing(api: Api) -> None:
    answer = api.with_secret(None).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["problems"] == ["nobody looks after the jobs"]
    api.supervisor.start("http://127.0.0.1:9")
    try:
        answer = api.with_secret(None).get("/readyz")
        assert answer.status_code == 200, answer.text
    finally:
        api.supervisor.stop()
        api.supervisor.join()


def test_figures_count_requests_by_route_and_status_and_not_by_what_strangers_send(
    api: Api,
) -> None:
    client = api.client()
    for number in range(3):
        client.get(f"/v1/files/file-{number}")
    client.request("HACK", "/v1/files")
    for number in range(20):
        client.get(f"/nowhere/{number}")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = figures(answer.text)
    lost = 'preftune_requests_total{route="/v1/files/{file_id}",method="GET",status="404"}'
    assert found[lost] == 3
    assert found['preftune_request_seconds_count{route="/v1/files/{file_id}"}'] == 3
    assert found['preftune_requests_total{route="other",method="GET",status="404"}'] == 20
    assert "HACK" not in answer.text
    assert found["preftune_jobs_waiting"] == 0


def test_figures_count_jobs(api: Api) -> None:
    rows = b"".join(
        b'{"messages":[{"role":"user","content":"%d"},{"role":"assistant","content":"a"}]}\n' % n
        for n in range(10)
    )
    sent = {"model": "tiny", "training_file": api.file_id(rows)}
    client = api.client()
    ids = [client.post("/v1/fine_tuning/jobs", json=sent).json()["id"] for _ in range(3)]
    client.post(f"/v1/fine_tuning/jobs/{ids[0]}/cancel")
    found = figures(client.get("/metrics").text)
    assert found["preftune_jobs_waiting"] == 2
    assert found['preftune_jobs{state="cancelled"}'] == 1


def test_figures_are_for_this_machine_or_a_key_for_everything(api: Api) -> None:
    assert api.with_secret(None).get("/metrics").status_code == 401
    assert api.client(scopes=("files:write",)).get("/metrics").status_code == 403


def test_a_histogram_counts_each_request_up_to_its_edge() -> None:
    meters = Meters()
    for seconds in (0.001, 0.005, 0.3, 60.0):
        meters.saw("/x", "GET", 200, seconds)
    found = figures("\n".join(meters.lines()))
    at = 'preftune_request_seconds_bucket{{route="/x",le="{}"}}'.format
    assert [found[at(edge)] for edge in ("0.005", "0.25", "0.5", "10.0", "+Inf")] == [2, 2, 3, 3, 4]
    assert found['preftune_request_seconds_sum{route="/x"}'] == pytest.approx(60.306)
    assert len(BUCKETS_S) + 3 == sum(name.startswith("preftune_request_s") for name in found)


def test_labels_are_escaped() -> None:
    (line,) = list(metric("m", "gauge", "h", {(("a", 'x"\\\n'),): 1.0}))[2:]
    assert line == 'm{a="x\\"\\\\\\n"} 1'


def test_the_document_has_every_operation_with_its_refusals_and_nothing_else(api: Api) -> None:
    answer = api.with_secret(None).get("/openapi.json")
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    assert all(path.startswith("/v1/") for path in document["paths"])
    operations = [(p, m, o) for p, of in document["paths"].items() for m, o in of.items()]
    assert len(operations) >= 25
    for path, method, operation in operations:
        assert {"4XX", "5XX"} <= set(operation["responses"]), (path, method)
        assert "422" not in operation["responses"]
        assert operation["security"], (path, method)
        assert operation.get("description"), (path, method)


def test_the_page_shows_every_operation_under_our_own_policy(api: Api) -> None:
    client = api.with_secret(None)
    answer = client.get("/api", headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == CONTENT_POLICY
    assert not re.search(
        r"<script(?! type=\"module\" src=\"/static/)|\sstyle=|\son\w+=", answer.text
    )
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in answer.text
    assert not LEAKS.search(answer.text)


def test_figures_need_a_key_in_the_words_of_their_page(api: Api) -> None:
    answer = api.client(scopes=("chat:read",)).get("/metrics")
    assert "all" in answer.json()["error"]["message"]
    refused(api.client().get("/v1/metrics"), 404)
