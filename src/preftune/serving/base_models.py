"""The models that this server can tune and serve, by the names that clients use."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from preftune.errors import SettingsError
from preftune.settings import read_yaml
from preftune.store import tuned_models
from preftune.text import visible

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,149}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModels:
    """The base models by name. Only these folders are ever opened: a name is never a path."""

    folders: Mapping[str, Path]

    def created_s(self, name: str) -> int:
        """Return when the folder of a model was written, in seconds since 1970."""
        return int((self.folders[name] / "config.json").stat().st_mtime)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A model that can be tuned or answer: a base, or what a job made of one."""

    name: str
    folder: Path
    base_name: str
    base: Path  # folder; equal to `folder` for a base model
    manifest_hash: str = ""  # of a tuned model, as it was published


def read_base_models(
    given: Iterable[str], file: Path | None = None, *, cache: Path | None = None
) -> BaseModels:
    """Return the models that a user names on the command line and in a file.

    Args:
        given: `NAME=FOLDER` each, or a hub id that was downloaded before.
        file: YAML, `name: folder` lines; its relative folders start where it lies.
        cache: where downloads are kept; by default where Hugging Face's libraries keep them.

    Raises:
        SettingsError: a name that is no name or is given twice, a folder without a model, or no
            model at all.
    """
    pairs = [_named(one, cache or _usual_cache()) for one in given]
    if file is not None:
        pairs += [(name, _beside(file, name, where)) for name, where in read_yaml(file).items()]
    folders: dict[str, Path] = {}
    for name, where in pairs:
        if not NAME.fullmatch(name) or ".." in name:
            raise SettingsError(
                f"model {visible(name)!r}: not a name. Use letters, digits, '.', '_', '-' and '/'."
            )
        if name in folders:
            raise SettingsError(f"model {name!r}: given twice. Name each apart.")
        folders[name] = _model_folder(name, where)
    if not folders:
        raise SettingsError("serve: no model to tune. Give --model NAME=FOLDER, or --models FILE.")
    return BaseModels(folders=folders)


def find_model(
    db: Connection, bases: BaseModels, project_id: str, name: str, *, files: Path
) -> Found | None:
    """Return the base or tuned model of this name, None where a project has none.

    A tuned model whose base is no longer configured counts as not there.

    Args:
        db: a connection that reads.
        bases: those that are configured.
        project_id: whose tuned models are looked at.
        name: as a client gives it; it is looked up, never opened.
        files: folder of what is kept beside the database.
    """
    base = bases.folders.get(name)
    if base is not None:
        return Found(name=name, folder=base, base_name=name, base=base)
    tuned = tuned_models.model(db, project_id, name)
    if tuned is None or tuned.base not in bases.folders:
        return None
    base = bases.folders[tuned.base]
    return Found(
        name=name,
        folder=files / tuned.folder,
        base_name=tuned.base,
        base=base,
        manifest_hash=tuned.manifest_hash,
    )


def _named(one: str, cache: Path) -> tuple[str, Path]:
    name, found, folder = one.partition("=")
    return (name, Path(folder)) if found else (name, _downloaded(name, cache))


def _beside(file: Path, name: str, where: object) -> Path:
    if not isinstance(where, str) or not where:
        raise SettingsError(f"{file}: {visible(name)}: no folder. Write `name: folder` lines.")
    return file.parent / where


def _model_folder(name: str, where: Path) -> Path:
    folder = where.expanduser().resolve()
    if (folder / "adapter_config.json").is_file():
        raise SettingsError(
            f"model {name}: {folder} is an adapter. Give a whole model; tune on top of it by a job."
        )
    if not (folder / "config.json").is_file():
        raise SettingsError(f"model {name}: {folder} has no config.json. Give a model folder.")
    return folder


def _usual_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _downloaded(hub_id: str, cache: Path) -> Path:
    """Return the newest snapshot of a hub id that is kept on this machine."""
    kept = cache / f"models--{hub_id.replace('/', '--')}"
    try:
        return kept / "snapshots" / (kept / "refs" / "main").read_text().strip()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"model {visible(hub_id)}: neither NAME=FOLDER nor a hub id that was downloaded. "
            "Download it first, or give --model NAME=FOLDER."
        ) from error
