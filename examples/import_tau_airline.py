"""Runs of an airline-support agent with tools: four trials of each task, reward 0 or 1 by program.

Per task: the four whole runs as one comparison ranked by the reward, the simulated user's
instruction and the expected actions in `why`; and every success / failure combination as a pair.
The prompt of a pair is the system prompt and the turns both runs share; turns after the last of
the agent's are left out of a pair (nothing in them is the model's), never of a comparison.

Example: python examples/import_tau_airline.py FOLDER --out tau.jsonl --only pair
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from _importing import Row, answer, read_rows, run
from preftune.datasets.scanned import Scanned
from preftune.types import (
    Comparison,
    Judgment,
    Message,
    PreferencePair,
    Prompt,
    Provenance,
    Rater,
    Record,
    ToolCall,
    make_prompt,
)

Messages = tuple[Message, ...]
RULE = Rater(id="final-database-state", kind="rule")
GENERATOR = "gpt-4o"
DIMENSION = "task success"


def records(folder: Path) -> Iterator[Scanned]:
    policy = (folder / "system-prompt.md").read_text(encoding="utf-8")
    system = Message(role="system", content=policy)
    tasks: dict[int, list[Row]] = {}
    first_line: dict[int, int] = {}
    for line, row in read_rows(folder / "trajectories.jsonl.gz"):
        tasks.setdefault(row["task_id"], []).append(row)
        first_line.setdefault(row["task_id"], line)
    for task, runs in tasks.items():
        for record in convert(system, task, sorted(runs, key=lambda row: int(row["trial"]))):
            yield Scanned(line=first_line[task], record=record)


def convert(system: Message, task: int, runs: list[Row]) -> Iterator[Record]:
    name = f"tau-airline-{task}"
    prompt = Prompt(id=name, messages=(system,), tags=(f"task={task}",), source="tau-airline")
    turns = [tuple(message(row) for row in run["messages"]) for run in runs]
    responses = tuple(answer(prompt, each, generator=GENERATOR) for each in turns)
    shown = Comparison(id=name, prompt=prompt, responses=responses)
    rewards = tuple(float(run["reward"]) for run in runs)
    yield shown
    yield judged(shown, rewards, runs[0])
    for won, good in enumerate(turns):
        for lost, bad in enumerate(turns):
            if rewards[won] > rewards[lost]:
                yield pair(f"{name}/{won}-{lost}", system, good, bad, task)


def judged(shown: Comparison, rewards: tuple[float, ...], task: Row) -> Judgment:
    groups = [tuple(at for at, r in enumerate(rewards) if r == wanted) for wanted in (1, 0)]
    why = {name: task[name] for name in ("instruction", "expected_actions")}
    return Judgment(
        id=f"{shown.id}/{RULE.id}",
        comparison_id=shown.id,
        kind="ranking",
        rater=RULE,
        ranking=tuple(group for group in groups if group),
        dimension=DIMENSION,
        scores=rewards,
        why=msgspec.json.encode(why).decode(),
    )


def pair(name: str, system: Message, good: Messages, bad: Messages, task: int) -> PreferencePair:
    shared = next(at for at, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b)
    tags = (f"task={task}",)
    return PreferencePair(
        id=name,
        prompt=make_prompt(system, *good[:shared], tags=tags, source="tau-airline"),
        chosen=to_last_own_turn(good[shared:]),
        rejected=to_last_own_turn(bad[shared:]),
        dimension=DIMENSION,
        chosen_score=1.0,
        rejected_score=0.0,
        provenance=Provenance(
            source="tau-airline",
            comparison_id=f"tau-airline-{task}",
            raters=(RULE.id,),
            rater_kind=RULE.kind,
            chosen_generator=GENERATOR,
            rejected_generator=GENERATOR,
        ),
    )


def to_last_own_turn(turns: Messages) -> Messages:
    last = max(at for at, turn in enumerate(turns) if turn.role == "assistant")
    return turns[: last + 1]


def message(row: Row) -> Message:
    calls = [
        ToolCall(
            id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"]
        )
        for call in row.get("tool_calls") or ()
    ]
    return Message(
        role=row["role"],
        content=row["content"] or "",
        tool_calls=tuple(calls),
        tool_call_id=row.get("tool_call_id"),
        name=row.get("name"),
    )


if __name__ == "__main__":
    run(records)
