"""Each prompt says which rows of which log asked it, and the log's owner finds them again."""

import hashlib
import hmac
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.prompts.logs import prompts_in, write_rows

from preftune.errors import DataError, SettingsError
from preftune.prompts.dedupe import dedupe_file
from preftune.prompts.import_log import import_log
from preftune.prompts.log_find import find_rows
from preftune.prompts.log_ids import LogIdReader, hashed_id, is_hashed, key_beside, read_key
from preftune.prompts.redact_file import redact_file
from preftune.types import LogRow

HI = {"role": "assistant", "content": "hi there"}


def row(asked: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, HI], **fields}


def places(path: Path) -> list[list[tuple[int, str, str]]]:
    return [[(r.line, r.id, r.at) for r in prompt.log_rows] for prompt in prompts_in(path)]


def test_a_prompt_has_the_rows_that_asked_it(tmp_path: Path) -> None:
    rows = [row("a", id=7, time="noon"), row("b"), row("a", id="x-9", created=1700000000)]
    log = write_rows(tmp_path / "log.jsonl", rows)
    import_log(log, tmp_path / "p.jsonl")
    first, second = prompts_in(tmp_path / "p.jsonl")
    sha256 = hashlib.sha256(log.read_bytes()).hexdigest()
    assert first.log_rows == (
        LogRow(file="log.jsonl", sha256=sha256, line=1, id="7", at="noon"),
        LogRow(file="log.jsonl", sha256=sha256, line=3, id="x-9", at="1700000000"),
    )
    assert second.log_rows == (LogRow(file="log.jsonl", sha256=sha256, line=2),)


def test_the_first_ten_rows_are_kept(tmp_path: Path) -> None:
    log = write_rows(tmp_path / "log.jsonl", [row("a") for _ in range(14)])
    import_log(log, tmp_path / "p.jsonl")
    (prompt,) = prompts_in(tmp_path / "p.jsonl")
    assert [r.line for r in prompt.log_rows] == list(range(1, 11))
    assert prompt.tags == ("seen:14",)


ASKED = {"messages": [{"role": "user", "content": "a"}]}
SAID = {"id": "r", "created": 5, "choices": [{"message": HI}]}


@pytest.mark.parametrize(
    ("shape", "own"),
    [
        ({"request": {**ASKED, "id": "in"}, "response": SAID}, "in"),
        ({"custom_id": "7", "body": ASKED, "response": {"body": SAID}}, "7"),
        ({**ASKED, "response": SAID}, "r"),
        ({**ASKED, **SAID, "id": "stored"}, "stored"),
    ],
)
def test_id_and_time_of_a_request_log(tmp_path: Path, shape: dict[str, Any], own: str) -> None:
    import_log(write_rows(tmp_path / "log.jsonl", [shape]), tmp_path / "p.jsonl")
    assert places(tmp_path / "p.jsonl") == [[(1, own, "5")]]


def test_id_and_time_of_a_table_and_the_line_where_its_row_begins(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text('prompt,ticket,time\n"a\nb",T1,noon\nc,T2,\n')
    import_log(log, tmp_path / "p.jsonl", columns={"id": "ticket"})
    assert places(tmp_path / "p.jsonl") == [[(2, "T1", "noon")], [(4, "T2", "")]]


PERSONAL = ["ana@example.com", "+44 20 7946 0958", "4111 1111 1111 1111", f"hmac:{'0' * 32}"]
PLAIN = ["17", "ticket-99", "3f2a91c0-7b5e-4a1b-8c2d-5e6f70812233", "chatcmpl-9xYz", "ana"]


@pytest.mark.parametrize(
    ("policy", "hashed"), [("auto", PERSONAL), ("hash", PERSONAL + PLAIN), ("keep", [])]
)
def test_personal_ids_are_hashed_with_a_key_beside_the_log(
    tmp_path: Path, policy: str, hashed: list[str]
) -> None:
    log = write_rows(tmp_path / "log.jsonl", [row(id, id=id) for id in (*PERSONAL, *PLAIN)])
    report = import_log(log, tmp_path / "p.jsonl", log_ids=policy)
    found = [prompt.log_rows[0].id for prompt in prompts_in(tmp_path / "p.jsonl")]
    assert report.ids_hashed == len(hashed)
    key = tmp_path / "log.jsonl.id-key"
    assert key.exists() is bool(hashed)
    if not hashed:
        assert found == PERSONAL + PLAIN
        return
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = bytes.fromhex(key.read_text())
    told = [hmac.new(secret, id.encode(), "sha256").hexdigest()[:32] for id in hashed]
    assert found[: len(hashed)] == [f"hmac:{one}" for one in told]
    assert found[len(hashed) :] == (PERSONAL + PLAIN)[len(hashed) :]
    assert all(map(is_hashed, found[: len(hashed)]))


def test_the_key_stays_and_may_lie_elsewhere(tmp_path: Path) -> None:
    log = write_rows(tmp_path / "log.jsonl", [row("a", id="ana@example.com")])
    key = tmp_path / "keys" / "desk"
    key.parent.mkdir()
    import_log(log, tmp_path / "one.jsonl", id_key=key)
    import_log(log, tmp_path / "two.jsonl", id_key=key)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert not key_beside(log).exists()
    key.write_text("short")
    with pytest.raises(DataError, match="is no key of 64 hex digits"):
        import_log(log, tmp_path / "three.jsonl", id_key=key)
    with pytest.raises(SettingsError, match="--log-ids 'no'"):
        import_log(log, tmp_path / "three.jsonl", log_ids="no")


def test_redaction_keeps_the_origin_cleans_plain_ids_and_forgets_when_told(tmp_path: Path) -> None:
    rows = [row("mail a@x.de", id="ana@example.com"), row("mail b@x.de", id="+44 20 7946 0958")]
    log = write_rows(tmp_path / "log.jsonl", rows)
    import_log(log, tmp_path / "kept.jsonl", log_ids="keep")
    import_log(log, tmp_path / "hashed.jsonl", log_ids="hash")
    for name in ("kept", "hashed"):
        redact_file(tmp_path / f"{name}.jsonl", tmp_path / f"{name}-clean.jsonl")
    # the two became equal
    assert places(tmp_path / "kept-clean.jsonl") == [[(1, "[EMAIL_2]", ""), (2, "[PHONE_1]", "")]]
    (hashed,) = prompts_in(tmp_path / "hashed-clean.jsonl")
    key = read_key(key_beside(log))
    assert [r.id for r in hashed.log_rows] == [hashed_id(one["id"], key) for one in rows]
    report = redact_file(tmp_path / "kept.jsonl", tmp_path / "none.jsonl", forget_origin=True)
    assert report.origin_forgotten
    assert places(tmp_path / "none.jsonl") == [[]]


def test_equal_prompts_unite_their_rows_and_near_ones_do_not(tmp_path: Path) -> None:
    long = "may i put my old red wool socks in the washer at forty degrees"
    rows = [row(long), row(long.upper()), row(f"{long} please"), row("other"), row(long.upper())]
    log = write_rows(tmp_path / "log.jsonl", rows)
    import_log(log, tmp_path / "p.jsonl")
    dedupe_file(tmp_path / "p.jsonl", tmp_path / "u.jsonl", near=0.8)
    lines = [[r.line for r in prompt.log_rows] for prompt in prompts_in(tmp_path / "u.jsonl")]
    assert lines == [[2, 5, 1], [4]]


def test_rows_are_found_by_line_in_the_same_log_and_by_id_in_a_newer_one(tmp_path: Path) -> None:
    rows = [row("a", id="ana@example.com"), row("b", id="T-2"), row("c")]
    log = write_rows(tmp_path / "log.jsonl", rows)
    import_log(log, tmp_path / "p.jsonl")
    asked = [prompt.log_rows[0] for prompt in prompts_in(tmp_path / "p.jsonl")]
    same = find_rows(log, asked)
    assert [(one.line, one.moved) for one in same] == [(1, False), (2, False), (3, False)]
    assert [one.text for one in same] == log.read_text().splitlines()
    write_rows(log, [row("new", id="T-0"), *rows])
    newer = find_rows(log, asked)
    assert [(one.line, one.moved) for one in newer] == [(2, True), (3, True), (None, False)]
    key_beside(log).unlink()
    with pytest.raises(DataError, match="Give the key with --id-key"):
        find_rows(log, asked)
    assert find_rows(log, asked[1:])[0].line == 3


def test_a_log_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    log = write_rows(tmp_path / "log.jsonl", [row("a")])
    reader = LogIdReader(log)
    reader.check_unchanged()
    log.write_text(log.read_text() * 2)
    with pytest.raises(DataError, match="changed while it was read"):
        reader.check_unchanged()


def test_command_says_where_the_key_is(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    log = write_rows(tmp_path / "log.jsonl", [row("a", id="ana@example.com"), row("b", id=1)])
    done = run_cli("prompts", "import", log, "--out", tmp_path / "p.jsonl")
    assert f"ids       1 hashed; {log}.id-key leads back: keep it with the log" in done.out
