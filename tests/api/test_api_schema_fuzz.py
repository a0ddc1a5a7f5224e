"""R8: generated requests over the API's own document; it never breaks, and answers as it says.

`PREFTUNE_FUZZ_CASES=2000 pytest tests/api/test_api_schema_fuzz.py` sends that many.
"""

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.api.conftest import MODEL, URL, Api
from tests.serving.test_security import LEAKS

from preftune.serving.api.operations import document
from preftune.serving.base_models import BaseModels
from preftune.store.database import Database

Operation = Any  # the library's own generic types say nothing more here
Case = Any
CASES = int(os.environ.get("PREFTUNE_FUZZ_CASES", "160"))
ROWS = int(os.environ.get("PREFTUNE_FUZZ_ROWS", "5000"))
SLOWEST_S = 10.0
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
CHATS = ("/v1/chat/completions", "/v1/completions")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bases: BaseModels) -> Iterator[Api]:
    """One server for all cases."""
    with Database(tmp_path_factory.mktemp("fuzz") / "store.db") as database:
        made = Api(database=database, bases=bases)
        with made.clients:
            yield made


@pytest.fixture(scope="module")
def places(world: Api) -> dict[str, list[str]]:
    """Things that are there, so that requests find them."""
    rows = b"".join(
        b'{"messages":[{"role":"user","content":"%d"},{"role":"assistant","content":"a"}]}\n' % n
        for n in range(10)
    )
    client, file_id = world.client(), world.file_id(rows)
    said = {"filename": "b.jsonl", "purpose": "fine-tune", "bytes": 5, "mime_type": "text/jsonl"}
    upload = client.post("/v1/uploads", json=said).json()["id"]
    sent = {"model": MODEL, "training_file": file_id}
    jobs = [client.post("/v1/fine_tuning/jobs", json=sent).json()["id"] for _ in range(3)]
    return {"file_id": [file_id], "upload_id": [upload], "job_id": jobs, "model": [MODEL]}


def operations(api: Api) -> list[Operation]:
    schema = schemathesis.openapi.from_dict(document(api.asgi))
    schema.app = api.asgi
    return [
        schema[path][method]
        for path, methods in document(api.asgi)["paths"].items()
        for method in methods
    ]


def send(api: Api, case: Case, data: st.DataObject, places: dict[str, list[str]]) -> int:
    """Send a case, mostly to things that are there; check its answer, and return the status."""
    for name, known in places.items():
        if name in (case.path_parameters or {}) and data.draw(st.integers(0, 2)):
            case.path_parameters[name] = data.draw(st.sampled_from(known))
    if case.path in CHATS and isinstance(case.body, dict) and case.body.get("model") == MODEL:
        case.body["model"] = "none"  # no process generates text in this test
    began = time.monotonic()
    answer = case.call(base_url=URL, headers={"Authorization": f"Bearer {api.secret}"})
    assert time.monotonic() - began < SLOWEST_S
    said = answer.content.decode(errors="replace")
    assert answer.status_code < 500, said
    assert answer.status_code not in (409, 422), said
    assert not LEAKS.search(said) or "/content" in case.path, said
    case.validate_response(answer, checks=CHECKS)
    return int(answer.status_code)


def test_r08_no_generated_request_breaks_the_api_and_answers_match_the_document(
    world: Api, places: dict[str, list[str]]
) -> None:
    seen: Counter[int] = Counter()
    found = operations(world)
    for operation in found:
        fuzz(world, operation, -(-CASES // len(found)), seen, places)
    assert seen.total() >= 0.8 * CASES
    assert seen[200] > 0
    assert seen[400] > 0
    assert seen[404] > 0


def fuzz(
    api: Api, operation: Operation, count: int, seen: Counter[int], places: dict[str, list[str]]
) -> None:
    good = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    bad = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @hypothesis.settings(max_examples=count, database=None, deadline=None)
    @hypothesis.given(case=good | bad, data=st.data())
    def every_case(case: Case, data: st.DataObject) -> None:
        seen[send(api, case, data, places)] += 1

    run: Callable[[], None] = every_case
    run()


def mangled(draw: random.Random) -> bytes:
    """Return one line that may be a training row, or nothing at all."""
    user = {"role": draw.choice(["user", "system", "tool", "usr"]), "content": "why?"}
    odd: list[Any] = ["so", "", None, 3, ["x"], {"a": []}]
    said = {"role": "assistant", "content": draw.choice(odd)}
    row: dict[str, Any] = draw.choice(
        [
            {"messages": [user, said]},
            {
                "input": {"messages": [user]},
                "preferred_output": [said],
                "non_preferred_output": [user],
            },
            {"type": draw.choice(["pair", "prompt", "x", 1]), "id": "1", "prompt": user},
            {"prompt": "a", "completion": said},
            {"messages": said, "tools": draw.choice([1, "[", [1], None])},
        ]
    )
    line = json.dumps(row).encode()
    kind = draw.randrange(12)
    if kind == 0:
        return draw.randbytes(draw.randrange(60)).replace(b"\n", b"")
    if kind == 1:
        return line[: draw.randrange(len(line))]
    if kind == 2:
        at = draw.randrange(len(line))
        return line[:at] + draw.randbytes(1).replace(b"\n", b"x") + line[at + 1 :]
    if kind == 3:
        return line.replace(b'"why?"', draw.choice([b"NaN", b"1e999", b'"\\ud800"', b'"\\u0000"']))
    if kind == 4:
        return line.replace(b"}", b', "role": "again"}', 1)
    return line


def test_t11_no_training_file_breaks_upload_or_job(world: Api) -> None:
    """R8: 5,000 mangled rows go through upload, check and job; refused by line, or taken."""
    draw, client, sent, taken = random.Random(8), world.client(), 0, 0
    while sent < ROWS:
        lines = [mangled(draw) for _ in range(draw.choice([1, 12, 100, 300]))]
        sent += len(lines)
        answer = world.upload(b"\n".join(lines), client=client)
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            assert re.match(r"Line \d+: |The file", answer.json()["error"]["message"]), answer.text
            good = [line for line in lines if is_row(line)]
            answer = world.upload(b"\n".join(good), client=client)
            if not good:
                continue
        assert answer.status_code == 200, answer.text
        taken += 1
        method = draw.choice(["supervised", "dpo"])
        asked = {"model": MODEL, "training_file": answer.json()["id"], "method": {"type": method}}
        asked["method"] |= {method: {}}
        job = client.post("/v1/fine_tuning/jobs", json=asked)
        assert job.status_code in (200, 400, 429), job.text
        if job.status_code == 400:
            said = job.json()["error"]
            assert said["param"] == "training_file", said
            assert re.search(r"Example \d+|example\(s\)|has no rows", said["message"]), said
    assert taken > 10


def is_row(line: bytes) -> bool:
    """Whether this machine's plain reader and the rules of the contract take a line."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(_: str) -> None:
        raise ValueError

    try:
        row = json.loads(line.decode(), object_pairs_hook=once, parse_constant=refuse)
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, AssertionError):
        return False
    return isinstance(row, dict)
