"""Judges that follow a rule: BLEU, ROUGE, length, a pattern, an exact match.

A rule is cheap, repeatable and blind to meaning. ROUGE here equals the `rouge-score` package
without stemming, BLEU is sacrebleu's sentence BLEU.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from preftune.errors import DataError, SettingsError
from preftune.types import Comparison, Judgment, Prompt, Rater, Response, content_id, text_of

Metric = Literal["bleu", "rouge-1", "rouge-2", "rouge-l", "length", "regex", "exact"]
NEEDS_REFERENCE = ("bleu", "rouge-1", "rouge-2", "rouge-l", "exact")
NOT_A_WORD = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What is measured on each response, and which way it counts."""

    rule: Annotated[
        Metric,
        Meta(description="bleu (0-100), rouge-1, rouge-2, rouge-l, exact, regex or length."),
    ]
    pattern: Annotated[
        str, Meta(description="Python regular expression; needed by regex, refused by the others.")
    ] = ""
    prefer: Annotated[
        Literal["higher", "lower"],
        Meta(description="The side that wins: higher or lower. length with lower = shorter wins."),
    ] = "higher"
    tie_within: Annotated[
        float, Meta(ge=0, description="Scores at most this far apart are a tie.")
    ] = 0.0

    def __post_init__(self) -> None:
        if (self.rule == "regex") != bool(self.pattern):
            problem = "needs a pattern" if self.rule == "regex" else "takes no pattern"
            raise SettingsError(f"rule {self.rule}: {problem}. Use pattern with regex alone.")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise SettingsError(
                f"pattern {self.pattern!r}: {error}. Correct the pattern."
            ) from error

    @property
    def rater(self) -> Rater:
        """Who signs the judgments: every setting that changes a verdict is part of the name."""
        parts = [
            self.rule,
            self.pattern and f"({self.pattern})",
            self.prefer != "higher" and "lower",
        ]
        parts.append(self.tie_within > 0 and f"tie-{self.tie_within:g}")
        return Rater(id=" ".join(str(part) for part in parts if part), kind="rule")


def judge_by_rule(
    comparisons: Iterable[Comparison],
    rule: Rule,
    references: Mapping[str, Sequence[str]] | None = None,
) -> list[Judgment]:
    """Return one binary or tie judgment per comparison, with both scores on it.

    Args:
        comparisons: two responses each.
        rule: what is measured and which side wins.
        references: right answers by prompt id; with several, the best match counts (BLEU compares
            with all of them at once, as it is defined).

    Raises:
        DataError: more than two responses, or no reference for a prompt whose rule needs one.
        SettingsError: references given to a rule that reads none.
    """
    if references is not None and rule.rule not in NEEDS_REFERENCE:
        raise SettingsError(f"rule {rule.rule}: it reads no references. Leave them out.")
    return [_judge(comparison, rule, references or {}) for comparison in comparisons]


def _judge(comparison: Comparison, rule: Rule, references: Mapping[str, Sequence[str]]) -> Judgment:
    if len(comparison.responses) != 2:
        raise DataError(
            f"comparison {comparison.id}: {len(comparison.responses)} responses. "
            "A rule compares two; make comparisons of two."
        )
    known = references.get(comparison.prompt.id, ())
    if rule.rule in NEEDS_REFERENCE and not known:
        raise DataError(
            f"comparison {comparison.id}: no reference for prompt {comparison.prompt.id}. "
            f"Give one; {rule.rule} compares with it."
        )
    first, second = (score(text_of(r.messages), rule, known) for r in comparison.responses)
    gap = first - second if rule.prefer == "higher" else second - first
    tied = abs(gap) <= rule.tie_within
    return Judgment(
        id=content_id("j", comparison.id, rule.rater.id, first, second),
        comparison_id=comparison.id,
        kind="tie" if tied else "binary",
        choice=None if tied else int(gap < 0),
        rater=rule.rater,
        scores=(first, second),
    )


def score(response: str, rule: Rule, references: Sequence[str] = ()) -> float:
    """Return what the rule measures on one response: BLEU 0–100, length in characters, else 0..1.

    `exact` ignores white space at both ends; `regex` is 1 where the pattern is found anywhere.
    """
    match rule.rule:
        case "length":
            return float(len(response))
        case "regex":
            return float(re.search(rule.pattern, response) is not None)
        case "exact":
            return float(response.strip() in {reference.strip() for reference in references})
        case "bleu":
            return bleu(response, references)
        case overlap:
            return max(ROUGE[overlap](response, reference) for reference in references)


def bleu(response: str, references: Sequence[str]) -> float:
    """Return sacrebleu's sentence BLEU, 0 to 100, with its default smoothing and tokens.

    Source: Papineni et al. 2002; Post 2018, arXiv:1804.08771.
    """
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU(effective_order=True).sentence_score(response, list(references)).score)


def rouge_n(response: str, reference: str, n: int) -> float:
    """Return the F measure of shared runs of `n` words, 0..1.

    Source: Lin 2004; equal to `rouge-score` without stemming.
    """
    got, wanted = _runs(_words(response), n), _runs(_words(reference), n)
    return _f_measure((got & wanted).total(), got.total(), wanted.total())


def rouge_l(response: str, reference: str) -> float:
    """Return the F measure of the longest common subsequence of words, 0..1.

    Source: Lin 2004; equal to `rouge-score` without stemming.
    """
    got, wanted = _words(response), _words(reference)
    return _f_measure(longest_common_subsequence(got, wanted), len(got), len(wanted))


ROUGE: dict[str, Callable[[str, str], float]] = {
    "rouge-1": lambda response, reference: rouge_n(response, reference, 1),
    "rouge-2": lambda response, reference: rouge_n(response, reference, 2),
    "rouge-l": rouge_l,
}


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest sequence both hold in order, gaps allowed.

    One bit per item of `first`, a whole row of the usual table at once: a bit turns 0 where the
    subsequence grows.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for place, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for item in second:
        met = row & places.get(item, 0)
        row = (row + met | row - met) & full
    return len(first) - row.bit_count()


def pair_responses(
    prompts: Iterable[Prompt], first: Sequence[Response], second: Sequence[Response]
) -> list[Comparison]:
    """Return comparisons of two sets of responses: same prompt, same place among its samples.

    Raises:
        DataError: a prompt is unknown, or has another number of samples in the two sets.
    """
    asked = {prompt.id: prompt for prompt in prompts}
    left, right = _by_prompt(first), _by_prompt(second)
    for prompt_id in [*left, *(p for p in right if p not in left)]:
        counts = len(left.get(prompt_id, ())), len(right.get(prompt_id, ()))
        if counts[0] != counts[1]:
            raise DataError(
                f"prompt {prompt_id}: {counts[0]} responses in the first set, {counts[1]} in the "
                "second. Sample the same prompts equally often."
            )
        if prompt_id not in asked:
            raise DataError(f"prompt {prompt_id}: its text is unknown. Give the file of prompts.")
    return [
        Comparison(
            id=content_id("c", prompt_id, sample, one.id, two.id),
            prompt=asked[prompt_id],
            responses=(one, two),
        )
        for prompt_id in left
        for sample, (one, two) in enumerate(zip(left[prompt_id], right[prompt_id], strict=True))
    ]


def _by_prompt(responses: Iterable[Response]) -> dict[str, list[Response]]:
    grouped: dict[str, list[Response]] = {}
    for response in responses:
        grouped.setdefault(response.prompt_id, []).append(response)
    return grouped


def _words(text: str) -> list[str]:
    return NOT_A_WORD.sub(" ", text.lower()).split()


def _runs(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _f_measure(shared: int, got: int, wanted: int) -> float:
    if shared == 0:
        return 0.0
    precision, recall = shared / got, shared / wanted
    return 2 * precision * recall / (precision + recall)
