"""The filter of system calls by itself, set on a process that could otherwise do it all."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, os, sys
from preftune.graders.jail_filter import Filter

def outcome(action):
    try:
        action()
        return "done"
    except OSError as error:
        return error.strerror

os.chdir(sys.argv[1])
Filter(read_only=sys.argv[2] == "read-only").set()
print(json.dumps({
    "read": outcome(lambda: open("here").read()),
    "write": outcome(lambda: open("here", "w")),
    "append": outcome(lambda: open("here", "a")),
    "truncate": outcome(lambda: os.truncate("here", 0)),
    "create": outcome(lambda: os.open("new", os.O_CREAT | os.O_RDONLY)),
    "folder": outcome(lambda: os.mkdir("folder")),
    "move": outcome(lambda: os.rename("here", "there")),
    "link": outcome(lambda: os.symlink("here", "linked")),
    "delete": outcome(lambda: os.unlink("there")),
    "fork": outcome(os.fork),
    "pipe": outcome(os.pipe),
}))
"""


def outcomes(folder: Path, kind: str) -> dict[str, str]:
    (folder / "here").write_text("kept")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, kind], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(ran.stdout)
    return found


def test_read_only_filter_lets_read_and_nothing_else(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "read-only")
    assert {name for name, said in found.items() if said == "done"} == {"read", "pipe"}
    assert {path.name for path in tmp_path.iterdir()} == {"here"}
    assert (tmp_path / "here").read_text() == "kept"


def test_filter_lets_files_be_written_and_no_process_be_made(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "files")
    assert {name for name, said in found.items() if said != "done"} == {"fork"}
    assert {path.name for path in tmp_path.iterdir()} == {"new", "folder", "linked"}
