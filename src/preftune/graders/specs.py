"""The graders as records, in the JSON form of OpenAI's API, and the check of what a user sends."""

import ast
import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from preftune.errors import SettingsError
from preftune.graders.formula import parse_formula
from preftune.graders.similarity import METRICS
from preftune.graders.templates import parse_template
from preftune.settings import read_yaml
from preftune.text import visible

MOST_SOURCE_BYTES = 256 * 1024
Operation = Literal["eq", "ne", "neq", "like", "ilike"]
Text = Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class StringCheck:
    """1 or 0: input equals the reference (eq), differs (ne), contains it (like; ilike caseless)."""

    name: Text
    type: Literal["string_check"] = "string_check"
    input: str
    reference: str
    operation: Operation


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSimilarity:
    """How alike input and reference are, 0 to 1; at `pass_threshold` and above it is a pass."""

    name: Text
    type: Literal["text_similarity"] = "text_similarity"
    input: str
    reference: str
    evaluation_metric: str
    pass_threshold: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateMessage:
    """One message of a model grader's prompt; `content` is text or text parts, with templates."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Any
    type: Literal["message"] | None = None

    @property
    def text(self) -> str:
        """The content as one text.

        Raises:
            SettingsError: images, audio, or another thing that is no text.
        """
        parts = self.content if isinstance(self.content, list) else [self.content]
        return "".join(_part(part) for part in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How a grading model answers; None leaves it to the default here."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: int | None = None
    max_completions_tokens: Annotated[int, Meta(ge=1)] | None = None  # the name in OpenAI's API
    reasoning_effort: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreModel:
    """A number from a model, clipped to `range`."""

    name: Text
    type: Literal["score_model"] = "score_model"
    model: Text
    input: Annotated[tuple[TemplateMessage, ...], Meta(min_length=1)]
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelModel:
    """1 when a model gives one of the passing labels, 0 when it gives another."""

    name: Text
    type: Literal["label_model"] = "label_model"
    model: Text
    input: Annotated[tuple[TemplateMessage, ...], Meta(min_length=1)]
    labels: Annotated[tuple[Text, ...], Meta(min_length=1)]
    passing_labels: Annotated[tuple[Text, ...], Meta(min_length=1)]
    sampling_params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonGrader:
    """What `grade(sample, item)` of the source returns; `image_tag` is taken and means nothing."""

    name: Text
    type: Literal["python"] = "python"
    source: str
    image_tag: str | None = None


Leaf = StringCheck | TextSimilarity | ScoreModel | LabelModel | PythonGrader


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiGrader:
    """A formula over the rewards of other graders, by name."""

    name: Text
    type: Literal["multi"] = "multi"
    graders: Mapping[str, Leaf]
    calculate_output: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outer:
    """A multi grader whose graders are read already."""

    name: Text
    type: Literal["multi"] = "multi"
    graders: Any
    calculate_output: str


Grader = Leaf | MultiGrader
LEAVES: dict[str, type[Leaf]] = {
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "score_model": ScoreModel,
    "label_model": LabelModel,
    "python": PythonGrader,
}
TYPES = (*LEAVES, "multi")
TEXT_PARTS = {"text", "input_text", "output_text"}


def validate(spec: object, *, where: str = "grader") -> Grader:
    """Return the grader that a JSON object describes, everything in it checked but its data.

    Args:
        spec: as in OpenAI's API; a null counts as left out.
        where: how errors call it.

    Raises:
        SettingsError: a field unknown, missing or of the wrong type; an unknown type, metric,
            operation or variable; a source without `grade` or that does not parse; a formula that
            does not parse or names what is not there; a multi grader inside another.
    """
    if not isinstance(spec, Mapping):
        raise SettingsError(f"{where}: not an object. Give {{type, name, …}}.")
    given = {str(name): value for name, value in spec.items() if value is not None}
    kind = given.get("type")
    if kind == "multi":
        return _multi(given, where)
    if not isinstance(kind, str) or kind not in LEAVES:
        known = ", ".join(TYPES)
        raise SettingsError(f"{where}.type: {_shown(kind)} is no grader. Use one of: {known}.")
    leaf = cast(Leaf, _record(given, LEAVES[kind], where))
    _check(leaf, where)
    return leaf


def read_grader(path: Path) -> Grader:
    """Return the grader of a YAML or JSON file.

    Raises:
        SettingsError: not readable, or what `validate` refuses.
    """
    return validate(read_yaml(path), where=str(path))


def leaves(grader: Grader) -> dict[str, Leaf]:
    """Return the graders that look at samples, by the names that a formula uses."""
    if isinstance(grader, MultiGrader):
        return dict(grader.graders)
    return {grader.name: grader}


def _record(given: dict[str, Any], cls: type, where: str) -> object:
    known = {one.name: one for one in fields(cls)}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            fix = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise SettingsError(f"{where}: unknown field {_shown(name)}. {fix}")
    for name, one in known.items():
        if one.default is MISSING and one.default_factory is MISSING and name not in given:
            raise SettingsError(f"{where}.{name}: is missing. Give it.")
    try:
        return msgspec.convert(given, cls, strict=True)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at `$.")
        raise SettingsError(f"{where}.{at.rstrip('`')}: {what}. Correct it.") from error


def _multi(given: dict[str, Any], where: str) -> MultiGrader:
    inner = _inner(given.get("graders"), f"{where}.graders")
    found: dict[str, Leaf] = {}
    for name, spec in inner.items():
        if isinstance(spec, Mapping) and spec.get("type") == "multi":
            raise SettingsError(f"{where}.graders.{name}: a multi grader. They do not nest.")
        found[name] = cast(Leaf, validate(spec, where=f"{where}.graders.{visible(name)}"))
    rest = {name: value for name, value in given.items() if name != "graders"}
    outer = cast(_Outer, _record({**rest, "graders": found}, _Outer, where))
    names = _renamed(found, outer.calculate_output)
    try:
        parse_formula(outer.calculate_output, names)
    except SettingsError as error:
        raise SettingsError(f"{where}.{error}") from error
    return MultiGrader(name=outer.name, graders=names, calculate_output=outer.calculate_output)


def _inner(value: object, where: str) -> dict[str, object]:
    """Return the graders inside by name: of one object, a list, or objects by name."""
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        value = [value]
    if isinstance(value, list):
        names = [one.get("name") if isinstance(one, Mapping) else None for one in value]
        if len({*names}) < len(names) or not all(isinstance(name, str) for name in names):
            raise SettingsError(f"{where}: names are missing or given twice. Name each apart.")
        value = dict(zip(map(str, names), value, strict=True))
    if not isinstance(value, Mapping) or not value:
        raise SettingsError(f"{where}: no graders. Give a list, or objects by name.")
    return {str(name): spec for name, spec in value.items()}


def _renamed(found: dict[str, Leaf], formula: str) -> dict[str, Leaf]:
    """Return the graders by their keys, or by their own names where the formula uses those."""
    own = {leaf.name: leaf for leaf in found.values()}
    if len(own) < len(found):
        return found
    try:
        parse_formula(formula, found)
    except SettingsError:
        try:
            parse_formula(formula, own)
        except SettingsError:
            return found
        return own
    return found


def _check(leaf: Leaf, where: str) -> None:
    match leaf:
        case StringCheck():
            _templates(where, input=leaf.input, reference=leaf.reference)
        case TextSimilarity():
            _metric(leaf.evaluation_metric, where)
            _templates(where, input=leaf.input, reference=leaf.reference)
        case PythonGrader():
            _source(leaf.source, where)
        case ScoreModel() | LabelModel():
            for number, message in enumerate(leaf.input):
                place = f"{where}.input[{number}]"
                try:
                    text = message.text
                except SettingsError as error:
                    raise SettingsError(f"{place}.{error}") from error
                _templates(place, content=text)
            _model(leaf, where)


def _templates(where: str, **texts: str) -> None:
    for name, text in texts.items():
        try:
            parse_template(text)
        except SettingsError as error:
            raise SettingsError(f"{where}.{name}: {error}") from error


def _metric(metric: str, where: str) -> None:
    if metric == "cosine":
        raise SettingsError(
            f"{where}.evaluation_metric: cosine needs an embedding model and gives no reward to "
            "train on. Use fuzzy_match, bleu, gleu, meteor or rouge_l."
        )
    if metric not in METRICS:
        known = ", ".join(METRICS)
        raise SettingsError(
            f"{where}.evaluation_metric: {_shown(metric)} is unknown. Use one of: {known}."
        )


def _source(source: str, where: str) -> None:
    if len(source.encode(errors="replace")) > MOST_SOURCE_BYTES:
        raise SettingsError(f"{where}.source: longer than {MOST_SOURCE_BYTES} bytes. Shorten it.")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        what = visible(str(error))
        raise SettingsError(f"{where}.source: does not parse: {what}. Correct it.") from error
    if not any(isinstance(one, ast.FunctionDef) and one.name == "grade" for one in tree.body):
        raise SettingsError(
            f"{where}.source: no function grade. Write def grade(sample, item): … that returns a "
            "number."
        )


def _model(leaf: ScoreModel | LabelModel, where: str) -> None:
    if leaf.sampling_params.reasoning_effort is not None:
        raise SettingsError(
            f"{where}.sampling_params.reasoning_effort: is not sent to grading models here. "
            "Leave it out."
        )
    if isinstance(leaf, ScoreModel):
        low, high = leaf.range
        if not low < high:
            raise SettingsError(f"{where}.range: {low} to {high} is empty. Give [low, high].")
    elif foreign := set(leaf.passing_labels) - set(leaf.labels):
        raise SettingsError(
            f"{where}.passing_labels: {_shown(min(foreign))} is none of the labels. Take it from "
            "them."
        )


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") in TEXT_PARTS and "text" in part:
        return _part(part["text"])
    raise SettingsError("content: a part that is no text. Give text, or parts of type input_text.")


def _shown(value: object) -> str:
    return visible(repr(value)[:60])
