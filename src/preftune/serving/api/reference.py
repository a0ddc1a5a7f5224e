"""Pages of the API's endpoints and settings, from the code itself: `make docs`."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from preftune.files import write_atomic
from preftune.serving.api import operations
from preftune.serving.api.router import api_routers
from preftune.serving.serve import ServeSettings
from preftune.settings import flat, options

NOTE = (
    "Written by `make docs` from the server's OpenAPI document; a test keeps it equal to it. "
    "[What is supported, refused and extended](../api.md), and how it says "
    "[no](../api.md#errors). A null is like a field left out."
)
TITLES = {
    "chat": "Chat",
    "completions": "Completions",
    "files": "Files",
    "fine_tuning/alpha": "Graders",
    "fine_tuning": "Jobs",
    "keys": "Keys",
    "models": "Models",
    "uploads": "Uploads",
}
SCHEMAS = "#/components/schemas/"
VERBS = ("get", "post", "delete")
REFUSED = ("4XX", "5XX", "422")
JSON = "application/json"
UNSAID = "Successful Response"  # what the library writes where nothing is said

Document = Mapping[str, Any]


def document() -> dict[str, Any]:
    """Return the OpenAPI document of all that is under /v1."""
    app = FastAPI()
    for router in api_routers():
        app.include_router(router)
    return operations.document(app)


def pages(doc: Document) -> dict[str, str]:
    """Return the Markdown of each page by the name of its file, such as `files.md`."""
    groups: dict[str, list[str]] = {}
    for path in doc["paths"]:
        groups.setdefault(_group(path), []).append(path)
    return {
        f"{TITLES[group].lower()}.md": _page(doc, TITLES[group], paths)
        for group, paths in sorted(groups.items())
    }


def settings_page() -> str:
    """Return the page of all that can be turned on the server beside the flags of the command."""
    values = flat(ServeSettings())
    rows = [
        (f"`{one.name}`", f"`{json.dumps(values[one.name])}`", one.help)
        for one in options(ServeSettings)
    ]
    said = "For `preftune serve --config FILE.yaml`. Written by `make docs` from the settings."
    return f"# Settings of the server\n\n{said}\n\n{_table(('name', 'default', 'what'), rows)}"


def _group(path: str) -> str:
    """Return the group of a path; one that belongs to none is an error of ours."""
    inner = path.removeprefix("/v1/")
    return next(group for group in TITLES if f"{inner}/".startswith(f"{group}/"))


def _page(doc: Document, title: str, paths: list[str]) -> str:
    parts = [f"# {title}", NOTE]
    used: dict[str, None] = {}
    parts += [
        _operation(doc["paths"][path][verb], f"{verb.upper()} {path}", used)
        for path in paths
        for verb in VERBS
        if verb in doc["paths"][path]
    ]
    parts += _objects(doc, used)
    return "\n\n".join(parts) + "\n"


def _operation(operation: Document, name: str, used: dict[str, None]) -> str:
    said = operation.get("description") or operation.get("summary") or ""
    parts = [f"## {name}", said.strip()]
    if given := [one for one in operation.get("parameters", ()) if one["in"] != "path"]:
        rows = [
            (
                f"`{one['name']}`",
                one["in"],
                _kind(one["schema"], used),
                _meaning(one["schema"], required=one.get("required", False), said=one),
            )
            for one in given
        ]
        parts.append(_table(("parameter", "in", "type", "meaning"), rows))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        parts += [f"Body, `{kind}`: {_kind(schema, used)}.", _fields(schema, used)]
    answers = (_answer(code, of, used) for code, of in operation["responses"].items())
    parts.append("".join(line for line in answers if line))
    return "\n\n".join(part.rstrip("\n") for part in parts if part)


def _answer(status: str, answer: Document, used: dict[str, None]) -> str:
    """Return the line of an answer; refusals are the same everywhere, and have their page."""
    if status in REFUSED:
        return ""
    bodies = [
        f"{'' if kind == JSON else f'`{kind}` '}{_kind(content.get('schema', {}), used)}"
        for kind, content in answer.get("content", {}).items()
    ]
    said = str(answer.get("description", "")).rstrip(".")
    words = [*([] if said == UNSAID else [said]), " or ".join(bodies)]
    return f"- **{status}** {': '.join(word for word in words if word)}\n"


def _objects(doc: Document, used: dict[str, None]) -> Iterator[str]:
    """Yield the objects that were named so far, and those that they name."""
    done: set[str] = set()
    while rest := [name for name in used if name not in done]:
        for name in rest:
            done.add(name)
            schema = doc["components"]["schemas"][name]
            said = str(schema.get("description", "")).strip()
            parts = (f"## {_title(name)}", said, _fields(schema, used).rstrip("\n"))
            yield "\n\n".join(part for part in parts if part)


def _fields(schema: Document, used: dict[str, None]) -> str:
    """Return the table of an object's fields; empty for what has none."""
    needed = schema.get("required", ())
    rows = [
        (f"`{key}`", _kind(of, used), _meaning(of, required=key in needed, said=of))
        for key, of in schema.get("properties", {}).items()
    ]
    return _table(("field", "type", "meaning"), rows) if rows else ""


def _title(name: str) -> str:
    """Return what an object is called: a page of files is `Listed_FileObject_` in the document."""
    outer, _, inner = name.rstrip("_").partition("_")
    return f"Page of {inner}" if inner and outer.startswith("Listed") else name


def _kind(schema: Document, used: dict[str, None]) -> str:
    """Return the type in words; objects with a name are noted, and linked."""
    if reference := schema.get("$ref"):
        name = str(reference).removeprefix(SCHEMAS)
        used.setdefault(name)
        title = _title(name)
        return f"[{title}](#{title.lower().replace(' ', '-')})"
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(_kind(one, used) for one in choices))
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{json.dumps(one)}`" for one in values)
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}), used)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'], used)}"
    return f"{kind}{_bounds(schema)}"


def _bounds(schema: Document) -> str:
    words = {
        "minimum": "≥ {}",
        "exclusiveMinimum": "> {}",
        "maximum": "≤ {}",
        "exclusiveMaximum": "< {}",
        "minLength": "≥ {} characters",
        "maxLength": "≤ {} characters",
    }
    found = [text.format(_whole(schema[name])) for name, text in words.items() if name in schema]
    return f" ({', '.join(found)})" if found else ""


def _whole(bound: float) -> float:
    return int(bound) if float(bound).is_integer() else bound


def _meaning(schema: Document, *, required: bool, said: Document) -> str:
    parts = [str(said.get("description", "")).strip().rstrip(".")]
    if required:
        parts.append("required")
    elif schema.get("default") is not None:
        parts.append(f"default `{json.dumps(schema['default'])}`")
    return "; ".join(part for part in parts if part)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def write(folder: Path) -> None:
    """Write all pages into a folder, and take away pages of groups that are gone."""
    wanted = {**pages(document()), "settings.md": settings_page()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        write_atomic(folder / name, text)
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
