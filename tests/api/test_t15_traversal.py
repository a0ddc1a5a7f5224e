"""T15 and T6: names are never paths, on any parameter; and secrets stand nowhere."""

import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
from starlette.testclient import TestClient
from tests.api.conftest import MODEL, Api
from tests.store.sizes import size

from preftune.serving.api.operations import document

EACH = size(6, 250)  # strings that every parameter is given; the first of each name gets all
TARGETS = ("etc/passwd", "proc/self/environ", "canary.txt", "store.db", "config.json")
CANARY = "FILE-CANARY-7f3a"
NAMES = {"model", "training_file", "file_id", "filename", "suffix"}
watched = threading.local()


def strings(folder: Path) -> list[str]:
    """Return more than 200 ways to say a path that is none of the caller's."""
    ups = ("../", "..\\", "..%2f", "%2e%2e/", "..%252f", "..%c0%af", "....//", "..;/", "./../")
    deep = [up * count + target for up, count, target in itertools.product(ups, (1, 3, 6), TARGETS)]
    whole = [f"{start}{target}" for start in ("/", "//", "file:///", "~/") for target in TARGETS]
    odd = [f"{MODEL}/../{target}" for target in TARGETS]
    odd += [f"{target}%00.jsonl" for target in TARGETS] + [f"C:\\{target}" for target in TARGETS]
    here = [f"{folder}/{target}" for target in TARGETS] + ["..", ".", "/", "%2e%2e", "~root", "\\"]
    inside = [f"blobs/../{target}" for target in TARGETS]
    inside += [f"jobs/ftjob-1/attempt-1/../../../{target}" for target in TARGETS]
    unc = [f"\\\\127.0.0.1\\{target}" for target in TARGETS]
    tuned = [f"ft:{up}{target}:preftune::12345678" for up in ups[:4] for target in TARGETS]
    many = [("../" * count) + "etc/passwd" for count in range(2, 30)]
    return list(dict.fromkeys(deep + whole + odd + here + inside + unc + tuned + many))


def test_there_are_enough_of_them(tmp_path: Path) -> None:
    assert len(strings(tmp_path)) >= 200


@contextmanager
def opened() -> Iterator[list[str]]:
    """Collect the paths that this process opens meanwhile, in any thread."""
    found: list[str] = []
    watching.append(found)
    try:
        yield found
    finally:
        watching.remove(found)


watching: list[list[str]] = []


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and watching and isinstance(arguments[0], str | bytes | Path):
        path = arguments[0]
        for found in watching:
            found.append(path.decode() if isinstance(path, bytes) else str(path))


sys.addaudithook(hear)


def places(api: Api) -> Iterator[tuple[str, str, str, str]]:
    """Yield method, path, where and name of every string that a request can bring."""
    doc = document(api.asgi)
    for path, methods in doc["paths"].items():
        for method, operation in methods.items():
            for one in operation.get("parameters", []):
                if "string" in str(one["schema"]):
                    yield method, path, one["in"], one["name"]
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                where = "form" if "form-data" in kind else "json"
                schema = content["schema"]
                named = schema.get("$ref", "").rpartition("/")[2]
                schema = doc["components"]["schemas"][named] if named else schema
                for name, of in schema.get("properties", {}).items():
                    if "string" in str(of) or "$ref" in str(of):
                        yield method, path, where, name


def body_of(path: str) -> dict[str, Any]:
    """Return a body that a route would take but for one field."""
    if path.endswith("/uploads"):
        return {"filename": "a.jsonl", "purpose": "evals", "bytes": 1, "mime_type": "x"}
    if "completions" in path:
        asked: Any = {"messages": [{"role": "user", "content": "a"}]}
        return {"model": "none", **(asked if "chat" in path else {"prompt": "a"})}
    if path.endswith("/jobs"):
        return {"model": MODEL, "training_file": "file-0"}
    if path.endswith("/keys"):
        return {"name": "a"}
    if path.endswith("/complete"):
        return {"part_ids": ["part_0"]}
    return {"model_sample": "a", "grader": {"type": "string_check"}}


def ask(client: TestClient, place: tuple[str, str, str, str], text: str) -> httpx2.Response:
    method, path, where, name = place
    at = path.replace(f"{{{name}}}", quote(text, safe="")) if where == "path" else path
    for other in ("model", "file_id", "upload_id", "job_id", "key_id", "permission_id"):
        at = at.replace(f"{{{other}}}", "none")
    query = {name: text} if where == "query" else None
    headers = {name: text.encode()} if where == "header" else None
    if where == "form":
        fields = {"purpose": "evals", name: text} if name != "file" else {"purpose": "evals"}
        file = {"file": (text if name == "file" else "a.bin", b"x", "application/octet-stream")}
        return client.request(method, at, data=fields, files=file)
    body = body_of(path) | {name: text} if where == "json" else None
    return client.request(method, at, params=query, headers=headers, json=body)  # type: ignore[arg-type]  # raw header values


def test_t15_no_string_of_any_parameter_opens_a_file_outside_the_store(
    api: Api, tmp_path: Path
) -> None:
    (tmp_path / "canary.txt").write_text(CANARY)
    (api.database.files.parent / "canary.txt").write_text(CANARY)
    client, every = api.client(), strings(tmp_path)
    asked, known = 0, set[str]()
    with opened() as paths:
        for number, place in enumerate(places(api)):
            is_new = place[3] in NAMES - known
            known.add(place[3])
            for text in every if is_new else some(every, number):
                answer = ask(client, place, text)
                asked += 1
                said = answer.text
                assert answer.status_code < 500, (place, text, said)
                assert CANARY not in said, (place, text)
                assert "root:" not in said, (place, text)
                if place[2] == "path" and text.strip("."):  # a client drops whole dots itself
                    assert answer.status_code >= 400, (place, text, said)
    assert asked >= 1000
    foreign = [path for path in paths if not allowed(path, api)]
    assert not foreign


def some(every: Sequence[str], number: int) -> Sequence[str]:
    """Return a few strings, other ones for each parameter."""
    start = number * EACH % len(every)
    return (*every, *every)[start : start + EACH]


def allowed(path: str, api: Api) -> bool:
    """Whether a file is the store's, a model's that was configured, or the program's own."""
    where = Path(path).resolve()
    program = (Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2] / "src")
    roots = (api.database.files, *api.bases.folders.values(), *program)
    ours = any(root.resolve() in (where, *where.parents) for root in roots)
    beside = where == api.database.files.parent.resolve()  # to make the name of ours durable
    return (ours or beside) and "canary" not in path


def test_t06_secrets_are_in_no_answer_log_or_file(api: Api, tmp_path: Path) -> None:
    """Keys, and what the environment holds, are searched for in all that the server has said."""
    client, wrong = api.client(), api.with_secret("pft_CANARY-wrong-key")
    made = client.post("/v1/keys", json={"name": "a"}).json()["key"]
    answers = [
        client.get("/v1/keys").text,
        client.get("/metrics").text,
        client.get("/openapi.json").text,
        client.get("/v1/files", headers={"api-key": "pft_CANARY"}).text,
        wrong.get("/v1/files").text,
        client.post("/v1/keys", json={"name": made, "scopes": [made]}).text,
        client.get(f"/v1/files/{made}").text,
    ]
    assert not [text for text in answers[:5] if made in text or api.secret in text]
    assert "CANARY" not in "".join(answers)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [one for one in kept if api.secret.encode() in one or b"wrong-key" in one]
