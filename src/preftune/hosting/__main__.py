"""Generate for the server, at a Unix socket, until SIGTERM.

python -m preftune.hosting --socket /run/preftune/generate.sock --threads 2
"""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preftune.errors import PreftuneError
from preftune.hosting.settings import HostingSettings
from preftune.settings import build, options

GRACE_S = 2  # for lines that are on their way when the process is told to end
SWITCH_S = 0.0005  # the thread that computes gets the interpreter back so soon


def main() -> int:
    """Run until told to end; return 1 if the engine has died."""
    parser = argparse.ArgumentParser("preftune.hosting", description=__doc__)
    parser.add_argument("--socket", required=True, help="Path of the Unix socket to make.")
    for option in options(HostingSettings):
        flag = f"--{option.name.replace('_', '-')}"
        parser.add_argument(flag, default=option.default, help=option.help)
    given = vars(parser.parse_args())
    path = given.pop("socket")
    try:
        settings = build(HostingSettings, given, where="preftune.hosting")
    except PreftuneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.setswitchinterval(SWITCH_S)
    return serve(settings, path)


def serve(settings: HostingSettings, path: str) -> int:
    """Serve at a socket until told to end; return 1 if the engine has died."""
    import uvicorn

    from preftune.engine.memory import keep_pages
    from preftune.hosting.app import make_app
    from preftune.hosting.engine import Engine

    keep_pages()
    died: list[bool] = []

    def end() -> None:
        died.append(True)
        server.should_exit = True

    engine = Engine(settings, died=end)
    config = uvicorn.Config(
        make_app(engine),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):  # which uvicorn raises again when it is done
        signal.signal(number, lambda *_: None)
    engine.start()
    with private_socket(path) as listening:
        server.run(sockets=[listening])
    if not died:
        engine.close()
    return int(bool(died))


@contextmanager
def private_socket(path: str) -> Iterator[socket.socket]:
    """Yield a Unix socket that nobody but this user can open; it is gone afterwards."""
    Path(path).unlink(missing_ok=True)  # of a process that was killed
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        before = os.umask(0o177)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        try:
            yield listening
        finally:
            Path(path).unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())
