"""R4: SIGKILL before every file operation of a save and of a publish; the run goes on."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("traced_kills.py")


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory: SIGKILL loses nothing that was written, so a disk would only be slow."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def killed(folder: Path, scenario: str) -> dict[str, Any]:
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PREFTUNE_CACHE": "off"}
    ran = subprocess.run(
        [sys.executable, PROGRAM, folder, scenario],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


@pytest.mark.faults
@pytest.mark.parametrize("scenario", ["saving", "publishing"])
def test_r04_a_kill_before_any_file_operation_loses_at_most_one_interval(
    memory_folder: Path, scenario: str
) -> None:
    answer = killed(memory_folder, scenario)
    assert answer["problems"] == []
    assert answer["points"] == sum(answer["calls"].values())
    kinds = {"open", "write", "truncate", "fsync", "chmod", "rename", "mkdir", "delete"}
    assert answer["calls"].keys() == kinds


@pytest.mark.faults
def test_r04_a_command_killed_on_the_way_ends_in_the_same_bytes(memory_folder: Path) -> None:
    answer = killed(memory_folder, "command")
    assert answer["problems"] == []
    assert answer["points"] >= 3
