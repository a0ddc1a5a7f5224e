"""One key, one thing: sent again, at once or after a kill, a request makes nothing new."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from tests.api.conftest import Api, refused

from preftune.serving.api.once import REPLAYED

UPLOAD = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 9, "mime_type": "text/jsonl"}
ROW = b'{"a": 1}\n'
Made = Callable[[Api, str], httpx2.Response]


def upload(api: Api, key: str, **said: Any) -> httpx2.Response:
    headers = {"Idempotency-Key": key}
    return api.client().post("/v1/uploads", json={**UPLOAD, **said}, headers=headers)


def file(api: Api, key: str) -> httpx2.Response:
    client = api.with_secret(api.secret, **{"Idempotency-Key": key})
    return api.upload(ROW, client=client)  # the client draws another boundary each time


def job(api: Api, key: str) -> httpx2.Response:
    rows = b"".join(
        b'{"messages":[{"role":"user","content":"%d"},{"role":"assistant","content":"a"}]}\n' % n
        for n in range(10)
    )
    files = api.client().get("/v1/files").json()["data"]
    file_id = files[0]["id"] if files else api.file_id(rows)
    sent = {"model": "tiny", "training_file": file_id}
    headers = {"Idempotency-Key": key}
    return api.client().post("/v1/fine_tuning/jobs", json=sent, headers=headers)


@pytest.mark.parametrize("make", [upload, file, job])
def test_the_same_request_under_the_same_key_gets_the_first_answer(api: Api, make: Made) -> None:
    first, again, other = make(api, "k1"), make(api, "k1"), make(api, "k2")
    assert first.status_code == again.status_code == other.status_code == 200, first.text
    assert again.json() == first.json()
    assert again.headers[REPLAYED] == "true"
    assert REPLAYED not in first.headers
    assert other.json()["id"] != first.json()["id"]


def test_another_body_under_the_same_key_is_400(api: Api) -> None:
    assert upload(api, "k").status_code == 200
    error = refused(upload(api, "k", bytes=10), 400)
    assert error["code"] == "idempotency_key_reused"
    assert refused(file(api, "k"), 400)["code"] == "idempotency_key_reused"


def test_the_body_counts_however_its_media_type_is_spelt(api: Api) -> None:
    client, headers = api.client(), {"Idempotency-Key": "k", "Content-Type": "Application/JSON"}
    sent = [json.dumps({**UPLOAD, "bytes": size}).encode() for size in (9, 10)]
    assert client.post("/v1/uploads", content=sent[0], headers=headers).status_code == 200
    error = refused(client.post("/v1/uploads", content=sent[1], headers=headers), 400)
    assert error["code"] == "idempotency_key_reused"


def test_keys_of_two_projects_say_nothing_about_each_other(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = [
        c.post("/v1/uploads", json=UPLOAD, headers=headers) for c in (api.client(), api.stranger())
    ]
    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert REPLAYED not in answers[1].headers


def test_requests_that_come_together_make_one_thing(api: Api) -> None:
    clients = [api.client() for _ in range(8)]
    headers = {"Idempotency-Key": "together"}

    def send(number: int) -> str:
        answer = clients[number].post("/v1/uploads", json=UPLOAD, headers=headers)
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(send, range(8)))) == 1


def test_a_refused_request_leaves_its_key_free(api: Api) -> None:
    refused(upload(api, "k", purpose="nonsense"), 400)
    assert upload(api, "k").status_code == 200


def test_an_upload_completed_under_a_key_is_answered_again(api: Api) -> None:
    client, headers = api.client(), {"Idempotency-Key": "c"}
    made = client.post("/v1/uploads", json=UPLOAD).json()["id"]
    place = f"/v1/uploads/{made}"
    data = {"data": ("upload", ROW, "application/octet-stream")}
    parts = [
        client.post(f"{place}/parts", files=data, headers={"Idempotency-Key": "p"}).json()["id"]
        for _ in range(2)
    ]
    assert parts[0] == parts[1]
    sent = {"part_ids": parts[:1]}
    first = client.post(f"{place}/complete", json=sent, headers=headers)
    again = client.post(f"{place}/complete", json=sent, headers=headers)
    assert first.status_code == 200, first.text
    assert again.json() == first.json()
    refused(client.post(f"{place}/complete", json=sent), 400)  # without the key: it has ended
    late = client.post(f"{place}/parts", files=data, headers={"Idempotency-Key": "p"})
    assert late.json()["id"] == parts[0]
    assert late.headers[REPLAYED] == "true"
    refused(client.post(f"{place}/parts", files=data, headers={"Idempotency-Key": "p2"}), 400)


def test_a_part_of_no_upload_is_404_under_a_key_too(api: Api) -> None:
    data = {"data": ("upload", ROW, "application/octet-stream")}
    headers = {"Idempotency-Key": "p"}
    answer = api.client().post("/v1/uploads/upload_x/parts", files=data, headers=headers)
    assert refused(answer, 404)["param"] == "upload_id"


@pytest.mark.parametrize("key", ["", "a b", 256 * "k", "\x7f"])
def test_a_key_that_is_none_is_400(api: Api, key: str) -> None:
    refused(upload(api, key), 400)
