"""R6: a disk that fills up in the middle of a file, a part, or putting parts together: 507."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.conftest import Api, refused
from tests.api.test_upload_routes import complete, part, send

from preftune.serving.base_models import BaseModels
from preftune.store.database import Database
from preftune.store.sweeping import sweep

MIB = 2**20
ROW = b'{"a": "' + 1000 * b"x" + b'"}\n'
ROWS = ROW * (2 * MIB // len(ROW))


@pytest.fixture
def cramped(tmp_path: Path, bases: BaseModels) -> Iterator[Api]:
    """A server whose files lie on a disk of 5 MiB; mounting one needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)]
    ran = subprocess.run(mount, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.fail(f"no small disk, so nothing is tested: {ran.stderr.strip()}. Run as root.")
    try:
        with Database(tmp_path / "store.db", files=folder / "files") as database:
            made = Api(database=database, bases=bases)
            with made.clients:
                yield made
    finally:
        subprocess.run(["umount", folder], check=True)


def free(api: Api) -> int:
    return shutil.disk_usage(api.database.files).free


def test_r06_a_full_disk_is_507_keeps_nothing_half_and_is_over_when_there_is_room(
    cramped: Api,
) -> None:
    kept = cramped.file_id(ROWS)
    before = free(cramped)
    assert "disk" in refused(cramped.upload(2 * ROWS), 507)["message"]
    assert free(cramped) == before
    client = cramped.client()
    assert [file["id"] for file in client.get("/v1/files").json()["data"]] == [kept]
    assert client.get(f"/v1/files/{kept}/content").content == ROWS
    client.delete(f"/v1/files/{kept}")
    sweep(cramped.database, now_s=time.time() + 700)
    cramped.file_id(ROWS + ROWS[: len(ROW)])


def test_r06_parts_that_have_arrived_outlive_a_full_disk(cramped: Api) -> None:
    said = {"filename": "a.jsonl", "purpose": "fine-tune", "mime_type": "x", "bytes": len(ROWS)}
    upload = cramped.client().post("/v1/uploads", json=said).json()["id"]
    half = len(ROW) * (len(ROWS) // len(ROW) // 2)
    parts = [part(cramped, upload, ROWS[:half]), part(cramped, upload, ROWS[half:])]
    ballast = cramped.database.files / "ballast"
    ballast.write_bytes(bytes(free(cramped) - 100_000))
    refused(send(cramped, upload, ROWS[:half]), 507)
    refused(complete(cramped, upload, parts), 507)
    ballast.unlink()
    assert complete(cramped, upload, parts).json()["status"] == "completed"
