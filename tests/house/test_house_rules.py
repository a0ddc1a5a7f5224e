"""The rules of the house: lengths, settings, layers, docs that equal the code."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = sorted((ROOT / "src").rglob("*.py"))
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in SOURCE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield path, node


def fields(node: ast.ClassDef) -> list[str]:
    return [
        line.target.id
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]


SETTINGS = [(path, node) for path, node in classes() if node.name.endswith("Settings")]


def test_no_source_file_is_over_400_lines() -> None:
    long = {str(path): n for path in SOURCE if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_no_function_is_over_60_lines() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path in SOURCE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, FUNCTION) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


def test_settings_classes_are_found_and_have_at_most_15_fields() -> None:
    assert len(SETTINGS) >= 8
    assert not [node.name for _, node in SETTINGS if len(fields(node)) > 15]


@pytest.mark.parametrize(
    ("name", "field"), [(node.name, field) for _, node in SETTINGS for field in fields(node)]
)
def test_every_setting_is_read(name: str, field: str) -> None:
    reads = re.compile(rf"\.{field}\b")
    assert any(reads.search(path.read_text()) for path in SOURCE), f"{name}.{field} changes nothing"


def test_a_setting_has_one_name_in_all_the_groups_of_a_class() -> None:
    from preftune.settings import options
    from preftune.training.method_settings import (
        ListwiseSettings,
        RewardSettings,
        UnpairedSettings,
    )
    from preftune.training.policy_settings import OnlineSettings, PpoSettings, RftSettings
    from preftune.training.settings import DirectSettings, SftSettings

    on_pairs = (DirectSettings, UnpairedSettings, ListwiseSettings)
    on_rollouts = (RftSettings, PpoSettings, OnlineSettings)
    for cls in (SftSettings, RewardSettings, *on_pairs, *on_rollouts):
        names = [option.name for option in options(cls)]
        assert len(names) == len(set(names))
        assert all(option.help for option in options(cls))


def test_no_recipe_is_over_80_lines() -> None:
    recipes = list((ROOT / "recipes").glob("*.py"))
    assert recipes
    assert not [path for path in recipes if len(path.read_text().splitlines()) >= 80]


@pytest.mark.parametrize("command", [["--help"], ["train", "direct", "--help"], ["--version"]])
def test_help_loads_no_torch(command: list[str]) -> None:
    program = (
        "import sys; from preftune.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'peft', 'matplotlib', 'scipy'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_importing_preftune_loads_no_torch() -> None:
    program = "import preftune, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_cli_reference_equals_the_commands() -> None:
    from preftune.cli.reference import reference

    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "run: make docs"


def test_every_command_has_help_and_an_example() -> None:
    from preftune.cli.reference import commands

    for name, command in commands():
        assert command.help, name
        assert "Example" in command.help, f"{name} has no example"


def test_nothing_tracked_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    foreign = re.compile(r"(^|[^\w.])/(home|root|work|Users)/")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ""} and path.is_file():
            for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1):
                assert not foreign.search(line) or name == "tests/house/test_house_rules.py", (
                    f"{name}:{number}: {line}"
                )
