"""One file from several models and temperatures."""

from pathlib import Path

import pytest
from tests.responses.test_sample import PROMPTS, HexGenerator, N, rows

from preftune.errors import SettingsError
from preftune.responses.sample import sample


def three() -> list[HexGenerator]:
    return [HexGenerator(), HexGenerator(temperature=0.7), HexGenerator(name="hex@2")]


def test_file_holds_generator_after_generator(tmp_path: Path) -> None:
    generators = three()
    report = sample(PROMPTS, generators, n=N, seed=7, out=tmp_path / "out", block=4)
    found = rows((tmp_path / "out").read_bytes())
    each = len(PROMPTS) * N
    assert report.responses == len({r.id for r in found}) == 3 * each
    said = [(r.generator, r.sampling.temperature) for r in found if r.sampling]
    assert said == [("hex@1", 1.0)] * each + [("hex@1", 0.7)] * each + [("hex@2", 1.0)] * each
    assert [r.prompt_id for r in found] == 3 * [p.id for p in PROMPTS for _ in range(N)]
    for generator in generators:  # nobody is asked for another's
        assert len(generator.asked) == each


def test_one_in_a_list_gives_the_same_bytes_as_one(tmp_path: Path) -> None:
    for name, generators in (("one", HexGenerator()), ("list", [HexGenerator()])):
        sample(PROMPTS, generators, n=N, seed=7, out=tmp_path / name, block=4)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "list").read_bytes()


@pytest.mark.parametrize("kept", [0, 7, 15, 16, 29, 44])
def test_cut_file_goes_on_in_the_middle_of_any_generator(tmp_path: Path, kept: int) -> None:
    sample(PROMPTS, three(), n=N, seed=7, out=tmp_path / "whole", block=4)
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    (tmp_path / "out.part").write_bytes(b"".join(lines[:kept]))
    report = sample(PROMPTS, three(), n=N, seed=7, out=tmp_path / "out", block=4)
    assert report.kept == kept // 4 * 4
    assert (tmp_path / "out").read_bytes() == b"".join(lines)


def test_same_generator_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="hex@1: one is given twice"):
        sample(PROMPTS, [HexGenerator(), HexGenerator()], n=1, seed=0, out=tmp_path / "out")
    with pytest.raises(SettingsError, match="no generator"):
        sample(PROMPTS, [], n=1, seed=0, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
