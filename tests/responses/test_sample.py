import hashlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError, ModelError, RowError, SettingsError
from preftune.records import decode
from preftune.responses.generator import GenerateSettings, Request
from preftune.responses.sample import SampleReport, plan, row_seed, sample
from preftune.types import Prompt, Response, Sampling, assistant, make_prompt, user

BLOCK, N = 4, 3
PROMPTS = [make_prompt(user(f"question {i} \u2028 ünï")) for i in range(5)]


class HexGenerator:
    """Answers with hex digits of a hash of prompt and seed; every third reply is cut.

    One that `waits` says that it was asked, and answers when it gets a line.
    """

    def __init__(
        self, *, name: str = "hex@1", waits: bool = False, temperature: float = 1.0
    ) -> None:
        self.name, self.waits = name, waits
        self.settings = GenerateSettings(max_new_tokens=8, temperature=temperature)
        self.asked: list[Request] = []

    def sampling(self, seed: int) -> Sampling:
        return self.settings.sampling(seed)

    def check(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            if "too long" in prompt.messages[0].content:
                raise ModelError(f"prompt {prompt.id}: too long. Leave it out.")

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        if self.waits:
            sys.stdout.write("asked\n")
            sys.stdout.flush()
            sys.stdin.readline()
        self.asked += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Response:
        digest = hashlib.sha256(f"{request.prompt.id} {request.seed}".encode()).hexdigest()
        return Response(
            id=request.response_id,
            prompt_id=request.prompt.id,
            messages=(assistant(digest * 40),),
            generator=self.name,
            sampling=self.sampling(request.seed),
            origin="sampled",
            finished=int(digest[:4], 16) % 3 > 0,
        )


def run(out: Path, generator: HexGenerator | None = None, *, seed: int = 7) -> SampleReport:
    return sample(PROMPTS, generator or HexGenerator(), n=N, seed=seed, out=out, block=BLOCK)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    run(out)
    return out.read_bytes()


def rows(content: bytes) -> list[Response]:
    found = [decode(line) for line in content.splitlines()]
    return [record for record in found if isinstance(record, Response)]


def test_file_has_each_sample_of_each_prompt_once_and_in_order(whole: bytes) -> None:
    found = rows(whole)
    assert [r.prompt_id for r in found] == [p.id for p in PROMPTS for _ in range(N)]
    assert len({r.id for r in found}) == len(found) == 15
    for place, response in enumerate(found):
        expected_seed = row_seed(7, response.prompt_id, place % N)
        assert response.sampling == Sampling(temperature=1.0, max_new_tokens=8, seed=expected_seed)
        assert (response.origin, response.generator) == ("sampled", "hex@1")


def test_report_counts_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.jsonl"
    report = run(out)
    cut = sum(not r.finished for r in rows(out.read_bytes()))
    assert 0 < cut < 15
    assert report == SampleReport(out=out, prompts=5, responses=15, kept=0, cut=0, unfinished=cut)
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]


def test_second_run_draws_nothing_and_leaves_the_file_alone(tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "out.jsonl"
    first = run(out)
    generator = HexGenerator()
    again = run(out, generator)
    assert generator.asked == []
    assert again == replace(first, kept=15)
    assert out.read_bytes() == whole


@given(st.floats(0, 1))
def test_run_cut_at_any_byte_goes_on_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, share: float
) -> None:
    out = tmp_path_factory.mktemp("cut") / "out.jsonl"
    left = whole[: round(share * len(whole))]
    out.with_name("out.jsonl.part").write_bytes(left)
    generator = HexGenerator()
    report = run(out, generator)
    full = left.count(b"\n")
    kept = 15 if full == 15 else full // BLOCK * BLOCK
    assert out.read_bytes() == whole
    assert report.kept == kept
    assert report.cut == full - kept + (not left.endswith(b"\n") and bool(left))
    assert len(generator.asked) == 15 - kept
    assert report.unfinished == sum(not r.finished for r in rows(whole))


@pytest.mark.faults
@pytest.mark.parametrize("blocks_done", [0, 1, 3])
def test_run_killed_by_the_system_goes_on_to_the_same_bytes(
    tmp_path: Path, whole: bytes, blocks_done: int
) -> None:
    out = tmp_path / "out.jsonl"
    command = [sys.executable, __file__, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for _ in range(blocks_done):
            assert process.stdout.readline() == b"asked\n"
            process.stdin.write(b"go on\n")
            process.stdin.flush()
        assert process.stdout.readline() == b"asked\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    report = run(out)
    assert report.kept == blocks_done * BLOCK
    assert out.read_bytes() == whole


def test_another_seed_gives_other_responses(tmp_path: Path, whole: bytes) -> None:
    run(tmp_path / "out.jsonl", seed=8)
    other = rows((tmp_path / "out.jsonl").read_bytes())
    assert not {r.id for r in other} & {r.id for r in rows(whole)}


def test_row_seeds_are_fixed_for_ever_and_all_different() -> None:
    # printf '7\n0\np-1' | sha256sum, the first 13 digits
    assert row_seed(7, "p-1", 0) == 0x3EDB4559B886A
    seeds = {row_seed(s, f"p-{p}", i) for s in range(5) for p in range(50) for i in range(8)}
    assert len(seeds) == 5 * 50 * 8
    assert max(seeds) < 2**52


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.part"])
def test_file_of_another_generator_is_refused_and_kept(
    tmp_path: Path, whole: bytes, name: str
) -> None:
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(RowError, match=rf"{name}:1: not a response of this model"):
        run(tmp_path / "out.jsonl", HexGenerator(name="hex@2"))
    assert (tmp_path / name).read_bytes() == whole


def test_damaged_row_in_the_middle_is_refused_and_kept(tmp_path: Path, whole: bytes) -> None:
    part = tmp_path / "out.jsonl.part"
    lines = whole.splitlines(keepends=True)
    damaged = b"".join([*lines[:5], b"\x00" * 40 + b"\n", *lines[6:9]])
    part.write_bytes(damaged)
    with pytest.raises(RowError, match=r"out.jsonl.part:6: damaged row"):
        run(tmp_path / "out.jsonl")
    assert part.read_bytes() == damaged


def test_short_file_under_the_final_name_is_refused(tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:6]))
    with pytest.raises(DataError, match="6 responses, not the 15 asked for"):
        run(out)


def test_file_that_another_process_is_writing_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    class Nested(HexGenerator):
        def respond(self, requests: Sequence[Request]) -> list[Response]:
            with pytest.raises(DataError, match="another process is writing it"):
                run(out)
            return super().respond(requests)

    assert run(out, Nested()).responses == 15


def test_prompt_that_cannot_be_answered_stops_before_any_work(tmp_path: Path) -> None:
    generator = HexGenerator()
    prompts = [*PROMPTS, make_prompt(user("too long"))]
    with pytest.raises(ModelError, match="too long"):
        sample(prompts, generator, n=1, seed=0, out=tmp_path / "out.jsonl", block=2)
    assert generator.asked == []
    assert list(tmp_path.iterdir()) == []


def test_generator_that_mixes_up_its_answers_is_refused(tmp_path: Path) -> None:
    class Backwards(HexGenerator):
        def respond(self, requests: Sequence[Request]) -> list[Response]:
            return super().respond(requests)[::-1]

    with pytest.raises(DataError, match="did not answer what was asked"):
        run(tmp_path / "out.jsonl", Backwards())


def test_folder_as_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        run(tmp_path)


def test_prompt_given_twice_is_refused() -> None:
    with pytest.raises(DataError, match="given twice"):
        plan([PROMPTS[0], PROMPTS[0]], HexGenerator(), n=1, seed=0)


def test_no_prompts_are_refused() -> None:
    with pytest.raises(DataError, match="no prompts"):
        plan([], HexGenerator(), n=1, seed=0)


@pytest.mark.parametrize(("n", "seed"), [(0, 1), (1, -1)])
def test_n_and_seed_out_of_range_are_refused(n: int, seed: int) -> None:
    with pytest.raises(SettingsError, match=f"n {n}, seed {seed}"):
        plan(PROMPTS, HexGenerator(), n=n, seed=seed)


def test_several_greedy_samples_are_refused() -> None:
    with pytest.raises(SettingsError, match="gives 2 equal responses"):
        plan(PROMPTS, HexGenerator(temperature=0), n=2, seed=0)
    assert len(plan(PROMPTS, HexGenerator(temperature=0), n=1, seed=0)) == 5


@pytest.mark.parametrize("extra", [{"top_p": 0.9}, {"top_k": 5}])
def test_filters_at_temperature_0_are_refused(extra: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="temperature 0 takes no notice"):
        GenerateSettings(temperature=0, **extra)  # type: ignore[arg-type]  # one float, one int


def test_whole_number_settings_ask_for_the_same_responses() -> None:
    one = plan(PROMPTS, HexGenerator(temperature=1), n=1, seed=0)
    assert one == plan(PROMPTS, HexGenerator(temperature=1.0), n=1, seed=0)


if __name__ == "__main__":  # the process that a test kills
    run(Path(sys.argv[1]), HexGenerator(waits=True))
