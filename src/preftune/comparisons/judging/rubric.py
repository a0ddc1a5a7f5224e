"""What a judge is asked: one dimension, its criteria, the scale, and the form of the verdict."""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from preftune.comparisons.scales import EQUAL
from preftune.errors import SettingsError
from preftune.settings import build, flat, read_yaml
from preftune.types import GRADES, content_id

Step = Literal["metrics", "reference"]
SHIPPED = ("helpful", "harmless", "honest", "tone", "overall")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rubric:
    """What one call to a judge asks for. Equal rubrics have equal hashes."""

    name: Annotated[str, Meta(min_length=1, description="Name, such as helpful.")]
    instructions: Annotated[
        str, Meta(min_length=1, description="What is to be decided, in a sentence or two.")
    ]
    criteria: Annotated[
        tuple[str, ...], Meta(min_length=1, description="What counts, most important first.")
    ]
    dimension: Annotated[
        str, Meta(description="Dimension of the judgments; the name when left out.")
    ] = ""
    scale: Annotated[
        Literal["binary", 7], Meta(description="binary, or 7 for the seven grades.")
    ] = "binary"
    ties: Annotated[bool, Meta(description="Whether a tie may be said.")] = False
    steps: Annotated[
        tuple[Step, ...],
        Meta(description="What the judge writes first: metrics, reference; one call each."),
    ] = ()
    explain: Annotated[
        bool, Meta(description="Reasons first, the verdict on the last line; no log-probs then.")
    ] = False
    verdict_pattern: Annotated[
        str,
        Meta(
            description="Regular expression of a whole answer in another form, for recorded logs: "
            "groups first and second, perhaps tie, or one group grade."
        ),
    ] = ""

    def __post_init__(self) -> None:
        if len(set(self.steps)) != len(self.steps):
            raise SettingsError(f"rubric {self.name}: a step twice. Name each step once.")
        try:
            groups = set(re.compile(self.pattern).groupindex)
        except re.error as error:
            raise SettingsError(
                f"rubric {self.name}: verdict_pattern: {error}. Correct the pattern."
            ) from error
        if groups not in ({"first", "second"}, {"first", "second", "tie"}, {"grade"}):
            raise SettingsError(
                f"rubric {self.name}: verdict_pattern has groups {sorted(groups)}. "
                "Name them first and second (and tie), or grade alone."
            )

    @property
    def judged(self) -> str:
        """The dimension that its judgments carry."""
        return self.dimension or self.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The exact words that a verdict may be."""
        if self.scale == "binary":
            return ("A", "B", "TIE") if self.ties else ("A", "B")
        numbers = range(1, len(GRADES) + 1)
        return tuple(str(n) for n in numbers if self.ties or n != EQUAL)

    @property
    def pattern(self) -> str:
        """The regular expression that a whole answer must match to hold a verdict."""
        if self.verdict_pattern:
            return self.verdict_pattern
        lead = r"(?s:.*\n)?VERDICT: " if self.explain else ""
        if self.scale == "binary":
            tie = "|(?P<tie>TIE)" if self.ties else ""
            return f"{lead}(?:(?P<first>A)|(?P<second>B){tie})"
        return f"{lead}(?P<grade>[{''.join(self.labels)}])"

    @property
    def hash(self) -> str:
        """Twelve hex digits over every field: what a qualification and a judgment name."""
        return content_id("rubric", flat(self)).removeprefix("rubric-")[:12]

    @property
    def guideline(self) -> str:
        """What a judgment says it was made by: name@hash."""
        return f"{self.name}@{self.hash}"


def read_rubric(name: str) -> Rubric:
    """Return a shipped rubric by its name, or one from a YAML file by its path.

    Raises:
        SettingsError: neither a shipped name nor a readable file, or a field that is wrong.
    """
    if name in SHIPPED:
        with resources.as_file(resources.files(__package__) / "rubrics" / f"{name}.yaml") as path:
            return build(Rubric, read_yaml(path), where=f"rubric {name}")
    if not Path(name).is_file():
        raise SettingsError(
            f"rubric {name}: no such file. Use one of {', '.join(SHIPPED)}, or a YAML file."
        )
    return build(Rubric, read_yaml(Path(name)), where=name)
