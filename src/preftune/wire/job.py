"""What the server and a training worker say to each other.

A worker process reads an `Order`, one line of JSON, from its standard input; it may have waited for
it with its libraries loaded. It speaks HTTP to the server's `/internal/jobs/{job_id}/…`, one POST
a message; every message carries the fence of its lease. Where the fence is no longer current the
server answers 410, and the worker leaves without another word.
"""

from typing import Any, Literal

from msgspec import Struct

SPEC_FILE = "job.json"
LEASE_S, BEAT_S = 20.0, 5.0
LOST = 410  # HTTP status: somebody else has the job now

Asked = Literal["", "pause", "cancel"]
Outcome = Literal["succeeded", "failed", "paused", "cancelled", "stopped"]
"""How a worker ends: "stopped" is SIGTERM, after which the job waits to go on."""


class Order(Struct, frozen=True, kw_only=True):
    """What a worker process is to do; paths are absolute."""

    spec: str  # file of the `JobSpec`
    log: str  # file that its output goes to from now on
    secret: str  # shows that it is the worker of this job; never on a command line


class JobSpec(Struct, frozen=True, kw_only=True):
    """All that a worker needs to know; paths are absolute."""

    job_id: str
    fence: int
    server: str  # http://host:port
    folder: str  # of this attempt; nobody else writes here
    earlier: str = ""  # folder of the attempt before, to go on from; "": from the start
    model: str  # folder of the model that training starts from
    base: str  # folder of its base; equal to `model` for a base model
    training: str  # rows, JSONL
    training_name: str  # file name to call it by in messages
    validation: str = ""
    validation_name: str = ""
    method: Literal["supervised", "dpo", "reinforcement"]
    hyperparameters: dict[str, Any]  # numbers or "auto"
    grader: dict[str, Any] | None = None
    extras: dict[str, Any] = {}  # our extensions: `method.preftune`
    seed: int
    least_examples: int = 10
    threads: int = 1
    python_graders: bool = True
    models: dict[str, str] = {}  # name to folder of models that graders and gates may use


class Event(Struct, frozen=True, kw_only=True):
    """One line of a job's history. `key` makes it unique: sent again, it is not told again."""

    key: str
    message: str
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None
    created_s: float


class Beat(Struct, frozen=True, kw_only=True):
    """POST …/beat: still here. The answer is `Beaten`. `step` counts checkpointed steps."""

    fence: int
    step: int
    total_steps: int | None = None
    estimated_finish_s: float | None = None


class Beaten(Struct, frozen=True, kw_only=True):
    """What the server wants of the worker."""

    asked: Asked = ""


class Events(Struct, frozen=True, kw_only=True):
    """POST …/events."""

    fence: int
    events: list[Event]


class Started(Struct, frozen=True, kw_only=True):
    """POST …/started: the files are valid, training begins with these numbers."""

    fence: int
    hyperparameters: dict[str, Any]
    total_steps: int


class Checkpoint(Struct, frozen=True, kw_only=True):
    """POST …/checkpoint: a model that can answer is whole in `folder`. The answer is `Named`."""

    fence: int
    step: int
    folder: str  # relative to the folder of the attempt
    manifest_hash: str
    metrics: dict[str, Any]


class Named(Struct, frozen=True, kw_only=True):
    """What a checkpoint is called."""

    name: str


class Problem(Struct, frozen=True, kw_only=True):
    """Why a job failed, in the words of the API."""

    code: str
    message: str
    param: str | None = None


class Finish(Struct, frozen=True, kw_only=True):
    """POST …/finish: the worker's last word. A failed or succeeded job ends with it."""

    fence: int
    outcome: Outcome
    step: int
    folder: str = ""  # of the final model, relative to the folder of the attempt
    manifest_hash: str = ""
    metrics: dict[str, Any] = {}
    result_csv: str = ""  # the same
    trained_tokens: int | None = None
    verdict: dict[str, Any] | None = None
    error: Problem | None = None
    why: str = ""  # of a pause that nobody asked for, such as a full disk
