"""The tables. Every row but people's own belongs to one project; times are UTC, ISO 8601.

Only `events` is the truth about labelling: it is appended to and never changed, each row sealed by
a hash over itself and the row before. `items`, `leases` and `judgments` follow from it and are kept
in the same transaction, so that pages need not read the whole log.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

ID = String(64)
HASH = String(64)  # SHA-256, hex
TIME = String(32)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = Table(
    "users",
    metadata,
    Column("id", ID, primary_key=True),
    Column("email", String(320), nullable=False, unique=True),  # lower case
    Column("name", String(200), nullable=False),
    Column("password_hash", String(200), nullable=False),  # argon2id
    Column("is_admin", Boolean, nullable=False, default=False),
    Column("disabled_at", TIME),
    Column("created_at", TIME, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", HASH, primary_key=True),
    Column("user_id", ID, ForeignKey("users.id"), nullable=False, index=True),
    Column("created_s", Float, nullable=False),  # seconds since 1970
    Column("seen_s", Float, nullable=False),
)

resets = Table(  # links for a new password, one for each person at most
    "resets",
    metadata,
    Column("user_id", ID, ForeignKey("users.id"), primary_key=True),
    Column("token_hash", HASH, nullable=False, unique=True),
    Column("expires_s", Float, nullable=False),
)

invites = Table(
    "invites",
    metadata,
    Column("token_hash", HASH, primary_key=True),
    Column("project_id", ID, ForeignKey("projects.id")),  # none: to the installation
    Column("role", String(16), nullable=False),  # admin, lead or rater
    Column("created_by", ID, nullable=False),  # a user, or "setup"
    Column("expires_s", Float, nullable=False),
    Column("used_by", ID),
)

login_attempts = Table(
    "login_attempts",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("who", String(330), nullable=False),  # account:… or address:…
    Column("at_s", Float, nullable=False),
    Index(None, "who", "at_s"),
)

projects = Table(
    "projects",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("settings", Text, nullable=False),  # ProjectSettings as JSON
    Column("secret", HASH, nullable=False),  # key of the side order
    Column("last_seq", BigInteger, nullable=False, default=0),  # of its events
    Column("last_hash", HASH, nullable=False, default=""),
    # Items to label, counted with each change: counting them anew reads all of them.
    Column("items_open", Integer, nullable=False, default=0, server_default="0"),
    Column("items_done", Integer, nullable=False, default=0, server_default="0"),  # or settled
    Column("created_at", TIME, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("project_id", ID, ForeignKey("projects.id"), primary_key=True),
    Column("user_id", ID, ForeignKey("users.id"), primary_key=True, index=True),
    Column("role", String(16), nullable=False),  # lead or rater
    Column("state", String(16), nullable=False, default="active"),  # active, paused or excluded
    Column("judged", Integer, nullable=False, default=0, server_default="0"),  # times that stand
)

guidelines = Table(
    "guidelines",
    metadata,
    Column("project_id", ID, ForeignKey("projects.id"), primary_key=True),
    Column("version", Integer, primary_key=True),  # 1, 2, …
    Column("text", Text, nullable=False),
    Column("hash", HASH, nullable=False),
    Column("author_id", ID, nullable=False),
    Column("created_at", TIME, nullable=False),
)

items = Table(
    "items",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, ForeignKey("projects.id"), nullable=False),
    Column("position", Integer, nullable=False),  # order of import
    Column("comparison_id", String(200), nullable=False),
    Column("content", Text, nullable=False),  # prompt and responses as JSON
    Column("kind", String(16), nullable=False),  # binary, scale, ranking or rewrite
    Column("gold", Text),  # expected verdicts as JSON; none: not a gold item
    Column("use", String(16), nullable=False),  # label, gold or calibration
    Column("wanted", Integer, nullable=False),  # raters
    Column("votes", Integer, nullable=False, default=0),  # raters who judged it
    Column("held", Integer, nullable=False, default=0),  # raters who have it before them
    Column("state", String(16), nullable=False, default="open"),  # open, done, settled, withdrawn
    Column("disagreement", Float, nullable=False, default=0.0),  # 0..1
    UniqueConstraint("project_id", "comparison_id"),
    Index(None, "project_id", "use", "state", "votes", "position"),
    Index(None, "project_id", "use", "state", "disagreement"),
    Index(None, "project_id", "position"),
)

leases = Table(
    "leases",
    metadata,
    Column("item_id", ID, ForeignKey("items.id"), primary_key=True),
    Column("user_id", ID, ForeignKey("users.id"), primary_key=True, index=True),
    Column("project_id", ID, ForeignKey("projects.id"), nullable=False),
    Column("round", Integer, nullable=False),  # 0: first time; 1, …: shown again unannounced
    Column("until_s", Float, nullable=False),
    Index(None, "project_id", "until_s"),
)

judgments = Table(
    "judgments",
    metadata,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, ForeignKey("projects.id"), nullable=False),
    Column("item_id", ID, ForeignKey("items.id"), nullable=False, index=True),
    Column("user_id", ID, ForeignKey("users.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),  # the event it came with
    Column("round", Integer, nullable=False),
    Column("dimension", String(100), nullable=False),
    Column("kind", String(16), nullable=False),  # as types.Judgment
    Column("value", Text, nullable=False),  # verdict as shown, JSON
    Column("shown", String(200), nullable=False),  # places of the comparison in the order shown
    Column("why", Text, nullable=False, default=""),
    Column("guideline", Integer, nullable=False, default=0),  # version; 0: none written yet
    Column("seconds", Float),
    Column("right", Boolean),  # on a gold item: as expected
    Column("settles", Boolean, nullable=False, default=False),  # a lead's, after disagreement
    Column("live", Boolean, nullable=False, default=True),  # False: revised or undone
    Column("at", TIME, nullable=False),
    Index(None, "project_id", "user_id", "seq"),
    Index(None, "project_id", "live", "item_id"),
)

events = Table(
    "events",
    metadata,
    Column("project_id", ID, ForeignKey("projects.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),  # 1, 2, … without a gap
    Column("type", String(32), nullable=False),
    Column("user_id", ID, nullable=False),
    Column("item_id", ID, index=True),
    Column("key", String(128)),  # the client's own name for the request
    Column("data", Text, nullable=False),  # JSON
    Column("at", TIME, nullable=False),
    Column("hash", HASH, nullable=False),  # over the row and the hash before it
    UniqueConstraint("project_id", "user_id", "key"),
    Index(None, "project_id", "type", "seq"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("project_id", ID, ForeignKey("projects.id"), primary_key=True),
    Column("hash", HASH, primary_key=True),  # of the rows
    Column("name", String(200), nullable=False),
    Column("manifest", Text, nullable=False),  # JSON: counts, policy, raters, guidelines
    Column("created_by", ID, nullable=False),
    Column("created_at", TIME, nullable=False),
)
