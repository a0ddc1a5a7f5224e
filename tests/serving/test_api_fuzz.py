"""R8: generated requests over the whole OpenAPI document; the server never breaks nor blabs.

`PREFTUNE_FUZZ_CASES=2000 pytest tests/serving/test_api_fuzz.py` sends that many.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import schemathesis
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from tests.serving.conftest import App, sign_in

from preftune.serving.security import csrf_token

Operation = Any  # the library's own generic types say nothing more here
Case = Any
CASES = int(os.environ.get("PREFTUNE_FUZZ_CASES", "240"))
SLOWEST_S = 10.0
LEAKS = re.compile(r"Traceback|SELECT |INSERT |sqlalchemy|sqlite|/src/|\.py\b|labels\.db")
ORIGIN = "http://127.0.0.1:8000"


def operations(app: App) -> list[Operation]:
    schema = schemathesis.openapi.from_dict(app.asgi.openapi())
    schema.app = app.asgi
    return [schema[path][method.lower()] for path, method in described(app)]


def described(app: App) -> list[tuple[str, str]]:
    """Path and method of every operation."""
    paths: dict[str, dict[str, object]] = app.asgi.openapi()["paths"]
    return [(path, method) for path, methods in paths.items() for method in methods]


def send(app: App, case: Case, data: st.DataObject, seen: Counter[int]) -> None:
    """Send a case as an admin who is signed in, mostly to a project that is there."""
    places = case.path_parameters
    if places and "project_id" in places and data.draw(st.integers(0, 3)):
        places["project_id"] = app.cast.project_id
    token = sign_in(app.database, app.cast.ids["admin"])
    headers = {
        "Accept": data.draw(st.sampled_from(["application/json", "text/html"])),
        "Cookie": f"preftune={token}",
        "Origin": ORIGIN,
        "X-CSRF-Token": csrf_token(token),
    }
    began = time.monotonic()
    answer = case.call(base_url=ORIGIN, headers=headers)
    assert time.monotonic() - began < SLOWEST_S
    said = answer.content.decode()
    assert answer.status_code < 500, said
    assert not LEAKS.search(said), said
    seen[answer.status_code] += 1


def fuzz(app: App, operation: Operation, count: int, seen: Counter[int]) -> None:
    good = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    bad = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @hypothesis.settings(max_examples=count, database=None)
    @hypothesis.given(case=good | bad, data=st.data())
    def every_case(case: Case, data: st.DataObject) -> None:
        send(app, case, data, seen)

    run: Callable[[], None] = every_case
    run()


def test_r08_no_generated_request_breaks_the_server(app: App) -> None:
    found = operations(app)
    seen: Counter[int] = Counter()
    for operation in found:
        fuzz(app, operation, -(-CASES // len(found)), seen)
    assert seen.total() >= 0.8 * CASES
    assert seen[200] > 0
    assert seen[422] > 0
