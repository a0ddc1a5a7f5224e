"""Templates of graders: `{{ item.answer }}`, `{{ sample.output_json.steps[0].result }}`.

A template is parsed once and filled in once: what is put in is never read as a template again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from preftune.errors import SettingsError
from preftune.graders.results import GradingError
from preftune.graders.sample import VARIABLES, Item, Sample, plain_text
from preftune.text import visible

BRACES = re.compile(r"\{\{(.*?)\}\}", re.S)
STEP = re.compile(r"""\.([\w-]+)|\[(\d+)\]|\[(?:"([^"\]]+)"|'([^'\]]+)')\]""")
UNCLOSED = re.compile(r"\{\{\s*(?:item|sample)\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """What stands between double braces: a root, `item` or `sample`, and the steps from there."""

    text: str
    root: str
    steps: tuple[str, ...]

    def find(self, sample: Sample, item: Item) -> Any:
        """Return the value it names.

        Raises:
            GradingError: the item or the sample has no such value.
        """
        if self.root == "item":
            value, steps = item, self.steps
        else:
            value, steps = sample.value(self.steps[0]), self.steps[1:]
        for step in steps:
            value = self._inside(value, step)
        return value

    def _inside(self, value: Any, step: str) -> Any:
        if isinstance(value, dict) and step in value:
            return value[step]
        if isinstance(value, list | tuple) and step.isdecimal() and int(step) < len(value):
            return value[int(step)]
        raise GradingError(f"{self.text}: there is no such value", invalid_variable_error=True)


Shown = Callable[[Variable, Any], str]


def as_text(_variable: Variable, value: Any) -> str:
    """Return a value as text, whatever variable it is of."""
    return plain_text(value)


@dataclass(frozen=True, slots=True)
class Template:
    """Text and variables in turn."""

    parts: tuple[str | Variable, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables in it, in order."""
        return tuple(part for part in self.parts if isinstance(part, Variable))

    def fill(self, sample: Sample, item: Item, shown: Shown = as_text) -> str:
        """Return the text with every variable in its place.

        Raises:
            GradingError: a variable names what is not there.
        """
        found = [
            part if isinstance(part, str) else shown(part, part.find(sample, item))
            for part in self.parts
        ]
        return "".join(found)


@lru_cache(maxsize=4096)
def parse_template(text: str) -> Template:
    """Return the template in a text.

    Raises:
        SettingsError: a variable that is neither `item.…` nor one of the sample's, or braces that
            do not close; the message holds no place, the caller knows the field.
    """
    pieces = BRACES.split(text)  # text, inside, text, inside, …, text
    for plain in pieces[::2]:
        if UNCLOSED.search(plain):
            raise SettingsError(
                f"{visible(plain[-60:])!r}: braces do not close. Write {{{{ … }}}}."
            )
    parts = [piece if at % 2 == 0 else _variable(piece.strip()) for at, piece in enumerate(pieces)]
    return Template(tuple(part for part in parts if part))


def _variable(text: str) -> Variable:
    root, steps = (
        re.split(r"(?=[.\[])", text, maxsplit=1) if re.search(r"[.\[]", text) else (text, "")
    )
    found = list(STEP.finditer(steps))
    named = tuple(next(group for group in one.groups() if group is not None) for one in found)
    is_whole = "".join(one[0] for one in found) == steps
    if root not in {"item", "sample"} or not is_whole:
        raise _unknown(text, "Use item.NAME or sample.NAME, then .NAME or [NUMBER].")
    if root == "sample" and (not named or named[0] not in VARIABLES):
        raise _unknown(text, f"A sample has {', '.join(VARIABLES)}.")
    return Variable(text=visible(text), root=root, steps=named)


def _unknown(text: str, fix: str) -> SettingsError:
    return SettingsError(f"unknown variable {visible(text[:80])!r}. {fix}")
