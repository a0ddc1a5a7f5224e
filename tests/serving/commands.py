"""Servers started as users start them, and what they print."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Start = Callable[..., "subprocess.Popen[str]"]


@contextmanager
def starting(command: Sequence[str]) -> Iterator[Start]:
    """Give what starts a command with flags; all that was started ends with the block."""
    running: list[subprocess.Popen[str]] = []

    def start(*flags: object) -> "subprocess.Popen[str]":
        whole = [*command, *map(str, flags)]
        running.append(
            subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
        return running[-1]

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.communicate()


def first_lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]
