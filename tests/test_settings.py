from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from preftune.errors import SettingsError
from preftune.settings import build, checked, flat, options, read_yaml, write_yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSettings:
    lr: Annotated[float, Meta(gt=0, description="Rate.")] = 1e-4
    kind: Annotated[Literal["a", "b"], Meta(description="Kind.")] = "a"


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeSettings:
    out: Annotated[Path, Meta(description="Where.")]
    names: Annotated[tuple[str, ...], Meta(description="Names.")] = ()
    extra: Annotated[Path | None, Meta(description="More.")] = None
    group: GroupSettings = field(default_factory=GroupSettings)


def test_flat_names_fill_the_groups() -> None:
    made = build(WholeSettings, {"out": "x", "lr": 0.5, "kind": "b", "names": ["n"]})
    assert made == WholeSettings(out=Path("x"), names=("n",), group=GroupSettings(lr=0.5, kind="b"))


def test_yaml_numbers_written_as_1e_4_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("out: x\nlr: 1e-4\n")
    assert build(WholeSettings, read_yaml(file)).group.lr == 1e-4


@given(st.floats(1e-9, 1e9), st.sampled_from(["a", "b"]), st.lists(st.text(max_size=5), max_size=3))
def test_settings_written_and_read_are_equal(lr: float, kind: str, names: list[str]) -> None:
    import yaml

    made = WholeSettings(
        out=Path("x/y"),
        names=tuple(names),
        group=GroupSettings(lr=lr, kind=kind),  # type: ignore[arg-type]  # one of the two
    )
    assert build(WholeSettings, yaml.safe_load(write_yaml(made))) == made
    assert checked(made) == made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"out": "x", "lrr": 1}, r"run\.yaml: unknown setting 'lrr'\. Did you mean 'lr'\?"),
        ({"out": "x", "zzzzzz": 1}, r"unknown setting 'zzzzzz'\. Known: out, names"),
        ({}, r"run\.yaml: out is missing\. Give it \(Where\.\)"),
        ({"out": "x", "lr": 0}, r"run\.yaml: lr: .*> 0\.0, got 0\. Rate\."),
        ({"out": "x", "lr": "fast"}, r"run\.yaml: lr: .*, got 'fast'"),
        ({"out": "x", "kind": "c"}, r"run\.yaml: kind: "),
        ({"out": "x", "lr": float("nan")}, r"lr is nan\. Give a finite number"),
        ({"out": "x", "lr": float("inf")}, r"lr is inf"),
    ],
)
def test_a_bad_setting_is_named_with_its_place_and_remedy(
    given: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        build(WholeSettings, given, where="run.yaml")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "1: 2", "\x00"])
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"s\.yaml: .*\. "):
        read_yaml(file)


def test_options_are_flattened_in_order_with_their_help() -> None:
    assert [(o.name, o.help) for o in options(WholeSettings)] == [
        ("out", "Where."),
        ("names", "Names."),
        ("extra", "More."),
        ("lr", "Rate."),
        ("kind", "Kind."),
    ]
    assert flat(WholeSettings(out=Path("x")))["lr"] == 1e-4
