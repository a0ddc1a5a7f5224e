"""The tour's first part: files and uploads."""

import hashlib
from typing import Any

from tests.tour.touring import Tour, check, refused, same

UNICODE = "Zeilen für Ünïcode 🐢.jsonl"
ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def upload(tour: Tour, content: bytes = ROW, name: str = "rows.jsonl", **more: Any) -> Any:
    asked = {"purpose": "fine-tune", **more}
    return tour.client.files.create(file=(name, content), **asked)


@check
def a_file_is_uploaded(tour: Tour) -> None:
    file = upload(tour, name=UNICODE)
    same((file.object, file.bytes, file.filename), ("file", len(ROW), UNICODE))
    same((file.purpose, file.status, file.expires_at), ("fine-tune", "processed", None))
    assert file.id.startswith("file-")
    tour.story["file"] = file.id


@check
def a_file_is_retrieved_as_it_was_made(tour: Tour) -> None:
    file = tour.client.files.retrieve(tour.story["file"])
    same((file.id, file.filename), (tour.story["file"], UNICODE))


@check
def a_file_is_ready_at_once(tour: Tour) -> None:
    same(tour.client.files.wait_for_processing(tour.story["file"]).status, "processed")


@check
def the_content_of_a_file_is_byte_for_byte_what_was_sent(tour: Tour) -> None:
    same(tour.client.files.content(tour.story["file"]).content, ROW)


@check
def a_path_is_uploaded_under_its_name(tour: Tour) -> None:
    file = tour.client.files.create(file=tour.rows("sft"), purpose="fine-tune")
    same((file.filename, file.bytes), ("sft.jsonl", tour.rows("sft").stat().st_size))
    tour.story["sft"] = file.id


@check
def bare_bytes_are_uploaded_for_other_purposes(tour: Tour) -> None:
    file = tour.client.files.create(file=b"\x00\x01", purpose="user_data")
    same((file.filename, file.purpose), ("upload", "user_data"))
    same(tour.client.files.content(file.id).content, b"\x00\x01")
    tour.story["other_file"] = file.id


@check
def a_file_expires_when_it_was_said(tour: Tour) -> None:
    after = {"anchor": "created_at", "seconds": 3600}
    file = upload(tour, expires_after=after)
    same(file.expires_at, file.created_at + 3600)


@check
def an_expiry_out_of_bounds_is_refused(tour: Tour) -> None:
    after = {"anchor": "created_at", "seconds": 3599}
    refused(tour, lambda: upload(tour, expires_after=after))


@check
def files_are_listed_newest_first_page_by_page(tour: Tour) -> None:
    listed = [file.id for file in tour.client.files.list(limit=1)]
    assert len(listed) == len(set(listed)) >= 4
    whole = tour.client.files.list()
    same([file.id for file in whole.data], listed)
    same(whole.has_more, False)
    tour.story["listed"] = listed


@check
def files_are_listed_oldest_first_on_demand(tour: Tour) -> None:
    same([file.id for file in tour.client.files.list(order="asc")], tour.story["listed"][::-1])


@check
def files_are_listed_by_purpose(tour: Tour) -> None:
    listed = {file.id for file in tour.client.files.list(purpose="user_data")}
    assert tour.story["other_file"] in listed
    assert tour.story["file"] not in listed


@check
def a_page_of_files_names_its_ends(tour: Tour) -> None:
    page = tour.client.files.list(limit=2)
    same(page.has_more, True)
    same([file.id for file in page.data], tour.story["listed"][:2])
    after = tour.client.files.list(limit=2, after=page.data[-1].id)
    same([file.id for file in after.data], tour.story["listed"][2:4])


@check
def a_deleted_file_is_gone(tour: Tour) -> None:
    file_id = upload(tour).id
    gone = tour.client.files.delete(file_id)
    same((gone.id, gone.deleted, gone.object), (file_id, True, "file"))
    for call in (tour.client.files.retrieve, tour.client.files.content, tour.client.files.delete):
        refused(tour, lambda call=call: call(file_id), "NotFoundError", param="id")  # type: ignore[misc]  # a default binds the loop's value
    assert file_id not in {file.id for file in tour.client.files.list()}


@check
def an_unknown_file_is_not_found(tour: Tour) -> None:
    says = "No such File object: file-unknown"
    refused(tour, lambda: tour.client.files.retrieve("file-unknown"), "NotFoundError", says=says)


@check
def broken_json_names_its_line(tour: Tour) -> None:
    refused(tour, lambda: upload(tour, ROW + b"{broken\n"), says="Line 2")


@check
def text_that_is_not_utf_8_is_refused(tour: Tour) -> None:
    refused(tour, lambda: upload(tour, b'{"a": "\xff"}\n'), says="Line 1")


@check
def an_empty_file_is_refused_by_name(tour: Tour) -> None:
    refused(tour, lambda: upload(tour, b""), says="empty")


@check
def blank_lines_alone_are_refused_by_name(tour: Tour) -> None:
    refused(tour, lambda: upload(tour, b"\n\n"), says="blank")


@check
def rows_that_are_no_jsonl_file_are_refused(tour: Tour) -> None:
    refused(tour, lambda: upload(tour, name="rows.csv"), says=".jsonl")


@check
def an_unknown_purpose_is_refused(tour: Tour) -> None:
    refused(tour, lambda: upload(tour, purpose="fine-tune-results"), param="purpose")
    refused(tour, lambda: upload(tour, purpose="fun"), param="purpose")


@check
def a_single_row_uploads(tour: Tour) -> None:
    same(upload(tour, b'{"a": 1}').bytes, 8)


@check
def a_file_is_uploaded_in_chunks(tour: Tour) -> None:
    content = ROW * 40
    made = tour.client.uploads.upload_file_chunked(
        file=content,
        filename="chunks.jsonl",
        bytes=len(content),
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=1000,
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
    )
    same((made.object, made.status, made.bytes), ("upload", "completed", len(content)))
    same(made.file.filename, "chunks.jsonl")
    same(tour.client.files.content(made.file.id).content, content)


def begin(tour: Tour, size: int) -> Any:
    return tour.client.uploads.create(
        bytes=size, filename="parts.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )


@check
def an_upload_begins_empty_and_lasts_an_hour(tour: Tour) -> None:
    made = begin(tour, 2 * len(ROW))
    same((made.status, made.file, made.filename), ("pending", None, "parts.jsonl"))
    same(made.expires_at, made.created_at + 3600)
    assert made.id.startswith("upload_")
    tour.story["upload"] = made.id


@check
def parts_are_put_together_in_the_order_of_the_list(tour: Tour) -> None:
    upload_id = tour.story["upload"]
    late, early = (
        tour.client.uploads.parts.create(upload_id, data=piece)
        for piece in (ROW[9:] + ROW, ROW[:9])
    )
    same((late.object, late.upload_id), ("upload.part", upload_id))
    assert late.id.startswith("part_")
    made = tour.client.uploads.complete(upload_id, part_ids=[early.id, late.id])
    same(tour.client.files.content(made.file.id).content, ROW + ROW)


@check
def an_upload_that_is_complete_takes_no_more(tour: Tour) -> None:
    upload_id = tour.story["upload"]
    refused(tour, lambda: tour.client.uploads.parts.create(upload_id, data=ROW))
    refused(tour, lambda: tour.client.uploads.cancel(upload_id))


@check
def parts_that_do_not_add_up_are_refused(tour: Tour) -> None:
    made = begin(tour, len(ROW) + 1)
    part = tour.client.uploads.parts.create(made.id, data=ROW)
    refused(tour, lambda: tour.client.uploads.complete(made.id, part_ids=[part.id]))


@check
def a_wrong_md5_is_refused(tour: Tour) -> None:
    made = begin(tour, len(ROW))
    part = tour.client.uploads.parts.create(made.id, data=ROW)
    refused(tour, lambda: tour.client.uploads.complete(made.id, part_ids=[part.id], md5="0" * 32))


@check
def a_cancelled_upload_takes_nothing(tour: Tour) -> None:
    made = begin(tour, len(ROW))
    same(tour.client.uploads.cancel(made.id).status, "cancelled")
    refused(tour, lambda: tour.client.uploads.parts.create(made.id, data=ROW))
    refused(tour, lambda: tour.client.uploads.complete(made.id, part_ids=[]))


@check
def an_unknown_upload_is_not_found(tour: Tour) -> None:
    refused(tour, lambda: tour.client.uploads.cancel("upload_none"), "NotFoundError")
