import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.comparisons.judge_world import honest, judge_server

from preftune.comparisons.judging.calls import CallLog
from preftune.errors import DataError, RowError
from preftune.responses.chat_client import ChatAnswer


def answer(number: int, text: str = "A") -> ChatAnswer:
    return ChatAnswer(key=f"k{number}", text=text, logprobs=(("A", -0.5),), prompt_tokens=3)


def test_answers_and_salt_are_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "new" / "calls.jsonl"
    with CallLog(path) as calls:
        salt = calls.salt
        calls.put(answer(1))
        calls.put(answer(2))
        calls.put(answer(1, "B"))
        assert calls.get("k3") is None
    with CallLog(path) as calls:
        assert calls.salt == salt
        assert calls.get("k1") == answer(1, "B")  # the last one counts
        assert calls.get("k2") == answer(2)


def test_two_logs_have_different_salts(tmp_path: Path) -> None:
    with CallLog(tmp_path / "a") as one, CallLog(tmp_path / "b") as other:
        assert one.salt != other.salt
        assert len(one.salt) == 16


def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with CallLog(path) as calls:
        calls.put(answer(1))
        calls.put(answer(2))
    path.write_bytes(path.read_bytes()[:-7])
    with CallLog(path) as calls:
        assert calls.get("k1") == answer(1)
        assert calls.get("k2") is None
        calls.put(answer(2))
    assert path.read_bytes().count(b"\n") == 3


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with CallLog(path) as calls:
        calls.put(answer(1))
    path.write_bytes(path.read_bytes() + b'{"key": 3}\n')
    with pytest.raises(RowError, match=r"calls\.jsonl:3: damaged.*asked again"):
        CallLog(path)


def test_another_file_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"type": "pair"}\n')
    with pytest.raises(RowError, match=r"pairs\.jsonl:1: no log of calls"):
        CallLog(path)
    with pytest.raises(RowError):  # it was closed: not "another process"
        CallLog(path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        CallLog(tmp_path / "calls.jsonl"),
        pytest.raises(DataError, match="another process is writing"),
    ):
        CallLog(tmp_path / "calls.jsonl")


WRITER = """
import sys
from pathlib import Path
from preftune.comparisons.judging.calls import CallLog
from preftune.responses.chat_client import ChatAnswer
with CallLog(Path(sys.argv[1])) as calls:
    for number in range(10**9):
        calls.put(ChatAnswer(key=f"k{number}", text="A"))
        print(number, flush=True)
"""


@pytest.mark.faults
def test_a_killed_process_loses_no_answer_it_had(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        said = process.stdout.read().split(b"\n")
    acknowledged = max(int(line) for line in said[:-1] if line)
    with CallLog(path) as calls:
        for number in range(acknowledged + 1):
            assert calls.get(f"k{number}") is not None


RUN = """
import sys
from pathlib import Path
from preftune.comparisons.judging.panel_run import run_panel
from preftune.comparisons.judging.run import JudgeSettings
from preftune.responses.http_client import HttpChatClient
from preftune.responses.remote import HttpSettings
from tests.comparisons.judge_world import LABELS, summed
url = sys.argv[1]
client = HttpChatClient(HttpSettings(url=url, allow_urls=(url,), concurrency=4), "judge")
sums = [summed(n) for n in range(50)]
run_panel(sums, [client], LABELS, JudgeSettings(), out=Path(sys.argv[2]), unqualified=True)
"""


@pytest.mark.faults
def test_a_killed_run_goes_on_and_asks_only_what_was_under_way_again(
    tmp_path: Path, root: Path
) -> None:
    asked: list[str] = []
    halfway = threading.Event()

    def slow(question: str, first: str, second: str) -> str:
        asked.append(f"{question} {first} {second}")
        if len(asked) == 40:
            halfway.set()
        time.sleep(0.005)
        return honest(question, first, second)

    out = tmp_path / "said.jsonl"
    with judge_server(slow) as url:
        command = [sys.executable, "-c", RUN, url, str(out)]
        with subprocess.Popen(command, cwd=root) as process:
            assert halfway.wait(timeout=30)
            os.kill(process.pid, signal.SIGKILL)
        assert not out.exists()
        subprocess.run(command, cwd=root, check=True)
    assert len(set(asked)) == 100
    assert len(asked) <= 100 + 4 + 1  # under way, and one answer not yet taken
    assert len(out.read_text().splitlines()) == 200
