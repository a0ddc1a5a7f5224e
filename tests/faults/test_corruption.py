"""R5, T16: whatever is damaged or smuggled into a checkpoint is found before the first step."""

import multiprocessing
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from preftune.datasets import write_records
from preftune.engine.checkpoint import MANIFEST, newest_checkpoint, save_checkpoint
from preftune.engine.settings import OptimizerSettings
from preftune.errors import CheckpointError
from preftune.files import sha256_of
from preftune.models.new import new_model
from preftune.training import sft
from preftune.training.logs import read_rows
from preftune.training.settings import RunSettings, SftSettings
from preftune.types import Demonstration, assistant, make_prompt, user

FLIPS = 200
CUTS = 40
ORIGIN = {"data": "d0"}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["preftune.training.sft"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 1 and 2."""
    for step in (1, 2):
        weight = torch.randn(20, 10, generator=torch.Generator().manual_seed(step))
        tensors = {
            "model": {"weight": weight},
            "optimizer": {"weight/exp_avg": weight.square()},
            "extra": {"mean": weight.mean()},
        }
        save_checkpoint(tmp_path, step=step, tensors=tensors, state={"n": step}, origin=ORIGIN)
    return tmp_path


def assert_set_aside(root: Path, *names: str) -> None:
    """Check that step 2 is found out and named, step 1 is used; then take step 2 back."""
    checkpoint, notes = newest_checkpoint(root, origin=ORIGIN)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert len(notes) == 1
    assert any(name in notes[0] for name in names), notes
    aside = root / "step-000002.corrupt"
    aside.rename(root / "step-000002")


def test_r05_every_flipped_bit_is_found(root: Path) -> None:
    files = sorted((root / "step-000002").iterdir())
    rng = random.Random(0)
    for _ in range(FLIPS):
        file = rng.choice(files)
        whole = file.read_bytes()
        place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        assert_set_aside(root, file.name)
        file.write_bytes(whole)
    checkpoint, notes = newest_checkpoint(root, origin=ORIGIN)
    assert checkpoint is not None
    assert (checkpoint.step, notes) == (2, [])


def test_r05_every_cut_is_found(root: Path) -> None:
    files = sorted((root / "step-000002").iterdir())
    rng = random.Random(1)
    for number in range(CUTS):
        file = files[number % len(files)]
        whole = file.read_bytes()
        file.write_bytes(whole[: rng.choice([0, len(whole) - 1, rng.randrange(len(whole))])])
        assert_set_aside(root, file.name)
        file.write_bytes(whole)


def manifest_is_missing(old: Path, new: Path) -> None:
    (new / MANIFEST).unlink()


def state_is_missing(old: Path, new: Path) -> None:
    (new / "state.json").unlink()


def group_is_missing(old: Path, new: Path) -> None:
    (new / "extra.safetensors").unlink()


def file_is_of_the_other_checkpoint(old: Path, new: Path) -> None:
    shutil.copy(old / "model.safetensors", new)


def groups_are_swapped(old: Path, new: Path) -> None:
    shutil.copy(new / "model.safetensors", new / "kept")
    shutil.move(new / "optimizer.safetensors", new / "model.safetensors")
    shutil.move(new / "kept", new / "optimizer.safetensors")


def manifest_is_stale(old: Path, new: Path) -> None:
    shutil.copy(old / MANIFEST, new)


def all_files_are_of_the_other_checkpoint(old: Path, new: Path) -> None:
    shutil.copytree(old, new, dirs_exist_ok=True)


def file_is_added(old: Path, new: Path) -> None:
    (new / "scheduler.json").write_text("{}")


def file_is_added_below(old: Path, new: Path) -> None:
    (new / "more").mkdir()
    (new / "more" / "rank_1.safetensors").write_bytes(b"x")


def folder_is_empty(old: Path, new: Path) -> None:
    shutil.rmtree(new)
    new.mkdir()


def file_is_a_folder(old: Path, new: Path) -> None:
    (new / "model.safetensors").unlink()
    (new / "model.safetensors").mkdir()


def file_is_a_dead_link(old: Path, new: Path) -> None:
    (new / "model.safetensors").unlink()
    (new / "model.safetensors").symlink_to(new / "nowhere")


DAMAGES: list[tuple[Callable[[Path, Path], None], str]] = [
    (manifest_is_missing, f"no readable {MANIFEST}"),
    (state_is_missing, "state.json is missing"),
    (group_is_missing, "extra.safetensors is missing"),
    (file_is_of_the_other_checkpoint, "model.safetensors differs"),
    (groups_are_swapped, "model.safetensors"),
    (manifest_is_stale, "differs from its SHA-256"),
    (all_files_are_of_the_other_checkpoint, "its manifest is of another step"),
    (file_is_added, "scheduler.json is not in"),
    (file_is_added_below, "more/rank_1.safetensors is not in"),
    (folder_is_empty, f"no readable {MANIFEST}"),
    (file_is_a_folder, "model.safetensors is missing"),
    (file_is_a_dead_link, "model.safetensors is missing"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[d.__name__ for d, _ in DAMAGES])
def test_r05_structural_damage_is_found(
    root: Path, damage: Callable[[Path, Path], None], said: str
) -> None:
    damage(root / "step-000001", root / "step-000002")
    assert_set_aside(root, said)


def test_r05_half_a_temporary_folder_is_never_looked_at(root: Path) -> None:
    half = root / ".step-000003.x1y2.tmp"
    shutil.copytree(root / "step-000002", half)
    (half / MANIFEST).unlink()
    checkpoint, notes = newest_checkpoint(root, origin=ORIGIN)
    assert checkpoint is not None
    assert (checkpoint.step, notes) == (2, [])


def test_r05_when_all_are_damaged_it_says_that_it_starts_again(root: Path) -> None:
    for step in (1, 2):
        (root / f"step-00000{step}" / "model.safetensors").write_bytes(b"")
    checkpoint, notes = newest_checkpoint(root, origin=ORIGIN)
    assert checkpoint is None
    assert len(notes) == 3
    assert "Starting again at step 0" in notes[2]
    assert {p.name for p in root.iterdir()} == {"step-000001.corrupt", "step-000002.corrupt"}


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 1, "loss": 0.5', b'{"step": \xff}', b"\x00"],
    ids=["cut", "not-utf-8", "zero"],
)
def test_r05_a_damaged_log_is_named(tmp_path: Path, damage: bytes) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(b'{"step": 0}\n' + damage + b'\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: .* Start the run in a new folder"):
        read_rows(log)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corruption")
    rows = [
        Demonstration(
            id=f"row-{place}",
            prompt=make_prompt(user(f"item {place} ?")),
            response=(assistant(f"yes item {place % 3} ."),),
        )
        for place in range(12)
    ]
    texts = [m.content for row in rows for m in (*row.prompt.messages, *row.response)]
    new_model(folder / "base", preset="tiny", texts=texts, vocab_size=50, seed=0, tokenizer="words")
    write_records(folder / "chats.jsonl", rows, format="preftune")
    return folder


def settings_of(world: Path, out: Path) -> SftSettings:
    return SftSettings(
        model=str(world / "base"),
        data=world / "chats.jsonl",
        optimizer=OptimizerSettings(lr=1e-3, batch_size=3, epochs=1.0),
        run=RunSettings(out=out, threads=1, save_every=1),
    )


def results(run: Path) -> dict[str, str]:
    files = [*sorted((run / "final").iterdir()), run / "metrics.jsonl"]
    return {file.name: sha256_of(file) for file in files}


@pytest.mark.faults
def test_r05_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bytes(
    world: Path, tmp_path: Path
) -> None:
    s = settings_of(world, tmp_path / "run")
    sft.train(s)
    wanted = results(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    raw = bytearray((newest / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (newest / "model.safetensors").write_bytes(raw)
    sft.train(s)
    assert results(tmp_path / "run") == wanted
    said = [row["warning"] for row in read_rows(tmp_path / "run" / "warnings.jsonl")]
    assert any(f"{newest.name}: model.safetensors differs" in line for line in said)
    assert newest.with_name(f"{newest.name}.corrupt").is_dir()


@pytest.mark.faults
def test_r05_a_damaged_final_model_is_published_again_and_torn_lines_are_cut(
    world: Path, tmp_path: Path
) -> None:
    s = settings_of(world, tmp_path / "run")
    sft.train(s)
    wanted = results(tmp_path / "run")
    (tmp_path / "run" / "final" / "config.json").write_text("{}")
    for name in ("metrics.jsonl", "warnings.jsonl"):
        with (tmp_path / "run" / name).open("ab") as log:
            log.write(b'{"step": 3, "war')  # killed while it was writing a line
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace(str(torch.__version__), "1.0"))
    sft.train(s)
    assert results(tmp_path / "run") == wanted
    (warning,) = read_rows(tmp_path / "run" / "warnings.jsonl")
    assert "resumed with other torch" in warning["warning"]


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, sings: Path) -> None:
        self.sings = sings

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.sings,)


def train_watched(settings: SftSettings, report: Path) -> None:
    """Train, and write down every file that was opened."""
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    sft.train(settings)
    report.write_text("\n".join(opened))


@pytest.mark.faults
def test_t16_pickles_lying_about_are_never_opened(world: Path, tmp_path: Path) -> None:
    base, run, sings = tmp_path / "base", tmp_path / "run", tmp_path / "sings"
    shutil.copytree(world / "base", base)
    shutil.copy(world / "chats.jsonl", tmp_path)
    s = settings_of(tmp_path, run)
    sft.train(s)
    wanted = results(run)
    shutil.rmtree(run / "final")
    newest = sorted((run / "checkpoints").iterdir())[-1]
    song = pickle.dumps(Canary(sings))
    names = ("pytorch_model.bin", "model.pt", "optimizer.pth", "state.pkl", "last.ckpt")
    places = [folder / name for folder in (base, run, newest, newest.parent) for name in names]
    for place in places:
        place.write_bytes(song)
    child = CONTEXT.Process(target=train_watched, args=(s, tmp_path / "opened"))
    child.start()
    child.join()
    assert child.exitcode == 0
    opened = (tmp_path / "opened").read_text().splitlines()
    assert str(newest / MANIFEST) in opened
    assert not [path for path in opened if Path(path).name in names]
    assert not sings.exists()
    assert results(run) == wanted
    assert newest.with_name(f"{newest.name}.corrupt").is_dir()
    subprocess.run([sys.executable, "-m", "pickle", places[0]], check=True)
    assert sings.exists()  # a canary that cannot sing would prove nothing
