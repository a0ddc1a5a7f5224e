"""Asking a token server from where a notebook asks, and leaving it in the middle."""

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.inference.conftest import VOCAB
from tests.inference.token_fakes import END, Served, adapted, serving

from preftune.inference.generate import GenerateSettings
from preftune.inference.token_server import Question, TokenServer
from preftune.inference.url_rollouts import UrlRollouts, UrlRolloutSettings
from preftune.responses.remote import Failed, HttpSettings


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


def server(url: str) -> TokenServer:
    return TokenServer(HttpSettings(url=url, allow_urls=(url,), timeout_s=60.0))


QUESTION = Question(path="/completions", body={}, read=bool)


def test_rollouts_are_drawn_where_an_event_loop_runs_already(tmp_path: Path) -> None:
    with serving(Served()) as served:
        rollouts = UrlRollouts(
            HttpSettings(url=served.url, allow_urls=(served.url,)),
            GenerateSettings(max_new_tokens=4),
            UrlRolloutSettings(),
            folder=tmp_path,
            end_ids=(END,),
            vocab_size=VOCAB,
        )

        async def cell_of_a_notebook() -> int:
            rollouts.publish(adapted(1), version=1)
            return len(rollouts.draw([(3, 4)], [1]))

        assert asyncio.run(cell_of_a_notebook()) == 1


def test_an_interrupt_ends_the_wait_for_a_server_that_says_nothing(silent: str) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    began_s = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            server(silent).ask([QUESTION, QUESTION])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() < began_s + 30  # not the minute that one attempt may take


def test_a_server_that_is_not_there_is_a_reason_for_each_question() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/v1"
    settings = HttpSettings(url=url, allow_urls=(url,), attempts=2, backoff_s=0.0)
    found = TokenServer(settings).ask([QUESTION, QUESTION])
    assert [isinstance(got, Failed) for got in found] == [True, True]
    assert all("cannot connect" in got.reason for got in found if isinstance(got, Failed))
