"""docs/api.md, docs/serve.md and the pages of docs/api say what the server does."""

import re
from pathlib import Path

import pytest

from preftune.jobs.extras import names_of
from preftune.serving.api.chat_bodies import ChatBody, CompletionBody
from preftune.serving.api.errors import REFUSALS
from preftune.serving.api.jobs_bodies import JobRequest
from preftune.serving.api.limits import LimitSettings
from preftune.serving.api.reference import document, pages, settings_page
from preftune.store.api_keys import KINDS, REQUESTS_PER_MINUTE

DOCS = Path(__file__).parents[2] / "docs"
API = (DOCS / "api.md").read_text()
SERVE = (DOCS / "serve.md").read_text()
DOCUMENT = document()
WRITTEN = {**pages(DOCUMENT), "settings.md": settings_page()}


def test_pages_are_those_of_the_code() -> None:
    found = {path.name: path.read_text() for path in (DOCS / "api").glob("*.md")}
    assert found == WRITTEN, "run: make docs"


def test_every_operation_has_its_place_on_one_page() -> None:
    text = "\n".join(WRITTEN.values())
    operations = [
        f"\n## {verb.upper()} {path}\n"
        for path, verbs in DOCUMENT["paths"].items()
        for verb in verbs
    ]
    assert len(operations) >= 25
    assert [text.count(heading) for heading in operations] == [1] * len(operations)


def test_every_object_that_a_page_links_to_is_on_it() -> None:
    for name, text in WRITTEN.items():
        heads = {re.sub(r"\s", "-", head.lower()) for head in re.findall("^## (.*)$", text, re.M)}
        assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= heads, name


def test_every_page_of_the_api_is_linked_and_every_link_leads_somewhere() -> None:
    for path in ("api.md", "serve.md", "moving-from-a-hosted-service.md"):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / path).read_text())
        assert [link for link in links if not (DOCS / link).exists()] == []
    assert {f"api/{name}" for name in WRITTEN} <= set(re.findall(r"\(([^)]+)\)", API + SERVE))


@pytest.mark.parametrize("body", [JobRequest, ChatBody, CompletionBody])
def test_every_field_that_is_taken_is_named(body: type[JobRequest | ChatBody]) -> None:
    page = WRITTEN["jobs.md" if body is JobRequest else "chat.md"] + WRITTEN["completions.md"]
    assert [name for name in body.model_fields if f"| `{name}` |" not in page] == []


def test_the_example_of_the_extension_is_one_that_jobs_take() -> None:
    (table,) = re.findall(r"## Ours: .*?\n\| name \|(.*?)\n\n", API, re.S)
    names = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert len(names) >= 8
    known = set(names_of("dpo"))
    assert [name for name in names if name not in known] == []


def test_statuses_scopes_and_limits_are_those_of_the_code() -> None:
    limits = LimitSettings()
    wanted = (
        f"{limits.file_mib} MiB, {limits.upload_gib} GiB within an hour, {limits.part_mib} MiB",
        f"{REQUESTS_PER_MINUTE:,} a minute",
        "epochs, batch, beta, seed | 50, 256, 2, 2³¹ − 1",
    )
    assert [words for words in wanted if words not in API] == []
    assert all(f"`{kind}`" in SERVE for kind in KINDS)
    assert REFUSALS.keys() == {"4XX", "5XX"}  # the pages leave these to api.md
    found = {
        int(code)
        for row in re.findall(r"^\| (\d{3}(?:, \d{3})*) \|", API, re.M)
        for code in row.split(", ")
    }
    assert found == {400, 401, 403, 404, 413, 429, 503, 507}
