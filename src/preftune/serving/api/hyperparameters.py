"""The numbers that a job is trained with: what may be asked for, and how they are shown.

Each is a number or "auto". What "auto" becomes is decided by the worker, who knows the rows and
the model; it reports the numbers when training begins, and from then on the job shows them.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from preftune.serving.api.bodies import Body

AUTO: Literal["auto"] = "auto"
SHOWN = ("n_epochs", "batch_size", "learning_rate_multiplier")
"""What `hyperparameters` of an answer holds, whatever the method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """What a number must be; the text "auto" passes as well, a boolean is no number."""

    whole: bool = False
    least: float | None = None
    above: float | None = None
    most: float | None = None

    def check(self, value: object) -> object:
        """Return the value.

        Raises:
            PydanticCustomError: it is neither "auto" nor such a number.
        """
        if value == AUTO and isinstance(value, str):
            return value
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, kinds) and not isinstance(value, bool) and self._holds(value):
            return value
        raise PydanticCustomError("number", "Give {wanted}, or 'auto'", {"wanted": self.wanted})

    def _holds(self, value: float) -> bool:
        least = self.least is None or value >= self.least
        above = self.above is None or value > self.above
        most = self.most is None or value <= self.most
        return abs(value) <= sys.float_info.max and least and above and most

    @property
    def wanted(self) -> str:
        """The rule in words: "a whole number from 1 to 50"."""
        bounds = []
        if self.least is not None:
            bounds.append(f"from {self.least:g}" if self.most else f"of at least {self.least:g}")
        if self.above is not None:
            bounds.append(f"above {self.above:g}")
        if self.most is not None:
            bounds.append(f"to {self.most:g}" if self.least is not None else f"up to {self.most:g}")
        joint = " and " if self.above is not None else " "
        return f"a {'whole ' if self.whole else ''}number {joint.join(bounds)}"

    def __get_pydantic_core_schema__(
        self, _source: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        bounds = {
            "minimum": self.least,
            "exclusiveMinimum": self.above,
            "maximum": self.most,
        }
        kept = {name: bound for name, bound in bounds.items() if bound is not None}
        number = {"type": "integer" if self.whole else "number", **kept}
        return {"anyOf": [{"const": AUTO, "type": "string"}, number]}


Auto = Literal["auto"]
Epochs = Annotated[int | Auto, Number(whole=True, least=1, most=50)]
BatchSize = Annotated[int | Auto, Number(whole=True, least=1, most=256)]
Positive = Annotated[float | Auto, Number(above=0)]
Beta = Annotated[float | Auto, Number(above=0, most=2)]
Compute = Annotated[float | Auto, Number(above=1e-5, most=10)]
Count = Annotated[int | Auto, Number(whole=True, least=1)]


class Hyperparameters(Body):
    """What every method has; an empty object is all "auto"."""

    n_epochs: Epochs = AUTO
    batch_size: BatchSize = AUTO
    learning_rate_multiplier: Positive = AUTO


class DpoHyperparameters(Hyperparameters):
    """The same, and how strongly the model is held to where it began."""

    beta: Beta = AUTO


class ReinforcementHyperparameters(Hyperparameters):
    """The same, and how much is sampled and looked at."""

    compute_multiplier: Compute = AUTO
    eval_interval: Count = AUTO
    eval_samples: Count = AUTO
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"


NAMES = {*DpoHyperparameters.model_fields, *ReinforcementHyperparameters.model_fields}


class InItsPlace(Body):
    """A part of `method`; says where hyperparameters belong that stand too high."""

    place: ClassVar[str] = "'hyperparameters' inside of it"

    @model_validator(mode="before")
    @classmethod
    def no_hyperparameters(cls, sent: Any) -> Any:
        """Refuse a hyperparameter here, and name its right place."""
        if isinstance(sent, dict):
            said = {name for name, value in sent.items() if value is not None}
            for name in sorted(said & NAMES):
                raise misplaced(name, cls.place)
        return sent


def misplaced(name: str, place: str) -> PydanticCustomError:
    """Return the refusal of a known name in the wrong place."""
    told = {"name": name, "place": place}
    return PydanticCustomError(
        "unknown_field", "'{name}' does not stand here. Put it into {place}.", told
    )


def shown(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the three that every job shows: numbers as soon as they are known, "auto" before."""
    return {name: numbers.get(name, AUTO) for name in SHOWN}
