"""R2: at a loss of power every write that was not synced is gone, or some of them at random.

A process labels under `strace`, which records what it writes and when it syncs. From the record the
disk is built as it would be after a cut: all that was synced, and of the rest nothing, or a random
part, the last block torn. What was acknowledged before the cut must be there.
"""

import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select

from preftune.store import events
from preftune.store.database import Database
from preftune.store.projects import projects_of
from preftune.store.schema import events as log

LABELS, CUTS = 60, 20
WRITER = """
import sys
from preftune.store import events
from preftune.store.database import Database
from preftune.store.projects import ProjectSettings, create_project

with Database(sys.argv[1]) as store:
    made = store.write(
        lambda db: create_project(db, name="p", settings=ProjectSettings(), by="me")
    )
    for n in range(int(sys.argv[2])):
        data = {"n": n, "text": "x" * (37 * n % 6000)}
        store.write(
            lambda db: events.append(db, made, type="voted", user_id="me", data=data, key=str(n))
        )
        sys.stdout.write(f"ack {n}\\n")
        sys.stdout.flush()
"""
CALL = re.compile(r"^\d+\s+(\w+)\((\d+)<(.*?)>(.*)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One thing the process did: wrote, cut, synced, or acknowledged."""

    what: str
    path: str = ""
    data: bytes = b""
    place: int = 0


@dataclass(kw_only=True, slots=True)
class Disk:
    """What lies on the disk for certain, and what was written since the last sync."""

    synced: dict[str, bytearray] = field(default_factory=dict)
    waiting: list[Call] = field(default_factory=list)
    acknowledged: int = 0

    def apply(self, call: Call) -> None:
        if call.what == "ack":
            self.acknowledged += 1
        elif call.what == "sync":
            for one in self.waiting:
                if one.path == call.path:
                    put(self.synced, one)
            self.waiting = [one for one in self.waiting if one.path != call.path]
        else:
            self.waiting.append(call)

    def after_cut(self, chance: random.Random | None) -> dict[str, bytearray]:
        """Return the files; with `chance` a random part of what was waiting arrived, torn."""
        files = {path: bytearray(content) for path, content in self.synced.items()}
        if chance is not None:
            for one in chance.sample(self.waiting, chance.randint(0, len(self.waiting))):
                torn = one.data[: chance.randint(0, len(one.data))]
                put(files, Call(what=one.what, path=one.path, data=torn, place=one.place))
        return files


def put(files: dict[str, bytearray], call: Call) -> None:
    content = files.setdefault(call.path, bytearray())
    if call.what == "cut":
        del content[call.place :]
        return
    content.extend(bytes(max(0, call.place - len(content))))
    content[call.place : call.place + len(call.data)] = call.data


def calls_of(record: Path, folder: Path) -> Iterator[Call]:
    """Yield what was done to the database; a sync counts when it returns, all else as it begins."""
    syncing: dict[str, str] = {}
    for line in record.read_text().splitlines():
        thread = line.split()[0]
        if "resumed>" in line and thread in syncing:
            yield Call(what="sync", path=syncing.pop(thread))
        found = CALL.match(line)
        if not found:
            continue
        name, number, path, rest = found[1], found[2], from_hex(found[3]), found[4]
        if name == "write":
            if number == "1" and from_hex(rest.split('"')[1]).startswith("ack"):
                yield Call(what="ack")
        elif not path.startswith(str(folder / "s.db")):
            continue
        elif name == "pwrite64":
            _, text, numbers = rest.split('"')
            place = int(re.split(r"[,) <]+", numbers)[2])
            yield Call(what="write", path=path, data=from_hex(text).encode("latin-1"), place=place)
        elif name == "ftruncate":
            yield Call(what="cut", path=path, place=int(re.split(r"[,) <]+", rest)[1]))
        elif "unfinished" in line:
            syncing[thread] = path
        else:
            yield Call(what="sync", path=path)


def from_hex(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode("latin-1")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    assert shutil.which("strace"), "strace is missing: install Debian's strace"
    folder = tmp_path_factory.mktemp("power")
    record = folder / "record"
    trace = "trace=pwrite64,ftruncate,fdatasync,fsync,write"
    command = ["strace", "-f", "-y", "-xx", "-s", "200000", "-e", trace, "-o", str(record)]
    writer = [sys.executable, "-c", WRITER, str(folder / "s.db"), str(LABELS)]
    subprocess.run([*command, *writer], check=True, stdout=subprocess.DEVNULL)
    return folder, list(calls_of(record, folder))


def rebuilt(files: dict[str, bytearray], folder: Path) -> Path:
    for path, content in files.items():
        name = Path(path).name
        if name in {"s.db", "s.db-wal"}:
            (folder / name).write_bytes(content)
    return folder / "s.db"


def test_the_record_holds_all_that_was_done(recorded: tuple[Path, list[Call]]) -> None:
    _, calls = recorded
    kinds = [call.what for call in calls]
    assert kinds.count("ack") == LABELS
    assert kinds.count("sync") >= LABELS
    assert kinds.count("write") >= LABELS


@pytest.mark.parametrize("torn", [False, True], ids=["all is lost", "some is torn"])
def test_r02_what_was_acknowledged_survives_a_cut_anywhere(
    recorded: tuple[Path, list[Call]], tmp_path: Path, torn: bool
) -> None:
    _, calls = recorded
    chance = random.Random(2)
    first = next(n for n, call in enumerate(calls) if call.what == "ack")
    for number in range(CUTS):
        cut = chance.randrange(first, len(calls))
        disk = Disk()
        for call in calls[:cut]:
            disk.apply(call)
        folder = tmp_path / str(number)
        folder.mkdir()
        path = rebuilt(disk.after_cut(chance if torn else None), folder)
        with sqlite3.connect(path) as plain:
            assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with Database(path) as store, store.read() as db:
            (project,) = projects_of(db, None)
            events.verify(db, project.id)
            keys = set(db.scalars(select(log.c.key).where(log.c.type == "voted")))
        assert {str(n) for n in range(disk.acknowledged)} <= keys, f"cut {cut}"


def test_a_disk_that_forgets_its_syncs_is_caught(
    recorded: tuple[Path, list[Call]], tmp_path: Path
) -> None:
    _, calls = recorded
    disk = Disk()
    last = max(n for n, call in enumerate(calls) if call.what == "ack")
    for call in calls[:last]:
        disk.apply(call)
    wal = next(path for path in disk.synced if path.endswith("-wal"))
    del disk.synced[wal][len(disk.synced[wal]) // 2 :]
    with Database(rebuilt(disk.after_cut(None), tmp_path)) as store, store.read() as db:
        kept = db.scalars(select(log.c.key).where(log.c.type == "voted")).all()
    assert len(kept) < disk.acknowledged
