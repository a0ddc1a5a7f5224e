import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.evaluation.evaluate import Evaluation
from preftune.evaluation.gate import gate
from preftune.evaluation.gate_rules import GateRule
from preftune.evaluation.marked import differences
from preftune.evaluation.measures import Measure
from preftune.evaluation.regression import paired_check
from preftune.evaluation.report import (
    Example,
    Plot,
    ReportData,
    Section,
    Table,
    check_forest,
    draw_examples,
    render_report,
    win_forest,
)
from preftune.evaluation.win_rate import win_rate
from preftune.plots import figure, svg
from preftune.text import visible_page
from preftune.types import Comparison, Judgment, Rater, Response, assistant, make_prompt, user

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e&amp;"


def comparisons(n: int = 8) -> list[Comparison]:
    found = []
    for k in range(n):
        prompt = make_prompt(user(f"question {k}"), tags=(f"<{k % 2}>",))
        shown = tuple(
            Response(id=f"{g}{k}", prompt_id=prompt.id, messages=(assistant(g * k),), generator=g)
            for g in ("base", "tuned")
        )
        found.append(Comparison(id=f"c{k}", prompt=prompt, responses=shown))
    return found


def evaluation() -> Evaluation:
    judgments = [
        Judgment(
            id=f"j{k}", comparison_id=f"c{k}", kind="binary", choice=int(k > 1), rater=Rater(id="r")
        )
        for k in range(8)
    ]
    everything = {(f"p{k}", 0): True for k in range(70)}
    return Evaluation(
        candidate="tuned",
        baseline="base",
        win_rate=win_rate(comparisons(), judgments, candidate="tuned", baseline="base"),
        checks=(paired_check("facts", baseline=everything, candidate=everything),),
        measures=(Measure(name="kl", value=1.25, low=1.0, high=1.5, n=20, unit="nats"),),
    )


def page(**fields: object) -> str:
    whole = {"title": "T", "evaluation": evaluation()} | fields
    return render_report(ReportData(**whole))  # type: ignore[arg-type]  # fields by name


class Tags(HTMLParser):
    """Collect every tag with its attributes; open tags must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    return parser.seen


def full_page() -> str:
    drawn, (axis,) = figure()
    axis.plot([0.69, 0.5])
    rule = GateRule(name=HOSTILE, kind="value_below", measure="kl", threshold=3, why=HOSTILE)
    return page(
        title=HOSTILE,
        summary=HOSTILE,
        gate=gate(evaluation(), [rule], suite=HOSTILE),
        examples=(Example(prompt=HOSTILE, before=HOSTILE, after=f"{HOSTILE} more", note=HOSTILE),),
        sections=(
            Section(
                title=HOSTILE,
                text=HOSTILE,
                tables=(Table(header=(HOSTILE,), rows=((HOSTILE,),), caption=HOSTILE),),
                plots=(Plot(svg=svg(drawn), caption=HOSTILE),),
            ),
        ),
        caveats=(HOSTILE,),
        provenance={HOSTILE: HOSTILE},
    )


def test_page_asks_nothing_of_any_network_and_runs_nothing() -> None:
    seen = tags_of(full_page())
    names = {tag for tag, _ in seen}
    assert not names & {"script", "iframe", "link", "object", "embed", "form", "base", "img"}
    for tag, attributes in seen:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert (attributes.get("href") or "#").startswith("#"), tag
    policy = [a["content"] for tag, a in seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_text_is_shown_and_never_acts() -> None:
    html = full_page()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12
    assert "\x1b" not in html and "\u202e" not in html
    assert "⟨U+001B⟩[31m⟨U+202E⟩&amp;amp;" in html


def test_equal_data_give_an_equal_page() -> None:
    assert full_page() == full_page()


@pytest.mark.parametrize(
    ("threshold", "shown"), [(3.0, "Ship it"), (0.5, "Don’t ship"), (1.2, "Can’t tell yet")]
)
def test_banner_says_the_verdict(threshold: float, shown: str) -> None:
    rule = GateRule(name="leash", kind="upper_bound_below", measure="kl", threshold=threshold)
    assert f"<strong>{shown}</strong>" in page(gate=gate(evaluation(), [rule]))


def test_simulated_labels_are_said_so_and_only_then() -> None:
    assert "The labels are simulated." not in page()
    told = page(evaluation=replace(evaluation(), simulated_labels=True))
    assert "The labels are simulated." in told


def test_changed_words_are_marked_on_both_sides() -> None:
    html = page(examples=(Example(prompt="?", before="no , dry it", after="yes , dry it"),))
    assert re.search(r"<del>no</del> , dry it", html)
    assert re.search(r"<ins>yes</ins> , dry it", html)


words = st.lists(st.sampled_from(["a", "b", "c", " ", "\n"]), max_size=20).map("".join)


@given(words, words)
def test_differences_keep_every_character_and_the_unmarked_words_agree(a: str, b: str) -> None:
    left, right = differences(a, b)
    assert ("".join(t for t, _ in left), "".join(t for t, _ in right)) == (a, b)
    same = ["".join(t for t, changed in side if not changed) for side in (left, right)]
    assert same[0] == same[1]


@given(st.text())
def test_visible_text_holds_no_control_character_and_changes_no_plain_text(text: str) -> None:
    shown = visible_page(text)
    assert all(c.isprintable() or c.isspace() or c > "\x9f" for c in shown)
    assert visible_page(shown) == shown
    assert visible_page("plain 中文 é\n\t") == "plain 中文 é\n\t"


def test_forests_place_the_figures_on_their_axes() -> None:
    wins, checks = win_forest(evaluation()), check_forest(evaluation())
    assert wins is not None and checks is not None
    assert [bar.label for bar in wins.bars] == ["All prompts", "At equal length", "<0>", "<1>"]
    assert (wins.bars[0].dot, wins.bars[0].shown, wins.zero) == (75.0, "75 %", 50.0)
    # nothing changed: the dot on the line, the exact bounds at both ends of the axis
    bar = checks.bars[0]
    assert (bar.dot, bar.left, bar.width) == pytest.approx((50.0, 0.0, 100.0))
    assert bar.shown == "0"
    alone = Evaluation(candidate="a", baseline="b")
    assert (win_forest(alone), check_forest(alone)) == (None, None)


def test_examples_are_drawn_by_chance_and_the_same_for_a_seed() -> None:
    one = draw_examples(comparisons(), evaluation(), n=3)
    assert one == draw_examples(comparisons(), evaluation(), n=3)
    assert one != draw_examples(comparisons(), evaluation(), n=3, seed=1)
    everything = draw_examples(comparisons(), evaluation(), n=99)
    assert len(everything) == 8
    assert {(e.prompt, e.before, e.after) for e in everything} >= {
        ("question 2", "basebase", "tunedtuned")
    }


def test_what_is_no_plain_drawing_or_no_table_is_refused() -> None:
    for text in ("<p>", "<svg><script>1</script></svg>", '<svg onload="x">', "<svg ONLOAD ='x'>"):
        with pytest.raises(DataError, match="not a plain <svg>"):
            Plot(svg=text)
    with pytest.raises(DataError, match="2 cells, the header 1"):
        Table(header=("a",), rows=(("b", "c"),))
