"""How the server is, for those who run it; and the API's own description."""

import tempfile
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from preftune import __version__
from preftune.errors import StoreError
from preftune.files import make_folder
from preftune.serving.api.access import identify
from preftune.serving.api.errors import ApiError, is_api
from preftune.serving.meters import CONTENT_TYPE, Labels, Meters, metric
from preftune.serving.settings import LOOPBACK
from preftune.serving.web import page
from preftune.store.api_keys import ALL, allows
from preftune.store.database import Database
from preftune.store.jobs import count_by_state
from preftune.wire.chat import Health

router = APIRouter(include_in_schema=False)
ABOUT = "Files, fine-tuning jobs, models, chat and graders, in the shape of OpenAI's API."
WAITING = ("validating_files", "queued")


@router.get("/healthz")
async def healthz() -> JSONResponse:
    """Say that the process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
def readyz(request: Request) -> JSONResponse:
    """Say whether work can be taken on: 503 names what is missing."""
    problems = list(_problems(request))
    said = {"status": "not ready" if problems else "ready", "problems": problems}
    return JSONResponse(said, 503 if problems else 200)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Give the figures of the server to Prometheus: from this machine, or with a key for all."""
    here = request.client is not None and request.client.host in LOOPBACK
    local = here and request.url.hostname in LOOPBACK  # and not by a page under a foreign name
    if not local and not allows((await identify(request)).scopes, ALL):
        raise ApiError(403, f"The figures need a key with the scope '{ALL}'.")
    health = await request.app.state.backend.health()
    states = await run_in_threadpool(_jobs_by_state, request.app.state.database)
    meters: Meters = request.app.state.meters
    lines = [*meters.lines(), *_job_lines(states), *_backend_lines(health)]
    return PlainTextResponse("\n".join(lines) + "\n", media_type=CONTENT_TYPE)


@router.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    """Give the description of the API to programs."""
    return JSONResponse(document(request.app))


@router.get("/api")
def api_page(request: Request) -> HTMLResponse:
    """Show the description of the API to people."""
    return page(request, "api.html.jinja", groups=_groups(document(request.app)), about=ABOUT)


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of all that is under /v1."""
    known: dict[str, Any] | None = getattr(app.state, "document", None)
    if known is None:
        routes = [one for one in iter_route_contexts(app.routes) if is_api(str(one.path or ""))]
        known = get_openapi(title="preftune", version=__version__, description=ABOUT, routes=routes)
        app.state.document = known
    return known


def _problems(request: Request) -> Iterator[str]:
    """Yield what keeps the server from taking on work."""
    state = request.app.state
    database: Database = state.database
    try:
        database.write(lambda db: db.execute(select(1)))
        make_folder(database.files)
        with tempfile.TemporaryFile(dir=database.files) as file:
            file.write(bytes(4096))
    except (OSError, StoreError, TimeoutError):
        yield "the store cannot be written"
    if not state.supervisor.alive:
        yield "nobody looks after the jobs"


def _jobs_by_state(database: Database) -> dict[str, int]:
    with database.read() as db:
        return {str(state): count for state, count in count_by_state(db).items()}


def _job_lines(states: dict[str, int]) -> Iterator[str]:
    by_state: dict[Labels, float] = {
        (("state", state),): float(count) for state, count in sorted(states.items())
    }
    yield from metric("preftune_jobs", "gauge", "Jobs by state.", by_state)
    waiting = float(sum(states.get(state, 0) for state in WAITING))
    yield from metric("preftune_jobs_waiting", "gauge", "Jobs that wait.", {(): waiting})


def _backend_lines(health: Health | None) -> Iterator[str]:
    """Yield the figures of the process that generates text; without one there are none."""
    if health is None:
        return
    for name, kind, about, value in (
        ("preftune_tokens_total", "counter", "Tokens generated.", health.written_tokens),
        ("preftune_replies", "gauge", "Replies being written.", health.writing),
        ("preftune_replies_waiting", "gauge", "Requests that wait.", health.waiting),
    ):
        yield from metric(name, kind, about, {(): float(value)})


def _groups(doc: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the operations of a document by their first tag, as the page shows them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in doc["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(_operation(doc, path, method, operation))
    return groups


def _operation(doc: dict[str, Any], path: str, method: str, of: dict[str, Any]) -> dict[str, Any]:
    body = next(iter(of.get("requestBody", {}).get("content", {}).items()), None)
    schema = _resolved(doc, body[1].get("schema", {})) if body else {}
    needed = schema.get("required", ())
    fields = [
        {"name": name, "kind": _kind(one), "needed": name in needed, "about": _about(one)}
        for name, one in schema.get("properties", {}).items()
    ]
    given = [
        {
            "name": one["name"],
            "kind": _kind(one["schema"]),
            "needed": one.get("required", False),
            "about": one.get("description") or _about(one["schema"]),
        }
        for one in of.get("parameters", [])
    ]
    about = of.get("description", "")
    return {
        "method": method.upper(),
        "path": path,
        "about": about,
        "given": given,
        "body": body[0] if body else "",
        "fields": fields,
    }


def _resolved(doc: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = doc["components"]["schemas"][name] if name else schema
    return found


def _about(schema: dict[str, Any]) -> str:
    return str(schema.get("description", ""))


def _kind(schema: dict[str, Any]) -> str:
    """Return the type of a value in a few words."""
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    for one in ("anyOf", "oneOf"):
        if one in schema:
            return " or ".join(dict.fromkeys(_kind(choice) for choice in schema[one]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
