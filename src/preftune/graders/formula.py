"""The formula of a multi grader: parsed into a tree of allowed nodes, never evaluated as code."""

import ast
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from preftune.errors import SettingsError
from preftune.graders.results import GradingError
from preftune.text import visible

MOST_CHARACTERS = 2000
Number = Callable[[Mapping[str, float]], float]

BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: math.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.USub: lambda a: -a,
    ast.UAdd: lambda a: a,
}
OF_ONE: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
OF_MANY: dict[str, Callable[[list[float]], float]] = {"min": min, "max": max}


@dataclass(frozen=True, slots=True)
class Formula:
    """A checked formula."""

    text: str
    value: Number

    def __call__(self, rewards: Mapping[str, float]) -> float:
        """Return the number it gives for these rewards by name.

        Raises:
            GradingError: a division by 0, a root or logarithm of what has none, too large a number.
        """
        try:
            found = float(self.value(rewards))
        except (ArithmeticError, ValueError) as error:
            problem = f"formula {self.text}: {error} for {dict(rewards)}"
            raise GradingError(problem, formula_parse_error=True) from error
        if not math.isfinite(found):
            raise GradingError(f"formula {self.text}: gives {found}", formula_parse_error=True)
        return found


def parse_formula(text: str, names: Collection[str]) -> Formula:
    """Return the formula: + - * / ^, brackets, numbers, names of graders, and nine functions.

    `2 * a ^ 2` is 8 for a = 2; `-a ^ 2` is -4; `2 ^ 3 ^ 2` is 512.

    Args:
        text: such as `0.8 * accuracy + 0.2 * min(style, 1)`.
        names: of the graders whose rewards it may use.

    Raises:
        SettingsError: it does not parse, has an unknown name or function, or is too long.
    """
    if len(text) > MOST_CHARACTERS or "**" in text:
        why = "** is no operator" if "**" in text else f"longer than {MOST_CHARACTERS} characters"
        raise _refused(text, why)
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
        return Formula(visible(text), _number(tree.body, names))
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, SettingsError):
            raise _refused(text, str(error)) from error
        raise _refused(text, f"cannot be read ({visible(str(error))})") from error


def _number(node: ast.expr, names: Collection[str]) -> Number:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value):
            constant = float(value)
            return lambda _: constant
        case ast.Name(id=name) if name in names:
            return lambda rewards: rewards[name]
        case ast.Name(id=name):
            raise SettingsError(f"unknown name {name!r}; the graders are {', '.join(names)}")
        case ast.UnaryOp(op=op, operand=inner) if type(op) in UNARY:
            sign, of = UNARY[type(op)], _number(inner, names)
            return lambda rewards: sign(of(rewards))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            join, one, two = BINARY[type(op)], _number(left, names), _number(right, names)
            return lambda rewards: join(one(rewards), two(rewards))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _call(name, [_number(arg, names) for arg in args])
    raise SettingsError(f"{type(node).__name__} is not allowed")


def _call(name: str, given: list[Number]) -> Number:
    if name in OF_MANY and given:
        many = OF_MANY[name]
        return lambda rewards: many([one(rewards) for one in given])
    if name in OF_ONE and len(given) == 1:
        function, (of,) = OF_ONE[name], given
        return lambda rewards: function(of(rewards))
    known = ", ".join([*OF_MANY, *OF_ONE])
    raise SettingsError(f"{name} of {len(given)} numbers; the functions are {known}")


def _refused(text: str, why: str) -> SettingsError:
    return SettingsError(
        f"calculate_output {visible(text[:80])!r}: {why}. Use + - * / ^, min, max, abs, floor, "
        "ceil, exp, sqrt, log and the names of the graders."
    )
