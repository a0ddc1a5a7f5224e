"""Files: what comes back is what was sent, and what is no training file says in which line."""

import errno
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from tests.api.conftest import Api, refused

from preftune.serving.api.errors import ApiError
from preftune.serving.api.file_bodies import full_disk_named
from preftune.serving.base_models import BaseModels
from preftune.store.blobs import BLOBS, TEMPORARY
from preftune.store.database import Database
from preftune.store.job_schema import api_files
from preftune.store.sweeping import sweep

ROWS = b'{"messages": [{"role": "user", "content": "a"}]}\n{"b": 2}\n'


def test_a_file_shows_as_the_contract_says(api: Api) -> None:
    answer = api.upload(ROWS)
    assert answer.status_code == 200
    file = answer.json()
    assert file.pop("id").startswith("file-")
    assert abs(file.pop("created_at") - time.time()) < 5
    assert file == {
        "object": "file",
        "bytes": len(ROWS),
        "filename": "rows.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }
    client = api.client()
    assert client.get(f"/v1/files/{answer.json()['id']}").json() == answer.json()
    assert client.get("/v1/files").json()["data"] == [answer.json()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, bases: BaseModels) -> Iterator[Api]:
    """One server for many examples."""
    with Database(tmp_path_factory.mktemp("shared") / "store.db") as database:
        made = Api(database=database, bases=bases)
        with made.clients:
            yield made


@given(content=st.binary(max_size=5000), name=st.text(max_size=40))
@settings(max_examples=25, deadline=None)
def test_bytes_and_names_come_back_exactly(shared: Api, content: bytes, name: str) -> None:
    sent = "".join(c for c in name if c.isprintable() and c not in '"\\%') + ".bin"
    file_id = shared.file_id(content, name=sent, purpose="user_data")
    client = shared.client()
    answer = client.get(f"/v1/files/{file_id}/content")
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(f"/v1/files/{file_id}").json()["filename"] == sent


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "The file is empty"),
        (b"\n \n\n", "only blank lines"),
        (b'{"a": 1}\n{"a": \n', "Line 2: broken JSON"),
        (b'{"a": 1}\n\n{"a": 2}\n', "Line 2: the line is blank"),
        (b'{"a": 1}\n[1]\n', "Line 2: the line is not a JSON object"),
        (b'{"a": 1}\n{"a": NaN}\n', "Line 2: the number NaN is not finite"),
        (b'{"a": 1, "a": 2}\n', "Line 1: field 'a' is given twice"),
        (b'{"a": "\xff"}\n', "Line 1: byte 7 is not UTF-8"),
        (b'{"a": "\\ud800"}\n', "Line 1: half a surrogate pair"),
        (b'{"a": ' + 40 * b"[" + 40 * b"]" + b"}\n", "Line 1: lists and objects are nested"),
        (b'{"a": "' + 2**20 * b"x" + b'"}\n', "Line 1: the line is longer than 1 MiB"),
        (b"\x1f\x8b\x08\x00" + 50 * b"\x01", "Line 1"),
    ],
)
def test_t11_a_training_file_that_is_no_json_lines_names_the_line(
    api: Api, content: bytes, said: str
) -> None:
    error = refused(api.upload(content), 400)
    assert said in error["message"]
    assert error["param"] == "file"
    assert nothing_kept(api)


def nothing_kept(api: Api) -> bool:
    left = [p for place in (TEMPORARY, BLOBS) for p in (api.database.files / place).rglob("*")]
    return not [path for path in left if path.is_file()] and not listed(api)


def listed(api: Api, **params: str | int) -> list[str]:
    answer = api.client().get("/v1/files", params=params)
    assert answer.status_code == 200, answer.text
    return [file["id"] for file in answer.json()["data"]]


def test_a_single_row_and_a_last_line_without_its_end_are_fine(api: Api) -> None:
    api.file_id(b'\xef\xbb\xbf{"a": 1}')


@pytest.mark.parametrize("purpose", ["fine-tune-results", "nonsense", "fine_tune", ""])
def test_a_purpose_that_cannot_be_sent_is_400(api: Api, purpose: str) -> None:
    assert refused(api.upload(ROWS, purpose=purpose), 400)["param"] == "purpose"


@pytest.mark.parametrize("name", ["rows.csv", "rows", "rows.jsonl.gz", "x" * 501 + ".jsonl"])
def test_a_training_file_is_named_jsonl(api: Api, name: str) -> None:
    assert refused(api.upload(ROWS, name=name), 400)["param"] == "file"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after.seconds",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"},
            "expires_after.seconds",
        ),
        (
            {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "expires_after.anchor",
        ),
        ({"expires_after": "abc", "expires_after[seconds]": "3600"}, "expires_after"),
        ({"expires_after[seconds]": "3600", "expires_after": "abc"}, "expires_after"),
        ({"expires": "1"}, "expires"),
        ({"purpos": "1"}, "purpos"),
    ],
)
def test_what_a_form_says_wrong_is_named(api: Api, fields: dict[str, str], param: str) -> None:
    assert refused(api.upload(ROWS, said=fields), 400)["param"] == param


def test_a_file_expires_when_it_said_so(api: Api) -> None:
    sent = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    answer = api.upload(ROWS, said=sent).json()
    assert answer["expires_at"] == answer["created_at"] + 3600
    over = update(api_files).values(expires_s=time.time() - 1)
    api.database.write(lambda db: db.execute(over) and None)
    assert listed(api) == []
    refused(api.client().get(f"/v1/files/{answer['id']}"), 404)
    swept = sweep(api.database, now_s=time.time() + 700)
    assert (swept.files, swept.contents) == (1, 1)
    assert nothing_kept(api)


def test_a_deleted_file_is_gone_everywhere_and_its_content_soon(api: Api) -> None:
    first, second = api.file_id(ROWS), api.file_id(ROWS, name="again.jsonl")
    client = api.client()
    deleted = client.delete(f"/v1/files/{first}")
    assert deleted.json() == {"id": first, "object": "file", "deleted": True}
    for answer in (
        client.get(f"/v1/files/{first}"),
        client.get(f"/v1/files/{first}/content"),
        client.delete(f"/v1/files/{first}"),
    ):
        error = refused(answer, 404)
        assert error["message"] == f"No such File object: {first}"
        assert error["param"] == "id"
    assert listed(api) == [second]
    sweep(api.database, now_s=time.time() + 700)
    assert client.get(f"/v1/files/{second}/content").content == ROWS  # the same content
    client.delete(f"/v1/files/{second}")
    sweep(api.database, now_s=time.time() + 700)
    assert nothing_kept(api)


def test_lists_page_in_both_orders_whatever_is_added_or_deleted_meanwhile(api: Api) -> None:
    ids = [api.file_id(ROWS, name=f"{n}.jsonl") for n in range(7)]
    assert listed(api, order="asc") == ids
    assert listed(api) == ids[::-1]
    client = api.client()
    page = client.get("/v1/files", params={"limit": 3}).json()
    assert (page["object"], page["has_more"]) == ("list", True)
    assert (page["first_id"], page["last_id"]) == (ids[6], ids[4])
    api.file_id(ROWS, name="new.jsonl")
    client.delete(f"/v1/files/{ids[4]}")  # the very row that the next page follows
    page = client.get("/v1/files", params={"limit": 3, "after": page["last_id"]}).json()
    assert [file["id"] for file in page["data"]] == ids[3:0:-1]
    page = client.get("/v1/files", params={"limit": 3, "after": ids[1]}).json()
    assert [file["id"] for file in page["data"]] == ids[:1]
    assert page["has_more"] is False
    page = client.get("/v1/files", params={"after": ids[0]}).json()
    assert page == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }
    error = refused(client.get("/v1/files", params={"after": "file-unknown"}), 400)
    assert error["param"] == "after"


@pytest.mark.parametrize(
    ("asked", "status"),
    [("bytes=abc", 400), ("lines=0-1", 400), ("bytes=3-1", 400), ("bytes=99999-", 416)],
)
def test_a_range_that_cannot_be_given_is_refused(shared: Api, asked: str, status: int) -> None:
    place = f"/v1/files/{shared.file_id(ROWS)}/content"
    error = refused(shared.client().get(place, headers={"Range": asked}), status)
    assert error["param"] == "Range"


def test_a_range_of_a_file_is_given(shared: Api) -> None:
    place = f"/v1/files/{shared.file_id(ROWS)}/content"
    answer = shared.client().get(place, headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, ROWS[2:5])


def test_lists_can_be_of_one_purpose(api: Api) -> None:
    api.file_id(ROWS)
    other = api.file_id(b"anything", name="a.bin", purpose="evals")
    assert listed(api, purpose="evals") == [other]
    assert listed(api, purpose="batch_output") == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"purpose": "evals"}'),
        ("multipart/form-data", b"--b\r\n\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"nothing of the kind"),
        ("multipart/form-data; boundary=b", b""),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}',
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nevals\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nevals\r\n--b--\r\n',
        ),
        ("multipart/form-data; boundary=b", 30 * b"--b\r\nA: b\r\n\r\nx\r\n" + b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\nA: " + 9000 * b"b" + b"\r\n\r\nx\r\n--b--"),
    ],
)
def test_a_broken_form_is_400(api: Api, content_type: str, body: bytes) -> None:
    client = api.client()
    refused(client.post("/v1/files", content=body, headers={"Content-Type": content_type}), 400)
    assert nothing_kept(api)


def test_a_field_given_twice_is_400(api: Api) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = api.client().post("/v1/files", content=2 * part + b"--b--\r\n", headers=kind)
    assert refused(answer, 400)["param"] == "file"


def test_t14_a_file_over_the_limit_is_413_whether_or_not_it_says_so(small_api: Api) -> None:
    big = 3 * 2**20 * b"x"
    refused(small_api.upload(big, name="a.bin", purpose="evals"), 413)
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nevals\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    pieces = iter((head, *(65536 * b"x" for _ in range(40)), b"\r\n--b--\r\n"))
    refused(small_api.client().post("/v1/files", content=pieces, headers=kind), 413)
    assert nothing_kept(small_api)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_507_and_says_so(number: int) -> None:
    with pytest.raises(ApiError) as caught, full_disk_named():
        raise OSError(number, os.strerror(number))
    assert caught.value.status == 507
    assert "disk" in caught.value.message


def test_another_trouble_of_files_is_no_full_disk() -> None:
    with pytest.raises(FileNotFoundError), full_disk_named():
        Path("nowhere at all").read_bytes()


def test_t15_file_names_are_never_paths(api: Api) -> None:
    for name in ("../../etc/passwd.jsonl", "/etc/x.jsonl", "C:\\x.jsonl", "a/../b.jsonl"):
        file_id = api.file_id(ROWS, name=name)
        assert api.client().get(f"/v1/files/{file_id}/content").content == ROWS
    kept = [p for p in (api.database.files / BLOBS).rglob("*") if p.is_file()]
    assert len(kept) == 1
    assert len(kept[0].name) == 64


def test_equal_contents_are_kept_once_in_each_project(api: Api) -> None:
    for client in (api.client(), api.client(), api.stranger()):
        api.file_id(ROWS, client=client)
    kept = [p for p in (api.database.files / BLOBS).rglob("*") if p.is_file()]
    assert sorted(path.parts[-3] for path in kept) == sorted((api.project_id, api.other_id))


def test_a_job_keeps_the_content_of_a_deleted_training_file(api: Api) -> None:
    rows = b"".join(
        b'{"messages":[{"role":"user","content":"%d"},{"role":"assistant","content":"a"}]}\n' % n
        for n in range(10)
    )
    file_id, client = api.file_id(rows), api.client()
    made = client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file_id})
    assert made.status_code == 200, made.text
    client.delete(f"/v1/files/{file_id}")
    assert sweep(api.database, now_s=time.time() + 700).contents == 0
    client.post(f"/v1/fine_tuning/jobs/{made.json()['id']}/cancel")
    assert sweep(api.database, now_s=time.time() + 700).contents == 1


def test_times_are_whole_seconds_and_names_keep_their_letters(api: Api) -> None:
    name = "Fragen über Brötchen 日本語.jsonl"
    file = api.upload(ROWS, name=name).json()
    assert isinstance(file["created_at"], int)
    assert file["filename"] == name
    content = partial(api.client().get, f"/v1/files/{file['id']}/content")
    assert "filename*=utf-8''" in content().headers["content-disposition"]
