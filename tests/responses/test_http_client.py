import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest
from tests.responses.chat_server import (
    COMPLETION_TOKENS,
    PROMPT_TOKENS,
    ChatServer,
    Fault,
    serving,
)

from preftune.errors import DataError, SettingsError
from preftune.responses.chat_client import ChatAnswer, ChatFailure, ChatRequest
from preftune.responses.http_client import HttpChatClient
from preftune.responses.journal import Journal
from preftune.responses.remote import HttpSettings
from preftune.responses.spending import Bill, Ledger, Prices
from preftune.types import user

CANARY = "canary-7f3a9c21d5"
PRICES = Prices(usd_in=100.0, usd_out=1000.0)
CALL_USD = PRICES.cost_usd(PROMPT_TOKENS, COMPLETION_TOKENS)  # 0.006
Start = Callable[..., ChatServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server with a fault and other fields of its own."""
    with ExitStack() as stack:

        def begin(fault: Fault | str = "", **fields: Any) -> ChatServer:
            chosen = (lambda number, body: fault) if isinstance(fault, str) else fault
            return stack.enter_context(serving(ChatServer(fault=chosen, **fields)))

        yield begin


def client(server: ChatServer, *, bill: Bill | None = None, **settings: Any) -> HttpChatClient:
    quick = {"timeout_s": 10, "backoff_s": 0.01, "longest_wait_s": 0.1}
    given = {"url": server.url, "allow_urls": (server.url,), **quick, **settings}
    return HttpChatClient(HttpSettings(**given), "m", bill=bill)


def requests(n: int, **fields: Any) -> list[ChatRequest]:
    shared = {"max_tokens": COMPLETION_TOKENS, "seed": 1, **fields}
    return [ChatRequest(key=f"k{i}", messages=(user(f"question {i}"),), **shared) for i in range(n)]


def failure(asking: HttpChatClient, n: int = 1) -> ChatFailure:
    outcomes = list(asking.ask(requests(n)))
    assert len({outcome.key for outcome in outcomes}) == n
    assert isinstance(outcomes[0], ChatFailure)
    return outcomes[0]


def test_each_key_is_answered_once(start: Start) -> None:
    server = start()
    asking = client(server)
    outcomes = list(asking.ask(requests(40)))
    assert asking.name == f"m@127.0.0.1:{server.port}"
    assert sorted(outcome.key for outcome in outcomes) == sorted(f"k{i}" for i in range(40))
    first = next(outcome for outcome in outcomes if outcome.key == "k0")
    assert first == ChatAnswer(
        key="k0",
        text="answer to question 0/1/0.0",
        prompt_tokens=PROMPT_TOKENS,
        completion_tokens=COMPLETION_TOKENS,
        model="m",
    )
    assert asking.notes == []
    assert list(asking.ask([])) == []


def test_no_more_than_allowed_are_under_way(start: Start) -> None:
    server = start(latency_s=0.02)
    assert len(list(client(server, concurrency=3).ask(requests(30)))) == 30
    assert server.most_busy == 3


def test_slow_taker_holds_the_asking_back(start: Start) -> None:
    server = start()
    outcomes = client(server, concurrency=2).ask(requests(30))
    next(outcomes)
    threading.Event().wait(0.2)  # time enough to ask for all of them
    assert len(server.bodies) <= 2
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]  # a generator
    threading.Event().wait(0.1)
    assert len(server.bodies) <= 4


def test_two_requests_with_one_key_are_refused(start: Start) -> None:
    server = start()
    with pytest.raises(DataError, match="two have one key"):
        list(client(server).ask(requests(1) + requests(1)))
    assert server.bodies == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "HTTP 500: it is broken (attempt 3)"),
        ("429", "HTTP 429: it is broken (attempt 3)"),
        ("timeout", "no whole answer in 0.4 s (attempt 3)"),
        ("drip", "no whole answer in 0.4 s (attempt 3)"),
        ("drip-headers", "no whole answer in 0.4 s (attempt 3)"),
        ("garbage", "not a chat completion: Input data was truncated (attempt 3)"),
        ("endless", "an answer of more than 100000 bytes (attempt 3)"),
        ("packed", "a compressed answer that was not asked for (attempt 3)"),
    ],
)
def test_fault_that_stays_is_asked_again_so_often_and_named(
    start: Start, fault: str, reason: str
) -> None:
    server = start(fault)
    short = 0.4 if "0.4 s" in reason else 10
    asking = client(server, attempts=3, body_bytes=100_000, timeout_s=short)
    assert failure(asking).reason == reason
    assert len(server.bodies) == 3


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_cut_connection_is_asked_again(start: Start, fault: str) -> None:
    server = start(fault)
    assert failure(client(server, attempts=3)).reason.startswith("connection cut (")
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("400", "HTTP 400: it is broken (attempt 1)"),
        ("401", "HTTP 401: it is broken (attempt 1)"),
        ("later", "HTTP 429: it is broken (attempt 1)"),  # asks for an hour
        ("filtered", "the server's content filter cut the answer (attempt 1)"),
    ],
)
def test_what_cannot_come_right_is_asked_once(start: Start, fault: str, reason: str) -> None:
    server = start(fault)
    assert failure(client(server)).reason == reason
    assert len(server.bodies) == 1


def test_redirect_is_never_followed(start: Start) -> None:
    inside = start()
    server = start("redirect", redirect_to=f"{inside.url}/latest/meta-data/")
    assert "points elsewhere, which is not followed" in failure(client(server)).reason
    assert (len(server.bodies), len(inside.bodies)) == (1, 0)


def test_nobody_at_the_port_is_named() -> None:
    with socket.socket() as held:  # bound and not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        asking = client(ChatServer(port=held.getsockname()[1]), attempts=2)
        assert failure(asking).reason.startswith("cannot connect (")


def test_wrong_key_ends_the_run_at_once(start: Start) -> None:
    server = start("401")
    outcomes = list(client(server, concurrency=1).ask(requests(20)))
    assert len(server.bodies) == 1
    assert {o.reason for o in outcomes[1:] if isinstance(o, ChatFailure)} == {
        "not asked: HTTP 401: it is broken"
    }
    assert len(outcomes) == 20


def test_breaker_opens_and_keeps_what_is_done(start: Start) -> None:
    server = start(lambda number, body: "" if number < 10 else "500")
    asking = client(server, concurrency=2, breaker=5)
    outcomes = list(asking.ask(requests(100)))
    assert sum(isinstance(outcome, ChatAnswer) for outcome in outcomes) == 10
    assert len(outcomes) == 100
    assert 15 <= len(server.bodies) <= 15 + 2  # two were under way
    assert any(
        isinstance(o, ChatFailure) and o.reason.startswith("not asked: 5 failures in a row")
        for o in outcomes
    )


def test_busy_server_does_not_open_the_breaker(start: Start) -> None:
    server = start(lambda number, body: "429" if number < 30 else "")
    outcomes = list(client(server, breaker=3, attempts=30).ask(requests(5)))
    assert all(isinstance(outcome, ChatAnswer) for outcome in outcomes)


def test_retry_after_is_waited(start: Start) -> None:
    server = start(lambda number, body: "soon" if number == 0 else "")
    begin = monotonic()
    (answer,) = client(server, backoff_s=0.0, longest_wait_s=5.0).ask(requests(1))
    assert isinstance(answer, ChatAnswer)
    assert monotonic() - begin >= 1  # Retry-After: 1


def test_server_without_seed_is_told_once(start: Start) -> None:
    server = start("no-seed")
    asking = client(server, concurrency=4)
    assert all(isinstance(outcome, ChatAnswer) for outcome in asking.ask(requests(20)))
    assert sum("seed" in body for body in server.bodies) <= 4
    assert asking.notes == [f"{asking.name} takes no seed: the same draw cannot be had twice"]


def test_server_without_logprobs_is_told_once(start: Start) -> None:
    asking = client(start())
    assert len(list(asking.ask(requests(5, top_logprobs=2)))) == 5
    assert asking.notes == [f"{asking.name} gives no log-probabilities"]


def test_server_under_another_name_is_told_once(start: Start) -> None:
    server = start()
    settings = HttpSettings(url=server.url, allow_urls=(server.url,))
    asking = HttpChatClient(settings, "m")
    asking.model = "other\x1b[2J"  # what the server says back
    assert len(list(asking.ask(requests(3)))) == 3
    assert [note.partition(" answers ")[2] for note in asking.notes] == [
        "under the name other⟨U+001B⟩[2J"
    ]


def chaos(share: float) -> Fault:
    """Something else goes wrong at a share of the calls; which, is drawn from a seed."""
    random, lock = Random(5), threading.Lock()
    kinds = ["500", "503", "429", "timeout", "cut", "reset", "garbage", "drip", "endless"]

    def fault(number: int, body: dict[str, Any]) -> str:
        with lock:
            return random.choice(kinds) if random.random() < share else ""

    return fault


@pytest.mark.faults
def test_chaos_loses_nothing_and_asks_a_bounded_number_of_times(start: Start) -> None:
    server = start(chaos(0.2))
    outcomes = list(
        client(server, concurrency=16, body_bytes=2**20, timeout_s=0.4).ask(requests(200))
    )
    assert all(isinstance(outcome, ChatAnswer) for outcome in outcomes)
    assert len({outcome.key for outcome in outcomes}) == 200
    assert 220 <= len(server.bodies) <= 300  # 200 / 0.8 = 250


@pytest.mark.faults
def test_chaos_never_costs_more_than_the_cap_and_what_is_under_way(
    start: Start, tmp_path: Path
) -> None:
    server = start(chaos(0.2))
    cap = 120 * CALL_USD
    with Journal(tmp_path / "ledger") as journal:
        ledger = Ledger(journal, cap_usd=cap)
        asking = client(
            server,
            bill=Bill(ledger=ledger, prices=PRICES),
            concurrency=8,
            body_bytes=2**20,
            timeout_s=0.4,
        )
        outcomes = list(asking.ask(requests(200)))
        spent = ledger.spent_usd
    taken = len(server.paid) * CALL_USD
    answers = [outcome for outcome in outcomes if isinstance(outcome, ChatAnswer)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, ChatFailure)]
    assert len(answers) + len(failures) == 200
    assert 60 < len(answers) < 120
    assert "not asked: the cost cap is reached" in {failure.reason for failure in failures}
    assert taken <= spent + 8 * CALL_USD
    assert taken <= cap + 8 * CALL_USD
    assert spent <= cap + 8 * CALL_USD


def test_call_is_booked_at_its_count_of_tokens(start: Start, tmp_path: Path) -> None:
    server = start()
    with Journal(tmp_path / "ledger") as journal:
        ledger = Ledger(journal)
        list(client(server, bill=Bill(ledger=ledger, prices=PRICES)).ask(requests(7)))
        assert ledger.spent_usd == pytest.approx(7 * CALL_USD)


@pytest.mark.parametrize(("fault", "calls"), [("500", 0), ("cut", 2), ("uncounted", 1)])
def test_call_without_a_count_stays_booked_unless_it_was_surely_free(
    start: Start, tmp_path: Path, fault: str, calls: int
) -> None:
    server = start(fault)
    with Journal(tmp_path / "ledger") as journal:
        ledger = Ledger(journal)
        asking = client(server, bill=Bill(ledger=ledger, prices=PRICES), attempts=2)
        list(asking.ask(requests(1)))
        # "question 0" has 10 bytes: 4 tokens, and 8 for the message
        assert ledger.spent_usd == pytest.approx(calls * PRICES.cost_usd(12, COMPLETION_TOKENS))
    assert len(asking.notes) == (fault == "uncounted")


def test_disk_trouble_in_the_ledger_stops_the_run(start: Start, tmp_path: Path) -> None:
    server = start()
    with Journal(tmp_path / "ledger") as journal:
        bill = Bill(ledger=Ledger(journal), prices=PRICES)
    with pytest.raises(ValueError, match="closed file"):  # as a disk that went away
        list(client(server, bill=bill).ask(requests(3)))


def test_key_is_sent_and_shown_nowhere(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)
    caplog.set_level("DEBUG")
    said: list[str] = []
    for fault in ("echo", "401", "400", "500", "cut"):
        server = start(fault, error_text=f"wrong key {CANARY}, sent as Bearer {CANARY}")
        asking = client(server, key_env="CANARY_KEY", attempts=2)
        said += [repr(outcome) for outcome in asking.ask(requests(1))]
        said += [repr(asking), str(vars(asking)), *asking.notes]
        assert server.headers[0]["Authorization"] == f"Bearer {CANARY}"
    assert "Bearer [key]" in said[0]
    assert CANARY not in "".join(said)
    assert CANARY not in caplog.text


def test_name_that_rebinds_is_asked_at_the_first_address(start: Start) -> None:
    server = start()
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])
    url = f"http://judge.test:{server.port}"
    asking = HttpChatClient(
        HttpSettings(url=url, allow_urls=(url,)),
        "m",
        resolve=lambda host, port: next(answers),
    )
    for _ in range(2):
        assert all(isinstance(outcome, ChatAnswer) for outcome in asking.ask(requests(3)))
    assert {headers["Host"] for headers in server.headers} == {f"judge.test:{server.port}"}
    assert next(answers) == ["127.0.0.9"]  # asked for once only


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of judge.test, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=judge.test", "-addext", "subjectAltName=DNS:judge.test"]
    kind = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(
        [*kind, "-nodes", *names, "-days", "2", "-keyout", key, "-out", made],
        check=True,
        capture_output=True,
    )
    return made, key


@pytest.mark.parametrize(
    ("host", "trusted", "answered"),
    [("judge.test", True, True), ("other.test", True, False), ("judge.test", False, False)],
)
def test_certificate_must_be_that_of_the_name_though_an_address_is_asked(
    start: Start,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    trusted: bool,
    answered: bool,
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    server = start(tls=tls)
    url = f"https://{host}:{server.port}"
    settings = HttpSettings(url=url, allow_urls=(url,), attempts=1)
    asking = HttpChatClient(settings, "m", resolve=lambda name, port: ["127.0.0.1"])
    (outcome,) = asking.ask(requests(1))
    assert isinstance(outcome, ChatAnswer) == answered
    if isinstance(outcome, ChatFailure):
        assert "CERTIFICATE_VERIFY_FAILED" in outcome.reason
        assert server.bodies == []


def sockets() -> int:
    handles = Path("/proc/self/fd").iterdir()
    return sum(h.is_symlink() and str(h.readlink()).startswith("socket") for h in handles)


@pytest.mark.parametrize("fault", ["", "drip", "cut", "500"])
@pytest.mark.parametrize("taken", [1, 20])
def test_no_socket_and_no_thread_is_left(start: Start, fault: str, taken: int) -> None:
    server = ChatServer(fault=lambda number, body: fault)
    threads, open_before = threading.active_count(), sockets()
    with serving(server):
        outcomes = client(server, attempts=1, timeout_s=0.4).ask(requests(20))
        for _ in range(taken):
            next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]  # a generator
        mine = sockets()
    assert mine >= open_before + 1  # the server's own
    wait_until(lambda: threading.active_count() <= threads and sockets() <= open_before)


FAILING_CALLER = """
import sys
from preftune.responses.chat_client import ChatRequest
from preftune.responses.http_client import HttpChatClient
from preftune.responses.remote import HttpSettings
from preftune.types import user

url = sys.argv[1]
asked = [ChatRequest(key=str(i), messages=(user("?"),), max_tokens=5) for i in range(50)]
outcomes = HttpChatClient(HttpSettings(url=url, allow_urls=(url,)), "m").ask(asked)
next(outcomes)
raise RuntimeError("disk full")  # and nobody closes `outcomes`
"""


def test_caller_that_dies_of_an_error_does_not_hang(start: Start) -> None:
    server = start(latency_s=0.05)
    ran = subprocess.run(
        [sys.executable, "-c", FAILING_CALLER, server.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.endswith("RuntimeError: disk full\n")


def wait_until(fact: Callable[[], bool]) -> None:
    """Wait for the threads of the server, which see a closed connection a moment later."""
    end = monotonic() + 15
    while not fact():
        assert monotonic() < end
        threading.Event().wait(0.02)


@pytest.mark.parametrize("path", ["", "/v1", "/v1/chat/completions", "/openai/v2"])
def test_proxy_of_the_environment_is_not_used(
    start: Start, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = start()
    asking = client(server, url=f"{server.url}{path}")
    assert all(isinstance(outcome, ChatAnswer) for outcome in asking.ask(requests(1)))


def test_loopback_needs_leave(start: Start) -> None:
    server = start()
    with pytest.raises(SettingsError, match=f"--allow-url {server.url}"):
        client(server, allow_urls=())
    assert server.bodies == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_setting_out_of_range_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        client(ChatServer(port=1), **settings)
    with pytest.raises(SettingsError, match="model: no name"):
        HttpChatClient(HttpSettings(url="https://127.0.0.1"), " ")


def test_request_body_is_plain_json(start: Start) -> None:
    server = start()
    list(client(server).ask(requests(1, temperature=0.5)))
    assert json.loads(json.dumps(server.bodies[0])) == {
        "model": "m",
        "messages": [{"role": "user", "content": "question 0"}],
        "max_tokens": COMPLETION_TOKENS,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 1,
    }
