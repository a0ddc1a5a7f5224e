"""What a grader asks of an item, so that a misspelt name is told before anybody trains."""

from collections.abc import Iterable, Iterator

from preftune.graders.results import GradingError
from preftune.graders.sample import Item, Sample
from preftune.graders.specs import (
    Grader,
    LabelModel,
    Leaf,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    leaves,
)
from preftune.graders.templates import Variable, parse_template
from preftune.text import visible

MOST_SHOWN, LONGEST_SHOWN = 12, 40  # names of fields, and characters of one


def templates_of(leaf: Leaf) -> Iterator[str]:
    """Yield the texts of a grader that are filled in."""
    if isinstance(leaf, StringCheck | TextSimilarity):
        yield from (leaf.input, leaf.reference)
    elif isinstance(leaf, ScoreModel | LabelModel):
        yield from (message.text for message in leaf.input)


def missing_names(grader: Grader, items: Iterable[Item]) -> list[str]:
    """Return the variables of items that no item has, in the order of the grader.

    One that some have is fine: rows without it get an error each, and no reward.
    """
    texts = (text for leaf in leaves(grader).values() for text in templates_of(leaf))
    named = (variable for text in texts for variable in parse_template(text).variables)
    missing = {variable.text: variable for variable in named if variable.root == "item"}
    for item in items:
        missing = {text: one for text, one in missing.items() if not _has(item, one)}
        if not missing:
            break
    return list(missing)


def names_problem(grader: Grader, items: Iterable[Item], file: str) -> str:
    """Return what to say of names that no row of a file has; nothing where all are there."""
    known = list(items)
    missing = missing_names(grader, known)
    if not missing:
        return ""
    names = sorted({name for item in known for name in item})
    shown = ", ".join(visible(name[:LONGEST_SHOWN]) for name in names[:MOST_SHOWN]) or "nothing"
    return (
        f"The grader asks for {{{{ {missing[0]} }}}}, which no row of {file} has. "
        f"Beside messages they have: {shown}."
    )


def _has(item: Item, variable: Variable) -> bool:
    try:
        variable.find(Sample(output_text=""), item)
    except GradingError:
        return False
    return True
