"""Settings: small frozen dataclasses, filled from YAML and flags, one flat namespace for both.

A settings class may hold other settings classes as groups; outside Python their fields are
written flat (`lr: 1e-4`, `--lr 1e-4`), so a name means one thing everywhere. Ranges and help
texts stand in the annotation: `lr: Annotated[float, Meta(gt=0, description="…")]`.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Meta

from preftune.errors import SettingsError
from preftune.lines import RefusedError, parse_json

T = TypeVar("T")
_NO_JSON = {"broken_json", "blank_line", "wrong_type"}  # why a text is not a JSON object at all
_MERGE = "tag:yaml.org,2002:merge"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One setting as seen from outside: its flat name, type, default and help."""

    name: str
    type: Any
    default: Any  # dataclasses.MISSING: the user must give it
    help: str


def options(cls: type) -> Iterator[Option]:
    """Yield every setting of `cls`, groups flattened, in the order written."""
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            special = _special(field)
            for option in options(hint):  # type: ignore[arg-type]  # a class here, never an instance
                own = special.get(option.name, option.default)
                yield dataclasses.replace(option, default=own)
            continue
        meta = [m for m in get_args(hint)[1:] if isinstance(m, Meta)]
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        help_text = meta[0].description if meta and meta[0].description else ""
        yield Option(name=field.name, type=bare, default=_default(field), help=help_text)


def build(cls: type[T], flat: Mapping[str, Any], *, where: str = "settings") -> T:
    """Return `cls` filled from flat names, checked for type and range.

    Raises:
        SettingsError: an unknown name (with the nearest known one), a missing one, a wrong type
            or a number out of range; `where` says which file or command it came from.
    """
    known = {option.name: option for option in options(cls)}
    for name in flat:
        if name not in known:
            raise SettingsError(f"{where}: unknown setting {name!r}. {_nearest(name, known)}")
    for name, option in known.items():
        if option.default is dataclasses.MISSING and name not in flat:
            raise SettingsError(f"{where}: {name} is missing. Give it ({option.help})")
    for name, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"{where}: {name} is {value}. Give a finite number.")
    try:
        filled = msgspec.convert(_nest(cls, flat), cls, strict=False)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, SettingsError):  # raised by the class itself
            raise SettingsError(f"{where}: {error.__cause__}") from error
        what, _, at = str(error).partition(" - at `$.")
        name = at.rstrip("`").rsplit(".", 1)[-1].partition("[")[0]  # gates[0] is in gates
        got = f", got {flat[name]!r}" if name in flat else ""
        raise SettingsError(f"{where}: {name}: {what}{got}. {known[name].help}") from error
    return filled


def checked(settings: T) -> T:
    """Return settings made in Python after the same checks as those from a file."""
    return build(type(settings), flat(settings), where=type(settings).__name__)


def flat(settings: Any) -> dict[str, Any]:
    """Return the settings under their flat names, as plain values YAML can hold."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            found.update(flat(value))
        else:
            found[field.name] = msgspec.to_builtins(
                value, enc_hook=lambda v: str(v) if isinstance(v, Path) else v
            )
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the flat names of a settings file: YAML, or one JSON object.

    Raises:
        SettingsError: not readable, neither, not a mapping, or a name given twice.
    """
    try:
        loaded = _loaded(path)
    except RefusedError as refusal:
        what = refusal.problem.what
        raise SettingsError(f"{path}: {what}. Give one JSON object, or YAML.") from refusal
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = " ".join(str(error).split())
        raise SettingsError(f"{path}: {what}. Give a YAML file of settings.") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise SettingsError(f"{path}: not a mapping of names to values. Write `name: value` lines.")
    return loaded


def _loaded(path: Path) -> Any:
    """Return what a file holds: JSON where its name or its text says so, else YAML."""
    text = path.read_text(encoding="utf-8")
    try:
        return parse_json(text.encode())
    except RefusedError as refusal:
        if path.suffix == ".json" or refusal.problem.kind not in _NO_JSON:
            raise
    return _Loader(text).get_single_data()


class _Loader(yaml.SafeLoader):
    """Reads YAML; a name that a mapping gives twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping, after a look at its names."""
        found = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in found.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    what = f"the name {key.value!r} is given twice, keep one of them"
                    raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
                seen.add(key.value)
        return found


def write_yaml(settings: Any) -> str:
    """Return the resolved settings as YAML that `read_yaml` and `build` take back."""
    return yaml.safe_dump(flat(settings), sort_keys=False, allow_unicode=True)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _special(group: "dataclasses.Field[Any]") -> dict[str, Any]:
    """Return the defaults that a group has in this class and not by itself."""
    if group.default_factory is dataclasses.MISSING:
        return {}
    start = group.default_factory()
    return {
        field.name: getattr(start, field.name)
        for field in dataclasses.fields(start)
        if getattr(start, field.name) != _default(field)
    }


def _nearest(name: str, known: Mapping[str, Option]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


def _nest(cls: type, flat_values: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    nested: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            nested[field.name] = _nest(hint, {**_special(field), **flat_values})  # type: ignore[arg-type]
        elif field.name in flat_values:
            nested[field.name] = _as_path(hint, flat_values[field.name])
    return nested


def _as_path(hint: Any, value: Any) -> Any:
    wants_path = hint is Path or (isinstance(hint, UnionType) and Path in get_args(hint))
    return Path(value) if wants_path and isinstance(value, str) else value
