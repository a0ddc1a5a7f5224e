"""The audit's page, card and command: nothing runs, nothing is fetched, exit codes are kept."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from preftune.cli import audit as command
from preftune.datasets.audit_parts import Bars
from preftune.datasets.write import write_records
from preftune.errors import DataError, PreftuneError, SettingsError
from preftune.evaluation.audit_page import AuditRequest, interval_figure, run_audit
from preftune.plots import svg
from preftune.types import PreferencePair, Provenance, assistant, make_prompt, user

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\u202e",
    "$\\frac{$",
    "{{ 7 * 7 }}",
    "</table>|`x`",
)


def pairs(raters: tuple[str, ...], n: int = 60) -> list[PreferencePair]:
    return [
        PreferencePair(
            id=f"p{i}",
            prompt=make_prompt(user(f"question {i} about {raters[i % len(raters)]} ?")),
            chosen=(assistant(f"reply {i} ! and more"),),
            rejected=(assistant(f"reply {i + 1} ?"),),
            provenance=Provenance(
                raters=(raters[i % len(raters)],), rater_kind="human", chosen_shown_first=i % 3 > 0
            ),
        )
        for i in range(n)
    ]


def run(*arguments: object) -> int:
    """Run `preftune audit ARGUMENTS…` and return its exit code."""
    app = typer.Typer()
    command.register(app)
    code = app(args=[str(argument) for argument in arguments], standalone_mode=False)
    return int(code or 0)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    write_records(tmp_path / "pairs.jsonl", pairs(HOSTILE, 180))
    run_audit(AuditRequest(data=tmp_path / "pairs.jsonl", out=tmp_path / "audit"))
    return tmp_path / "audit"


def test_the_page_runs_nothing_and_fetches_nothing(hostile: Path) -> None:
    page = (hostile / "audit.html").read_text()
    assert "default-src 'none'" in page
    outside = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert not re.search(r"<\s*(script|img|iframe|object|link|base|form)\b", outside)
    assert not re.search(r"<[^>]*\s(on\w+|href|src)\s*=", outside)
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        assert "<script" not in drawing
        assert not re.search(r"""(href|src)\s*=\s*["'](?!#)""", drawing)


def test_hostile_names_are_shown_as_written(hostile: Path) -> None:
    page, card = (hostile / "audit.html").read_text(), (hostile / "card.md").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "⟨U+001B⟩[31mred⟨U+202E⟩" in page
    for text in (page, card):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert not re.search(r"(?<!\\)<", card)  # Markdown shows `\<` and reads no tag


def test_the_folder_holds_page_facts_card_and_plots(hostile: Path) -> None:
    facts = json.loads((hostile / "audit.json").read_text())
    assert facts["exit_code"] == 0
    assert {f["kind"] for s in facts["sections"] for f in s["findings"]} >= {"length", "side"}
    assert (hostile / "plots" / "style.svg").read_text().startswith("<svg")
    assert "## Audit" in (hostile / "card.md").read_text()


def test_the_same_file_gives_the_same_folder(tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs(("a", "b")))
    for name in ("one", "two"):
        run_audit(AuditRequest(data=tmp_path / "pairs.jsonl", out=tmp_path / name))
    made = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(made) >= 5
    for file in made:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_figure_without_an_interval_is_drawn_as_well() -> None:
    bars = Bars(
        name="x",
        title="t",
        unit="share",
        reference=0.5,
        rows=(("known set", 0.3, 0.3, 0.3), ("here", 0.4, 0.2, 0.6)),
    )
    assert "known set" in svg(interval_figure(bars))


def test_the_command_prints_the_findings_and_says_stop_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs(("a", "b")))
    write_records(tmp_path / "test.jsonl", pairs(("a", "b"))[:3])
    data, out = tmp_path / "pairs.jsonl", tmp_path / "audit"
    assert run(data, "--out", out) == 0
    assert run(data, "--out", out, "--against", tmp_path / "test.jsonl") == 1
    shown = capsys.readouterr().out
    assert re.search(r"stop\s+leak\s+3 rows \(5\.0 %\)", shown)
    assert shown.rstrip().endswith("audit.html")


def test_the_dataset_is_rebuilt_without_a_rater_twice_the_same(tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs(("a", "b", "c")))
    for name in ("one", "two"):
        run(tmp_path / "pairs.jsonl", "--out", tmp_path / name, "--without", "b")
    first, second = (tmp_path / name / "rebuilt.jsonl" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_text().splitlines()) == 40
    hashes = {
        json.loads((tmp_path / n / "audit.json").read_text())["rebuilt_hash"]
        for n in ("one", "two")
    }
    assert len(hashes) == 1
    assert hashes != {""}


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (("--folds", "3"), SettingsError, "--folds needs --model"),
        (("--without", "nobody"), DataError, "no such rater"),
        (("--judgments", "missing.jsonl"), DataError, "missing.jsonl"),
        (("--model", "nowhere", "--folds", "1"), SettingsError, "folds"),
    ],
)
def test_a_users_mistake_is_an_error_of_ours(
    more: tuple[str, ...], error: type[PreftuneError], said: str, tmp_path: Path
) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs(("a", "b")))
    with pytest.raises(error, match=said):
        run(tmp_path / "pairs.jsonl", "--out", tmp_path / "audit", *more)


def test_control_characters_reach_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs(HOSTILE))
    run(tmp_path / "pairs.jsonl", "--out", tmp_path / "audit")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_without_a_model_no_torch_is_loaded(
    tmp_path: Path, root: Path, run_python: Callable[[str], int]
) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs(("a", "b")))
    program = (
        "import sys; from pathlib import Path; "
        "from preftune.evaluation.audit_page import AuditRequest, run_audit; "
        f"run_audit(AuditRequest(data=Path({str(tmp_path / 'pairs.jsonl')!r}), "
        f"out=Path({str(tmp_path / 'audit')!r}))); sys.exit('torch' in sys.modules)"
    )
    assert run_python(program) == 0


@pytest.fixture
def run_python() -> Callable[[str], int]:
    import subprocess
    import sys

    def run(program: str) -> int:
        return subprocess.run([sys.executable, "-c", program], check=False).returncode

    return run
