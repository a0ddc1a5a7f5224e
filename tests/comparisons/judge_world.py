"""Sums with a right and a wrong answer, and judges that read the prompt a judge is sent."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from preftune.comparisons.judging.rubric import Rubric
from preftune.responses.chat_client import ChatAnswer, ChatFailure, ChatRequest
from preftune.types import (
    Comparison,
    Judgment,
    Message,
    Prompt,
    Rater,
    Response,
    assistant,
    content_id,
    make_prompt,
    user,
)

LABELS = Rubric(name="sums", instructions="Say which is right.", criteria=("It is correct.",))
TALKED_OVER = re.compile(r"ignore all|verdict|system\]|reference", re.I)
Say = Callable[[str, str, str], str]
Weigh = Callable[[str, str, str], Any]


def response(prompt: Prompt, text: str, generator: str = "policy") -> Response:
    name = content_id("r", prompt.id, generator, text)
    return Response(id=name, prompt_id=prompt.id, messages=(assistant(text),), generator=generator)


def summed(number: int, *, right_first: bool | None = None, tail: str = "") -> Comparison:
    """Which is right: n + 7 or n + 8? The right one stands first for even n."""
    prompt = make_prompt(user(f"What is {number} plus 7?"))
    right = response(prompt, f"It is {number + 7}.{tail}", "good")
    wrong = response(prompt, f"It is {number + 8}.", "bad")
    first = number % 2 == 0 if right_first is None else right_first
    return Comparison(
        id=f"sum-{number}", prompt=prompt, responses=(right, wrong) if first else (wrong, right)
    )


def people_on(comparison: Comparison, *, dimension: str = "sums") -> Judgment:
    """A person's verdict, which is right."""
    place = [r.generator for r in comparison.responses].index("good")
    return Judgment(
        id=f"{comparison.id}/ann",
        comparison_id=comparison.id,
        kind="binary",
        choice=place,
        rater=Rater(id="ann", kind="human"),
        dimension=dimension,
    )


def read_prompt(messages: Sequence[Message]) -> tuple[str, str, str]:
    """Return question, answer A and answer B of a judge's prompt, by the fences alone."""
    text = messages[-1].content
    found = re.search(r"^=== question ([0-9a-f]{16}) ===$", text, re.M)
    assert found is not None
    parts = []
    for name in ("question", "answer A", "answer B"):
        fence = re.escape(f"{name} {found[1]}")
        block = re.search(rf"^=== {fence} ===\n(.*)\n=== end of {fence} ===$", text, re.M | re.S)
        assert block is not None
        parts.append(block[1])
    return parts[0], parts[1], parts[2]


def is_right(question: str, answer: str) -> bool:
    number = re.search(r"\d+", question)
    assert number is not None
    return re.search(rf"\b{int(number[0]) + 7}\b", answer) is not None


def honest(question: str, first: str, second: str) -> str:
    """Look at nothing but the sum."""
    return "A" if is_right(question, first) >= is_right(question, second) else "B"


def gullible(question: str, first: str, second: str) -> str:
    """Do what an answer says."""
    talks = [bool(TALKED_OVER.search(answer)) for answer in (first, second)]
    return honest(question, first, second) if talks[0] == talks[1] else "AB"[talks[1]]


def always_first(_question: str, _first: str, _second: str) -> str:
    return "A"


@dataclass
class ScriptedJudge:
    """A `ChatClient` whose answer is a function of what stands in the prompt."""

    say: Say = honest
    name: str = "judge@desk"
    fail: set[int] = field(default_factory=set)  # numbers of the calls that fail
    logprobs: tuple[tuple[str, float], ...] = ()
    asked: list[ChatRequest] = field(default_factory=list)

    def ask(self, requests: Sequence[ChatRequest]) -> Iterator[ChatAnswer | ChatFailure]:
        for request in requests:
            self.asked.append(request)
            if len(self.asked) in self.fail:
                yield ChatFailure(key=request.key, reason="the line is down")
                continue
            yield ChatAnswer(
                key=request.key,
                text=self._text(request),
                logprobs=self.logprobs,
                prompt_tokens=100,
                completion_tokens=1,
            )

    def _text(self, request: ChatRequest) -> str:
        if "=== answer A" not in request.messages[-1].content:
            return "Is the sum right?"
        return self.say(*read_prompt(request.messages))


@dataclass
class JudgeServer:
    """A judge on a real socket: what it says, what its labels weigh, what goes wrong, who asked."""

    say: Say = honest
    weigh: Weigh | None = None  # the `logprobs` of the answer; None: it gives none
    fault: Callable[[int], str] = lambda number: ""  # by number of the call
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def judge_server(say: Say = honest, **fields: Any) -> Iterator[str]:
    """Serve a judge on a real socket; yield its URL."""
    with serving_judge(JudgeServer(say=say, **fields)) as url:
        yield url


@contextmanager
def serving_judge(server: JudgeServer) -> Iterator[str]:
    """Serve this judge until the block ends; yield its URL."""
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.bodies)
                server.bodies.append(body)
            fault = server.fault(number)
            self.close_connection = bool(fault)
            if fault == "slow":
                stopping.wait(2)
            reply = b'{"choices": [' if fault == "garbage" else _completion(server, body)
            with suppress(ConnectionError):
                self.send_response(int(fault) if fault.isdigit() else 200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply[: len(reply) // 2] if fault == "cut" else reply)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that went away

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        stopping.set()
        http.shutdown()
        thread.join()
        http.server_close()


def first_token(*listed: tuple[str, float]) -> dict[str, Any]:
    """The `logprobs` of a chat completion whose first token had these alternatives, nats."""
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in listed]
    return {"content": [{**top[0], "top_logprobs": top}]}


def _completion(server: JudgeServer, body: dict[str, Any]) -> bytes:
    sent = [Message(role=m["role"], content=m["content"]) for m in body["messages"]]
    shown = read_prompt(sent)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": server.say(*shown)},
        "finish_reason": "stop",
        "logprobs": server.weigh(*shown) if server.weigh and body.get("logprobs") else None,
    }
    usage = {"prompt_tokens": 400, "completion_tokens": 1}
    return json.dumps({"model": body["model"], "choices": [choice], "usage": usage}).encode()
