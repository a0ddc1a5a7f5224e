"""Uploads: parts in any order, sent again, put together as listed; and how they end."""

import hashlib
import time
from typing import Any

import httpx2
import pytest
from sqlalchemy import update
from tests.api.conftest import Api, refused

from preftune.store.job_schema import uploads
from preftune.store.sweeping import sweep

ROWS = b'{"a": 1}\n{"b": 2}\n{"c": 3}\n'


def begin(api: Api, size: int = len(ROWS), **said: Any) -> httpx2.Response:
    sent = {"filename": "rows.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}
    return api.client().post("/v1/uploads", json={**sent, "bytes": size, **said})


def send(api: Api, upload_id: str, data: bytes) -> httpx2.Response:
    files = {"data": ("upload", data, "application/octet-stream")}
    return api.client().post(f"/v1/uploads/{upload_id}/parts", files=files)


def part(api: Api, upload_id: str, data: bytes) -> str:
    answer = send(api, upload_id, data)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def complete(api: Api, upload_id: str, part_ids: list[str], **said: Any) -> httpx2.Response:
    sent = {"part_ids": part_ids, **said}
    return api.client().post(f"/v1/uploads/{upload_id}/complete", json=sent)


def cancel(api: Api, upload_id: str) -> httpx2.Response:
    return api.client().post(f"/v1/uploads/{upload_id}/cancel")


def test_parts_sent_in_any_order_make_the_file_as_listed(api: Api) -> None:
    made = begin(api).json()
    assert made["object"] == "upload"
    assert made["status"] == "pending"
    assert made["file"] is None
    assert made["expires_at"] == made["created_at"] + 3600
    last = part(api, made["id"], ROWS[20:])
    first = part(api, made["id"], ROWS[:4])
    lost = part(api, made["id"], b"a part that went wrong")
    middle = part(api, made["id"], ROWS[4:20])
    ended = complete(api, made["id"], [first, middle, last]).json()
    assert ended["status"] == "completed"
    file = ended["file"]
    assert file["bytes"] == len(ROWS)
    assert file["filename"] == "rows.jsonl"
    client = api.client()
    assert client.get(f"/v1/files/{file['id']}/content").content == ROWS
    assert client.get(f"/v1/uploads/{made['id']}").json() == ended
    assert sweep(api.database, now_s=time.time()).contents == 4  # the parts, the lost one too
    assert client.get(f"/v1/files/{file['id']}/content").content == ROWS
    assert lost


def test_a_part_shows_as_the_contract_says(api: Api) -> None:
    made = begin(api).json()
    answer = send(api, made["id"], b"abc").json()
    assert answer.pop("id").startswith("part_")
    assert abs(answer.pop("created_at") - time.time()) < 5
    assert answer == {"object": "upload.part", "upload_id": made["id"], "bytes": 3}


def test_parts_that_have_arrived_are_listed_to_go_on_after_a_break(api: Api) -> None:
    made = begin(api).json()
    ids = [part(api, made["id"], ROWS[at : at + 5]) for at in (0, 5, 10)]
    listed = api.client().get(f"/v1/uploads/{made['id']}/parts").json()["data"]
    assert [one["id"] for one in listed] == ids
    assert [one["bytes"] for one in listed] == [5, 5, 5]


@pytest.mark.parametrize("md5", [hashlib.md5(ROWS, usedforsecurity=False).hexdigest()])
def test_the_md5_is_checked(api: Api, md5: str) -> None:
    made = begin(api).json()
    ids = [part(api, made["id"], ROWS[:9]), part(api, made["id"], ROWS[9:])]
    assert refused(complete(api, made["id"], ids[::-1], md5=md5), 400)["param"] == "md5"
    assert refused(complete(api, made["id"], ids, md5="xyz"), 400)["param"] == "md5"
    assert complete(api, made["id"], ids, md5=md5.upper()).status_code == 200


def test_parts_must_be_this_uploads_once_each_and_of_the_size_announced(api: Api) -> None:
    made, other = begin(api).json(), begin(api).json()
    ids = [part(api, made["id"], ROWS[:9]), part(api, made["id"], ROWS[9:])]
    foreign = part(api, other["id"], ROWS[9:])
    for wrong in ([ids[0]], [ids[0], foreign], [ids[0], ids[0]], [*ids, ids[1]], ["part_x"], []):
        refused(complete(api, made["id"], wrong), 400)
    assert complete(api, made["id"], ids).status_code == 200


def test_a_training_file_in_parts_names_its_bad_line(api: Api) -> None:
    rows = b'{"a": 1}\n{"a": \n'
    made = begin(api, len(rows)).json()
    ids = [part(api, made["id"], rows[:12]), part(api, made["id"], rows[12:])]
    assert "Line 2" in refused(complete(api, made["id"], ids), 400)["message"]
    assert api.client().get("/v1/files").json()["data"] == []


@pytest.mark.parametrize("how", ["completed", "cancelled", "expired"])
def test_an_upload_that_has_ended_takes_nothing_more(api: Api, how: str) -> None:
    made = begin(api).json()
    ids = [part(api, made["id"], ROWS)]
    if how == "completed":
        assert complete(api, made["id"], ids).status_code == 200
    elif how == "cancelled":
        assert cancel(api, made["id"]).json()["status"] == "cancelled"
    else:
        late = update(uploads).values(expires_s=time.time() - 1)
        api.database.write(lambda db: db.execute(late) and None)
    for answer in (
        send(api, made["id"], b"x"),
        complete(api, made["id"], ids),
        cancel(api, made["id"]),
    ):
        assert how in refused(answer, 400)["message"]
    assert api.client().get(f"/v1/uploads/{made['id']}").json()["status"] == how


def test_t22_parts_of_uploads_that_never_end_are_thrown_away(api: Api) -> None:
    made = begin(api).json()
    part(api, made["id"], ROWS)
    swept = sweep(api.database, now_s=time.time() + 3599)
    assert (swept.uploads, swept.contents) == (0, 0)
    swept = sweep(api.database, now_s=time.time() + 3601)
    assert (swept.uploads, swept.contents) == (1, 1)
    refused(complete(api, made["id"], []), 400)


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 9 * 2**30}, "bytes"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"filename": "rows.csv"}, "filename"),
        ({"mime_type": ""}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"sise": 1}, "sise"),
    ],
)
def test_what_is_announced_wrongly_is_named(api: Api, said: dict[str, Any], param: str) -> None:
    assert refused(begin(api, **said), 400)["param"] == param


def test_the_file_of_an_upload_expires_as_announced(api: Api) -> None:
    made = begin(api, expires_after={"anchor": "created_at", "seconds": 7200}).json()
    ended = complete(api, made["id"], [part(api, made["id"], ROWS)]).json()
    assert ended["file"]["expires_at"] == ended["file"]["created_at"] + 7200


def test_unknown_uploads_are_404(api: Api) -> None:
    for answer in (
        send(api, "upload_x", b"x"),
        complete(api, "upload_x", ["part_x"]),
        cancel(api, "upload_x"),
        api.client().get("/v1/uploads/upload_x"),
        api.client().get("/v1/uploads/upload_x/parts"),
    ):
        assert refused(answer, 404)["param"] == "upload_id"


def test_an_empty_or_too_large_part_is_refused(small_api: Api) -> None:
    made = begin(small_api).json()
    refused(send(small_api, made["id"], b""), 400)
    refused(send(small_api, made["id"], (2**20 + 1) * b"x"), 413)
    assert send(small_api, made["id"], 2**20 * b"x").status_code == 200
    client = small_api.client()
    assert len(client.get(f"/v1/uploads/{made['id']}/parts").json()["data"]) == 1
