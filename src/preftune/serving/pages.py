"""From a template to the text of a page: everything escaped, nothing hidden."""

import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HIDDEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")  # as in static/dom.js
KEPT = "\n\t\u200c\u200d"  # the joiners: several scripts and emoji need them


def visible(text: str) -> str:
    """Return the text with every character that nobody could see spelt out, such as ⟨U+202E⟩.

    New lines, tabs and the two joiners stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in HIDDEN and c not in KEPT else c
        for c in text
    )


def render(template: str, **context: Any) -> str:
    """Return a page of the folder `templates`; values are escaped and made visible."""
    return TEMPLATES.get_template(template).render(context)


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
