"""What an error of a job is to its user: a code, a message without paths of the server, a field."""

import os
import re
from typing import Literal

from preftune.errors import (
    DataError,
    HealthError,
    ModelError,
    PreftuneError,
    SettingsError,
)
from preftune.files import DISK_ERRORS
from preftune.wire.job import JobSpec, Problem

TRAINING, VALIDATION = "training.jsonl", "validation.jsonl"  # links to the rows, in the attempt
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")
STEP = re.compile(r"\bstep (\d+)\b")
NAMES = {"lr": "learning_rate_multiplier"}  # what a flag of ours is called in a job
PATH = re.compile(r"(?<![\w/.])/(?:[\w.@+~-]+/)+[\w.@+~-]*")
CODES: tuple[tuple[type[PreftuneError], str], ...] = (
    (HealthError, "training_failed"),
    (ModelError, "model_error"),
    (SettingsError, "invalid_method"),
    (DataError, "invalid_training_file"),
)
File = Literal["training_file", "validation_file"]


class InvalidFileError(DataError):
    """Rows that a job cannot use."""

    def __init__(self, code: str, message: str, param: File) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param

    def __reduce__(self) -> tuple[type["InvalidFileError"], tuple[str, str, File]]:
        """Keep the error picklable."""
        return type(self), (self.code, self.message, self.param)


def problem_of(error: PreftuneError, spec: JobSpec) -> Problem:
    """Return an error in the words of the API."""
    if isinstance(error, InvalidFileError):
        return Problem(code=error.code, message=error.message, param=error.param)
    message = clean(str(error), spec)
    if isinstance(error, HealthError):  # a run counts its steps from 0, the events of a job from 1
        message = STEP.sub(lambda found: f"step {int(found[1]) + 1}", message)
    code = next((code for kind, code in CODES if isinstance(error, kind)), "training_failed")
    if isinstance(error, DataError):
        names = [name for name in (VALIDATION, spec.validation) if name]
        of_validation = any(name in str(error) for name in names)
        param = "validation_file" if of_validation else "training_file"
        return Problem(code=f"invalid_{param}", message=message, param=param)
    return Problem(code=code, message=message)


def clean(message: str, spec: JobSpec) -> str:
    """Return a message with names that the user knows in place of paths and flags."""
    known = {
        spec.training: spec.training_name,
        spec.validation: spec.validation_name,
        TRAINING: spec.training_name,
        VALIDATION: spec.validation_name,
        spec.folder: "job",
        spec.base: "base model",
        spec.model: "model",  # often the same
    }
    for path, name in sorted(known.items(), key=lambda pair: -len(pair[0])):
        message = message.replace(path, name) if path else message
    message = FLAG.sub(lambda found: _in_a_job(found[1]), message)
    return PATH.sub("…", message)


def _in_a_job(flag: str) -> str:
    return NAMES.get(flag, flag.replace("-", "_"))


def disk_trouble(error: BaseException) -> str:
    """Return why a disk could not be written to, empty for any other error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in DISK_ERRORS:
            return f"disk full or broken: {os.strerror(seen.errno or 0)}"
        if "(os error 28)" in str(seen):  # said by libraries written in Rust
            return "disk full or broken: No space left on device"
        seen = seen.__cause__
    return ""
