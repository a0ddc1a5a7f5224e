"""The tables of the jobs API. Each row belongs to a project; times are seconds since 1970, UTC.

The lease of a job is counted on another clock, see `store/clock.py`, and never compared with these.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from preftune.store.schema import HASH, ID, metadata

SEQ = BigInteger().with_variant(Integer, "sqlite")
NAME = String(300)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", ID, primary_key=True),  # key-…
    Column("project_id", ID, ForeignKey("projects.id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("secret_hash", HASH, nullable=False, unique=True),
    Column("shown", String(16), nullable=False),  # its first characters, to tell keys apart
    Column("scopes", Text, nullable=False),  # JSON list
    Column("requests_per_minute", Integer, nullable=False),
    Column("made_by", ID, nullable=False),  # a user, or "setup"
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float),
    Column("used_s", Float),
    Column("revoked_s", Float),
)

blobs = Table(  # contents of files, kept once in each project
    "blobs",
    metadata,
    Column("project_id", ID, ForeignKey("projects.id"), primary_key=True),
    Column("sha256", HASH, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
)

api_files = Table(
    "api_files",
    metadata,
    Column("seq", SEQ, primary_key=True),  # order of creation
    Column("id", ID, nullable=False, unique=True),  # file-…
    Column("project_id", ID, ForeignKey("projects.id"), nullable=False),
    Column("filename", String(1000), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("sha256", HASH, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float),
    Column("deleted_s", Float),
    ForeignKeyConstraint(["project_id", "sha256"], ["blobs.project_id", "blobs.sha256"]),
    Index(None, "project_id", "seq"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", ID, primary_key=True),  # upload_…
    Column("project_id", ID, ForeignKey("projects.id"), nullable=False, index=True),
    Column("filename", String(1000), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("mime_type", String(200), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # pending, completed, cancelled or expired
    Column("file_id", ID),
    Column("file_expires_after_s", Float),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", ID, primary_key=True),  # part_…
    Column("upload_id", ID, ForeignKey("uploads.id"), nullable=False, index=True),
    Column("project_id", ID, nullable=False),
    Column("sha256", HASH, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
)

idempotency = Table(  # first answers to requests that make something
    "idempotency",
    metadata,
    Column("project_id", ID, ForeignKey("projects.id"), primary_key=True),
    Column("key", String(300), primary_key=True),
    Column("request_hash", HASH, nullable=False),  # of method, path and body
    Column("answer", Text),
    Column("created_s", Float, nullable=False, index=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", SEQ, primary_key=True),  # order of creation
    Column("id", ID, nullable=False, unique=True),  # ftjob-…
    Column("project_id", ID, ForeignKey("projects.id"), nullable=False),
    Column("key_id", ID),  # the API key that asked for it
    Column("model", NAME, nullable=False),  # as asked: a base, ft:… or a checkpoint
    Column("method", String(32), nullable=False),  # supervised, dpo or reinforcement
    Column("request", Text, nullable=False),  # what was asked, JSON
    Column("resolved", Text, nullable=False),  # hyperparameters, "auto" made a number; JSON
    Column("training_file", ID, nullable=False),
    Column("validation_file", ID),
    Column("seed", BigInteger, nullable=False),
    Column("suffix", String(64), nullable=False),
    Column("metadata", Text),  # JSON; none: null
    Column("state", String(20), nullable=False),
    Column("asked", String(8), nullable=False),  # of the worker: "", pause or cancel
    Column("why", String(200), nullable=False),  # why it waits, such as a full disk
    Column("attempt", Integer, nullable=False),  # attempts without progress, this one included
    Column("fence", BigInteger, nullable=False),  # raised by each claim
    Column("lease_owner", String(200), nullable=False),  # "": nobody has it
    Column("lease_until", Float, nullable=False),  # on the clock of leases
    Column("step", Integer, nullable=False),  # optimiser steps in the last verified checkpoint
    Column("total_steps", Integer),
    Column("claim_step", Integer, nullable=False),  # `step` when it was last claimed
    Column("last_event", Integer, nullable=False),
    Column("fine_tuned_model", NAME),
    Column("trained_tokens", BigInteger),
    Column("result_files", Text, nullable=False),  # JSON list
    Column("verdict", Text),  # of the gate, JSON
    Column("error", Text),  # JSON
    Column("created_s", Float, nullable=False),
    Column("started_s", Float),
    Column("finished_s", Float),
    Column("estimated_finish_s", Float),
    Index(None, "project_id", "seq"),
    Index(None, "state", "seq"),
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id"), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", String(512), nullable=False),
)

job_events = Table(  # appended to, never changed
    "job_events",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),  # 1, 2, … of the job
    Column("id", ID, nullable=False, unique=True),  # ftevent-…
    Column("key", String(100), nullable=False),  # what it tells of: told once, however often sent
    Column("project_id", ID, nullable=False),
    Column("level", String(8), nullable=False),  # info, warn or error
    Column("type", String(16), nullable=False),  # message or metrics
    Column("message", Text, nullable=False),
    Column("data", Text),  # JSON
    Column("created_s", Float, nullable=False),
    UniqueConstraint("job_id", "key"),
)

tuned_models = Table(  # checkpoints and final models of jobs: each answers requests
    "tuned_models",
    metadata,
    Column("seq", SEQ, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),  # ft:BASE:ORG:SUFFIX:ID[:ckpt-step-N]
    Column("checkpoint_id", ID, nullable=False, unique=True),  # ftckpt_…
    Column("project_id", ID, ForeignKey("projects.id"), nullable=False),
    Column("job_id", ID, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("base", NAME, nullable=False),  # name of the base model
    Column("step", Integer, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("folder", String(1000), nullable=False),  # within the store's files
    Column("manifest_hash", HASH, nullable=False),
    Column("metrics", Text, nullable=False),  # JSON
    Column("created_s", Float, nullable=False),
    Column("deleted_s", Float),
    Index(None, "project_id", "seq"),
    UniqueConstraint("job_id", "step", "final"),
)

work_items = Table(  # pieces of a batch that several workers share, such as judgments to ask for
    "work_items",
    metadata,
    Column("batch", ID, primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("content", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("lease_owner", String(200), nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("result", Text),  # none: not done
    Index(None, "batch", "position"),
)
