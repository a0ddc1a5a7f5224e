"""What can be turned on the jobs API."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from preftune.wire.job import LEASE_S


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiSettings:
    """What the API takes, and what it may use of this machine."""

    organization: Annotated[
        str, Meta(pattern="^[A-Za-z0-9-]{0,40}$", description="In the names of tuned models.")
    ] = "preftune"
    least_examples: Annotated[
        int, Meta(ge=1, description="Rows that a training file must have.")
    ] = 10
    result_encoding: Annotated[
        Literal["plain", "base64"], Meta(description="Of step_metrics.csv, the result of a job.")
    ] = "plain"
    python_graders: Annotated[
        bool, Meta(description="Run graders that API users wrote in Python, in a sandbox.")
    ] = True
    inference_url: Annotated[
        str, Meta(description="https://…/v1 of a server that answers chats instead of ours.")
    ] = ""
    max_jobs: Annotated[
        int, Meta(ge=0, description="Jobs that train at the same time; 0: they wait.")
    ] = 1
    max_queued: Annotated[
        int,
        Meta(ge=1, description="Jobs of a project that may wait; more are refused until one ends."),
    ] = 100
    spare_worker: Annotated[
        bool,
        Meta(description="Keep a process with its libraries loaded ready for the next job."),
    ] = True
    job_threads: Annotated[
        int, Meta(ge=0, description="Processor threads of each job; 0: all but one.")
    ] = 0
    job_nice: Annotated[
        int,
        Meta(ge=0, le=19, description="The higher, the more a job gives way to other processes."),
    ] = 10
    check_kib: Annotated[
        int, Meta(ge=0, description="Files up to this size are checked when a job is made.")
    ] = 1024
    job_lease_s: Annotated[
        float, Meta(gt=0, description="A job whose worker is silent this long is given to another.")
    ] = LEASE_S
    job_start_s: Annotated[
        float, Meta(gt=0, description="The same for a worker that has just been started.")
    ] = 60.0
    job_stop_s: Annotated[
        float, Meta(gt=0, description="How long a stopping server waits for its workers.")
    ] = 60.0
