"""T20: real attacks of python graders, in real processes: all held and named, the caller goes on.

Every attack runs through `GraderRunner`, and after each the same runner grades a good item.
"""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from tests.graders.test_grader_run import gsm8k
from tests.graders.test_grader_specs import CHECK, PYTHON

from preftune.errors import SettingsError
from preftune.graders.grader_scorer import GraderScorer
from preftune.graders.results import GradeErrors, GradeResult
from preftune.graders.run import GraderRunner
from preftune.graders.sample import Sample
from preftune.graders.sandbox import Sandbox, SandboxSettings
from preftune.graders.specs import validate
from preftune.types import assistant, make_prompt, user

LIMITS = SandboxSettings(
    deadline_s=1.0,
    memory_bytes=256 * 2**20,
    disk_bytes=2**20,
    threads=8,
    open_files=32,
    workers=1,
)
ATTACKS = """
import array, ctypes, fcntl, json, mmap, os, resource, signal, socket, sys, threading, time

def calm(item):
    return 0.25

def fork_bomb(item):
    while True:
        os.fork()

def thread_bomb(item):
    while True:
        threading.Thread(target=time.sleep, args=(60,)).start()

def exec_a_program(item):
    os.execv("/bin/sh", ["sh", "-c", "true"])

def run_a_program(item):
    import subprocess
    subprocess.run(["/bin/sh", "-c", "true"])

def memory_bomb(item):
    held = []
    while True:
        held.append(bytearray(2**22))

def mapped_memory_bomb(item):
    held = []
    while True:
        held.append(mmap.mmap(-1, 2**26))

def unseen_memory(item):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.memfd_create(b"x", 0) < 0 and libc.shmget(0, 2**30, 0o1600) < 0:
        raise PermissionError(ctypes.get_errno(), "no such memory")

def tcp(item):
    socket.create_connection(("127.0.0.1", item["port"]))

def udp(item):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", item["port"]))

def unix(item):
    socket.socket(socket.AF_UNIX).connect(item["unix"])

def vsock(item):
    socket.socket(40, socket.SOCK_STREAM)

def io_uring(item):
    if ctypes.CDLL(None, use_errno=True).syscall(425, 8, bytes(256)) < 0:
        raise PermissionError(ctypes.get_errno(), "no ring")

def read_a_key(item):
    return len(open(item["key"]).read())

def use_a_handle(item):
    for number in range(3, 64):
        try:
            return len(os.listdir(number))
        except OSError:
            pass
    raise OSError("no handle left open")

def read_passwords(item):
    return len(open("/etc/passwd").read())

def read_processes(item):
    return len(os.listdir("/proc"))

def write_beside_it(item):
    open(item["folder"] + "/out", "w").write("x")

def write_to_the_root(item):
    open("/out", "w").write("x")

def write_to_the_library(item):
    open(os.__file__, "a").write("x")

def endless_loop(item):
    while True:
        pass

def endless_loop_deaf_to_signals(item):
    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        pass

def sleep_on(item):
    time.sleep(60)

def leave_a_thread(item):
    threading.Thread(target=time.sleep, args=(60,)).start()
    return 0.25

def environment(item):
    raise ValueError(json.dumps(sorted(os.environ)))

def signal_the_parent(item):
    os.kill(os.getppid(), signal.SIGKILL)

def signal_the_caller(item):
    os.kill(item["caller"], signal.SIGKILL)

def own_the_caller(item):
    one, other = os.pipe()
    fcntl.fcntl(one, fcntl.F_SETOWN, item["caller"])

def limit_the_caller(item):
    resource.prlimit(item["caller"], resource.RLIMIT_CPU, (1, 1))

def raise_its_limits(item):
    resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))

def outlive_the_parent(item):
    if ctypes.CDLL(None, use_errno=True).prctl(1, 0, 0, 0, 0) != 0:
        raise PermissionError(ctypes.get_errno(), "still tied to it")

def become_root(item):
    os.setuid(0)

def new_namespace(item):
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) != 0:
        raise PermissionError(ctypes.get_errno(), "no namespace")

def print_without_end(item):
    for _ in range(20):
        sys.stdout.write("x" * 2**20)
    return 0.25

def said_too_much(item):
    for number in range(3, 32):
        try:
            for _ in range(10):
                os.write(number, b"x" * 2**16)
        except OSError:
            pass

def forged_answer(item):
    for number in range(3, 32):
        try:
            os.write(number, b'{"kind": "ok", "reward": NaN}')
        except OSError:
            pass
    os._exit(0)

def fill_the_disk(item):
    for number in range(100):
        open("/tmp/%d" % number, "wb").write(b"x" * 2**16)

def one_huge_file(item):
    open("/tmp/x", "wb").write(b"x" * 2**22)

def many_files(item):
    held = [open("/tmp/%d" % number, "w") for number in range(100)]

def crash(item):
    ctypes.string_at(0)

def leave(item):
    os._exit(3)

def give_up(item):
    sys.exit(3)

def raise_something(item):
    raise RuntimeError("bad \\x1b[31m news")

def raise_hugely(item):
    raise RuntimeError("x" * 10**7)

def too_deep(item):
    return too_deep(item)

def wrong_type(item):
    return "1.0"

def true(item):
    return True

def nothing(item):
    return None

def not_a_number(item):
    return float("nan")

def infinite(item):
    return 10 ** 400

def missing_key(item):
    return item["no such key"]

def temp_file(item):
    import tempfile
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    open("/tmp/left", "w").write("x")
    return 0.25

def sees_what_others_left(item):
    return 0.25 if os.listdir("/tmp") == [] and not hasattr(json, "left") else 0.0

def leaves_a_mark(item):
    json.left = True
    return 0.25

def grade(sample, item):
    return globals()[sample["output_text"]](item)
"""
RUNTIME = {
    "fork_bomb": "PermissionError",
    "thread_bomb": "RuntimeError: can't start new thread",
    "exec_a_program": "Error",
    "run_a_program": "PermissionError",
    "memory_bomb": "MemoryError",
    "mapped_memory_bomb": "Cannot allocate memory",
    "unseen_memory": "PermissionError",
    "tcp": "PermissionError",
    "udp": "PermissionError",
    "unix": "PermissionError",
    "vsock": "PermissionError",
    "io_uring": "PermissionError",
    "read_a_key": "FileNotFoundError",
    "use_a_handle": "no handle left open",
    "read_passwords": "FileNotFoundError",
    "read_processes": "FileNotFoundError",
    "write_beside_it": "FileNotFoundError",
    "write_to_the_root": "Read-only file system",
    "write_to_the_library": "Error",
    "environment": "ValueError",
    "signal_the_parent": "PermissionError",
    "signal_the_caller": "ProcessLookupError",
    "own_the_caller": "ProcessLookupError",
    "limit_the_caller": "ProcessLookupError",
    "raise_its_limits": "ValueError",
    "outlive_the_parent": "PermissionError",
    "become_root": "PermissionError",
    "new_namespace": "PermissionError",
    "fill_the_disk": "No space left",
    "one_huge_file": "File too large",
    "many_files": "Too many open files",
    "give_up": "SystemExit: 3",
    "raise_something": r"RuntimeError: bad \x1b[31m news",
    "raise_hugely": "RuntimeError: xxx",
    "too_deep": "RecursionError",
    "wrong_type": "grade returned str",
    "true": "grade returned bool",
    "nothing": "grade returned NoneType",
    "not_a_number": "grade returned nan",
    "infinite": "OverflowError",
    "missing_key": "KeyError: 'no such key'",
}
STOPPED = {
    "endless_loop": "timeout",
    "endless_loop_deaf_to_signals": "timeout",
    "sleep_on": "timeout",
    "said_too_much": "said_too_much",
    "forged_answer": "died",
    "crash": "died",
    "leave": "died",
}
HARMLESS = ("print_without_end", "leave_a_thread", "temp_file", "leaves_a_mark")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraderRunner]:
    handle = os.open(tmp_path_factory.getbasetemp(), os.O_RDONLY)
    os.set_inheritable(handle, True)  # as a careless library would
    with GraderRunner(validate({**PYTHON, "source": ATTACKS}), sandbox=LIMITS) as runner:
        os.close(handle)
        yield runner


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A key, a folder anyone may write in, and listening sockets: what an attack would reach."""
    folder = tmp_path_factory.mktemp("world")
    folder.chmod(0o777)
    key = folder / "key"
    key.write_text("secret")
    key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "unix"))
        unix.listen()
        yield {
            "port": server.getsockname()[1],
            "unix": str(folder / "unix"),
            "key": str(key),
            "folder": str(folder),
            "caller": os.getpid(),
        }


def grade(runner: GraderRunner, attack: str, item: dict[str, Any]) -> GradeResult:
    result = runner.run(Sample(output_text=attack), item)
    after = runner.run(Sample(output_text="sees_what_others_left"), {})
    assert (after.reward, after.failed) == (0.25, False), after.problem
    return result


@pytest.mark.parametrize("attack", RUNTIME)
def test_attack_is_refused_and_named(
    runner: GraderRunner, world: dict[str, Any], attack: str
) -> None:
    result = grade(runner, attack, world)
    errors = result.metadata.errors
    assert (result.reward, errors.kinds) == (0.0, ("python_grader_runtime_error",))
    assert RUNTIME[attack] in str(errors.python_grader_runtime_error_details)
    assert len(result.problem) < 3000
    assert result.problem.isprintable()
    assert {path.name for path in Path(world["folder"]).iterdir()} == {"key", "unix"}


@pytest.mark.parametrize("attack", STOPPED)
def test_attack_is_stopped_and_named(
    runner: GraderRunner, world: dict[str, Any], attack: str
) -> None:
    began = monotonic()
    errors = grade(runner, attack, world).metadata.errors
    assert errors.python_grader_server_error
    assert errors.python_grader_server_error_type == STOPPED[attack]
    assert errors.unresponsive_reward_error == (STOPPED[attack] == "timeout")
    assert monotonic() - began < LIMITS.deadline_s + 4


@pytest.mark.parametrize("attack", HARMLESS)
def test_what_does_no_harm_gets_its_reward(runner: GraderRunner, attack: str) -> None:
    result = grade(runner, attack, {})
    assert (result.reward, result.metadata.errors) == (0.25, GradeErrors()), result.problem


def test_environment_is_empty(runner: GraderRunner) -> None:
    details = grade(runner, "environment", {}).metadata.errors.python_grader_runtime_error_details
    assert str(details).startswith('ValueError: ["LC_CTYPE"] (line')  # Python's own


def test_results_keep_the_order_of_the_rows_with_several_workers() -> None:
    source = (
        "import time\ndef grade(sample, item):\n    time.sleep(item['s'])\n    return item['n']\n"
    )
    limits = SandboxSettings(deadline_s=20, workers=3)
    rows = [(Sample(output_text=""), {"n": n, "s": 0.2 if n % 3 == 0 else 0}) for n in range(9)]
    with GraderRunner(validate({**PYTHON, "source": source}), sandbox=limits) as runner:
        assert [one.reward for one in runner.run_all(rows)] == [float(n) for n in range(9)]


def test_grading_that_hangs_is_no_score_and_the_others_have_theirs() -> None:
    source = "def grade(sample, item):\n    while item['hang']: pass\n    return 1\n"
    prompts = [make_prompt(user(f"{n}?")) for n in range(3)]
    items = {prompt.id: {"hang": n == 1} for n, prompt in enumerate(prompts)}
    with GraderRunner(validate({**PYTHON, "source": source}), sandbox=LIMITS) as runner:
        scorer = GraderScorer(runner, items)
        assert scorer.score([(prompt, (assistant("a"),)) for prompt in prompts]) == [1, None, 1]
        assert scorer.errors == {"unresponsive_reward_error": 1, "python_grader_server_error": 1}


def test_python_grader_finds_the_right_solutions_of_gsm8k(shared_data: Path) -> None:
    source = """
import re

def number(text):
    return float(re.findall(r"A: (-?[0-9.,]+)", text)[-1].replace(",", "").rstrip("."))

def grade(sample, item):
    return float(number(sample["output_text"]) == number(item["solution"]))
"""
    rows = gsm8k(shared_data)[:60]
    solved = [row["175b_verification"] for row in rows]
    asked = [
        (Sample(output_text=one["solution"]), {"solution": row["ground_truth"]})
        for one, row in zip(solved, rows, strict=True)
    ]
    with GraderRunner(validate({**PYTHON, "source": source}), sandbox=LIMITS) as runner:
        rewards = [one.reward for one in runner.run_all(asked)]
    assert rewards == [float(one["is_correct"]) for one in solved]


def test_libraries_are_there_only_when_asked_for() -> None:
    source = "import numpy\ndef grade(s, i): return numpy.float32(numpy.arange(4).sum())"
    with Sandbox(source, LIMITS) as jail:
        assert "No module named 'numpy'" in jail.grade({}, {}).details
    with Sandbox(source, SandboxSettings(libraries=True, workers=1)) as jail:
        assert jail.grade({}, {}).reward == 6


JAILED = """
import json, os, sys, tempfile
from pathlib import Path
from preftune.graders.jail_walls import _own_namespaces, _own_root
folder, shown = sys.argv[1:]
_own_namespaces(os.geteuid() == 0)
_own_root(folder, [shown], 1 << 20, 0)
with tempfile.NamedTemporaryFile() as file:
    print(json.dumps([Path(shown, "read.txt").read_text(), Path(file.name).parts[:2]]))
try:
    Path(shown, "new").write_text("")
except OSError as error:
    print(error.errno)
"""


def test_what_is_shown_may_lie_where_temporary_files_do() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        shown, folder = Path(name, "lib"), Path(name, "root")
        shown.mkdir()
        folder.mkdir()
        (shown / "read.txt").write_text("here")
        command = [sys.executable, "-c", JAILED, str(folder), str(shown)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.splitlines()
    assert json.loads(first) == ["here", ["/", "scratch"]]
    assert int(second) == errno.EROFS


def test_one_grader_of_a_multi_that_hangs_does_not_stop_the_others() -> None:
    multi = {
        "type": "multi",
        "name": "both",
        "graders": {
            "code": {**PYTHON, "source": "def grade(sample, item):\n    while True: pass\n"},
            "right": CHECK,
        },
        "calculate_output": "code + right",
    }
    with GraderRunner(validate(multi), sandbox=LIMITS) as runner:
        result = runner.run(Sample(output_text="a"), {"answer": "a"})
    assert result.sub_rewards == {"code": 0.0, "right": 1.0}
    assert result.metadata.errors.unresponsive_reward_error


@pytest.mark.faults
def test_killed_sandbox_is_named_and_started_anew() -> None:
    with Sandbox("import time\ndef grade(s, i): time.sleep(i['s']); return 1", LIMITS) as jail:
        (worker,) = jail._workers
        victim = worker._process

        def kill() -> None:
            sleep(0.3)
            os.kill(victim, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        assert jail.grade({}, {"s": 0.9}).kind == "lost"
        thread.join()
        assert jail.grade({}, {"s": 0}).reward == 1


def test_walls_of_a_user_are_refused_with_the_reason_or_hold(world: dict[str, Any]) -> None:
    settings = SandboxSettings(deadline_s=2, workers=1, isolation="user")
    source = "import socket, os\ndef grade(s, i):\n    socket.socket()"
    try:
        with Sandbox(source, settings) as jail:
            assert jail.walls == "user"
            assert "PermissionError" in jail.grade({}, world).details
    except SettingsError as error:
        assert "others than root may not enter" in str(error) or os.geteuid() != 0


def test_sandbox_leaves_no_process_and_no_folder_behind() -> None:
    with Sandbox("def grade(s, i):\n    while True: pass", LIMITS) as jail:
        (worker,) = jail._workers
        process, folder = worker._process, Path(worker._folder)
        grading = threading.Thread(target=jail.grade, args=({}, {}))
        grading.start()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        assert children
    grading.join()  # it was told, and did not wait for the deadline
    ends = monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and monotonic() < ends:
        sleep(0.02)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert not folder.exists()
