"""What raters are asked, and how the work is shared out: every setting of a project."""

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from fastapi import APIRouter
from starlette.responses import Response

from preftune.serving.lead_cache import count_anew
from preftune.serving.lead_pages import At
from preftune.serving.lead_payload import Done, Sheet
from preftune.settings import Option, build, flat, options
from preftune.store.overview import item_counts
from preftune.store.projects import ProjectSettings, change_settings, project

router = APIRouter()
NUMBERS = {int: "int", float: "float"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One setting as a form has it."""

    name: str
    label: str
    help: str
    kind: str  # choice, flag, int, float or list
    choices: tuple[str, ...]
    value: Any


@router.get("/settings", include_in_schema=False)
def settings_page(at: At) -> Response:
    """Show all settings with their help."""
    with at.database.read() as db:
        values = flat(project(db, at.project_id).settings)
        counts = item_counts(db, at.project_id)
    entries = [_entry(option, values[option.name]) for option in options(ProjectSettings)]
    return at.page("lead_settings.html.jinja", entries=entries, counts=counts)


@router.post("/settings")
def change(at: At, body: Sheet) -> Done:
    """Let other settings hold from now on."""
    wanted = build(ProjectSettings, body.settings, where="settings")
    at.database.write(lambda db: change_settings(db, at.project_id, wanted, by=at.user_id))
    count_anew(at.database, at.project_id)
    return Done(message="These settings hold from now on.")


def _entry(option: Option, value: Any) -> Entry:
    choices = get_args(option.type) if get_origin(option.type) is Literal else ()
    kind = NUMBERS.get(option.type, "list")
    if choices:
        kind = "choice"
    elif option.type is bool:
        kind = "flag"
    return Entry(
        name=option.name,
        label=option.name.replace("_", " ").capitalize(),
        help=option.help,
        kind=kind,
        choices=choices,
        value=value,
    )
