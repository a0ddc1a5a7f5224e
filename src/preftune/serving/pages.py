"""From a template to the text of a page: everything escaped, nothing hidden."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from preftune.text import visible_page


def render(template: str, **context: Any) -> str:
    """Return a page of the folder `templates`; values are escaped and made visible."""
    return TEMPLATES.get_template(template).render(context)


def _shown(value: Any) -> Any:
    return (
        visible_page(value) if isinstance(value, str) and not isinstance(value, Markup) else value
    )


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
