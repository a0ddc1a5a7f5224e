"""Projects, who works in them, and the guidelines that hold."""

import hashlib
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, Row, and_, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from preftune.errors import SettingsError, StoreError
from preftune.store import events
from preftune.store.prepared import Prepared
from preftune.store.schema import guidelines, items, members, projects

Kind = Literal["binary", "scale", "ranking", "rewrite"]
Strategy = Literal["least_labelled", "disagreement", "random"]
Role = Literal["lead", "rater"]
MemberState = Literal["active", "paused", "excluded"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectSettings:
    """What raters are asked, and how the work is shared out."""

    kind: Annotated[Kind, Meta(description="How two or more responses are judged.")] = "scale"
    dimensions: Annotated[
        tuple[str, ...], Meta(min_length=1, description="What is judged, one verdict each.")
    ] = ("overall",)
    tie: Annotated[bool, Meta(description="A rater may call it a tie.")] = True
    reasons: Annotated[tuple[str, ...], Meta(description="Reasons to click on.")] = ()
    raters_per_item: Annotated[int, Meta(ge=1, description="Verdicts wanted on each item.")] = 1
    strategy: Annotated[Strategy, Meta(description="Which item comes next.")] = "least_labelled"
    gold_share: Annotated[
        float, Meta(ge=0, le=0.5, description="Share of items with a known answer, mixed in.")
    ] = 0.0
    repeat_share: Annotated[
        float, Meta(ge=0, le=0.5, description="Share of own earlier items, shown again.")
    ] = 0.0
    lease_minutes: Annotated[
        float, Meta(gt=0, description="How long an item waits for a rater who has it.")
    ] = 30.0
    break_minutes: Annotated[
        float, Meta(ge=0, description="Work after which a break is proposed; 0: never.")
    ] = 45.0

    def __post_init__(self) -> None:
        if len(set(self.dimensions)) < len(self.dimensions):
            raise SettingsError("dimensions: one is named twice. Name each once.")
        if self.gold_share + self.repeat_share > 0.5:
            raise SettingsError(
                "gold_share + repeat_share: more than half of the work would teach nothing new. "
                "Keep their sum at .5 or below."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """A project as it stands."""

    id: str
    name: str
    settings: ProjectSettings
    secret: str
    created_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A person in a project."""

    project_id: str
    user_id: str
    role: Role
    state: MemberState
    judged: int  # times they gave verdicts that stand


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a rater and the project are."""

    done_by_me: int  # items, one that came again counted again
    done: int  # items
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """Where somebody works who may judge there now."""

    project: Project
    guideline: int  # version that holds; 0: none yet
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Guideline:
    """What raters were told; version 0 is the empty one before the first."""

    version: int
    text: str
    hash: str
    author_id: str
    created_at: str


_PROJECT = select(projects).where(projects.c.id == bindparam("project"))
_MEMBER = Prepared(
    select(members).where(
        members.c.project_id == bindparam("project"), members.c.user_id == bindparam("user")
    )
)
_GUIDELINES = (
    select(guidelines)
    .where(guidelines.c.project_id == bindparam("project"))
    .order_by(guidelines.c.version.desc())
)
_LATEST = _GUIDELINES.limit(1)
_NEWEST = func.coalesce(
    select(func.max(guidelines.c.version))
    .where(guidelines.c.project_id == projects.c.id)
    .scalar_subquery(),
    0,
)
_WORKPLACE = Prepared(
    select(projects, members.c.state, members.c.judged, _NEWEST.label("guideline"))
    .join_from(
        projects,
        members,
        and_(members.c.project_id == projects.c.id, members.c.user_id == bindparam("user")),
        isouter=True,
    )
    .where(projects.c.id == bindparam("project"))
)
_COUNT_ITEMS = Prepared(
    update(projects)
    .where(projects.c.id == bindparam("project"))
    .values(
        items_open=projects.c.items_open + bindparam("opened"),
        items_done=projects.c.items_done + bindparam("ended"),
    )
)
_COUNT_JUDGED = Prepared(
    update(members)
    .where(members.c.project_id == bindparam("project"), members.c.user_id == bindparam("user"))
    .values(judged=members.c.judged + bindparam("more"))
)
_VERSION = _GUIDELINES.where(guidelines.c.version == bindparam("version"))

NO_GUIDELINE = Guideline(version=0, text="", hash="", author_id="", created_at="")


def create_project(db: Connection, *, name: str, settings: ProjectSettings, by: str) -> str:
    """Make a project and return its id.

    Raises:
        StoreError: the name is empty or taken.
    """
    if not name.strip():
        raise StoreError("project: it has no name. Give one.")
    project_id = f"prj-{secrets.token_hex(16)}"
    try:
        with db.begin_nested():
            db.execute(
                insert(projects).values(
                    id=project_id,
                    name=name.strip(),
                    settings=_encoded(settings),
                    secret=secrets.token_hex(32),
                    last_seq=0,
                    last_hash="",
                    created_at=events.now(),
                )
            )
    except IntegrityError as error:
        raise StoreError(f"project {name!r}: there is one already. Take another name.") from error
    told = {"name": name.strip(), "settings": msgspec.to_builtins(settings)}
    events.append(db, project_id, type="project_created", user_id=by, data=told)
    return project_id


def project(db: Connection, project_id: str) -> Project:
    """Return a project.

    Raises:
        StoreError: no such project.
    """
    return _project(_project_row(db, project_id))


def workplace(db: Connection, project_id: str, user_id: str) -> Workplace:
    """Return a project as whoever judges in it needs it.

    Raises:
        StoreError: no such project, or the person is no member, paused or excluded.
    """
    row = _WORKPLACE.first(db, project=project_id, user=user_id)
    if row is None:
        raise StoreError(f"project {project_id}: is not there.")
    if row.state != "active":
        raise StoreError(
            f"{user_id}: {row.state or 'no member'} here. Ask the lead of the project."
        )
    return Workplace(
        project=_project(row),
        guideline=row.guideline,
        progress=Progress(
            done_by_me=row.judged, done=row.items_done, total=row.items_done + row.items_open
        ),
    )


def progress(db: Connection, project_id: str, user_id: str) -> Progress:
    """Return how far a project is, and a person in it, who need not be a member."""
    row, mine = _project_row(db, project_id), member(db, project_id, user_id)
    total = row.items_done + row.items_open
    return Progress(done_by_me=mine.judged if mine else 0, done=row.items_done, total=total)


def count_items(db: Connection, project_id: str, *, opened: int, ended: int) -> None:
    """Note that there are more items to label, or fewer, and more or fewer that are done."""
    if opened or ended:
        _COUNT_ITEMS.run(db, project=project_id, opened=opened, ended=ended)


def count_judged(db: Connection, project_id: str, user_id: str, more: int) -> None:
    """Note that a rater judged once more, or took one back."""
    _COUNT_JUDGED.run(db, project=project_id, user=user_id, more=more)


def recount_items(db: Connection, project_id: str) -> None:
    """Count the items of a project anew; reads all of them."""

    def counted(*states: str) -> Any:
        here = and_(items.c.project_id == project_id, items.c.use == "label")
        query = select(func.count()).select_from(items).where(here, items.c.state.in_(states))
        return query.scalar_subquery()

    found = {"items_open": counted("open"), "items_done": counted("done", "settled")}
    db.execute(update(projects).where(projects.c.id == project_id).values(found))


def project_named(db: Connection, name: str) -> str | None:
    """Return the id of the project of this name, if there is one."""
    found: str | None = db.scalar(select(projects.c.id).where(projects.c.name == name))
    return found


def projects_of(db: Connection, user_id: str | None) -> list[Project]:
    """Return the projects a person works in, by name; None: all there are."""
    query = select(projects.c.id).order_by(projects.c.name)
    if user_id is not None:
        query = query.join(members, members.c.project_id == projects.c.id)
        query = query.where(members.c.user_id == user_id)
    return [project(db, row.id) for row in db.execute(query).all()]


def change_settings(db: Connection, project_id: str, settings: ProjectSettings, *, by: str) -> None:
    """Let other settings hold from now on."""
    stands = update(projects).where(projects.c.id == project_id)
    db.execute(stands.values(settings=_encoded(settings)))
    told = msgspec.to_builtins(settings)
    events.append(db, project_id, type="settings_changed", user_id=by, data=told)


def add_member(db: Connection, project_id: str, user_id: str, role: Role, *, by: str) -> None:
    """Let a person work in a project, or change the role."""
    if member(db, project_id, user_id) is None:
        row = {"project_id": project_id, "user_id": user_id, "role": role, "state": "active"}
        db.execute(insert(members).values(**row))
    else:
        db.execute(_of(project_id, user_id).values(role=role))
    told = {"user": user_id, "role": role}
    events.append(db, project_id, type="member_added", user_id=by, data=told)


def change_state(
    db: Connection, project_id: str, user_id: str, state: MemberState, *, by: str
) -> None:
    """Pause or exclude a rater, or let one work again.

    What an excluded rater said stays in the log and in the judgments; datasets leave it out.

    Raises:
        StoreError: the person is no member.
    """
    if member(db, project_id, user_id) is None:
        raise StoreError(f"{user_id}: is not in this project.")
    db.execute(_of(project_id, user_id).values(state=state))
    told = {"user": user_id, "state": state}
    events.append(db, project_id, type="member_state", user_id=by, data=told)


def member(db: Connection, project_id: str, user_id: str) -> Member | None:
    """Return a person's place in a project, None without one."""
    row = _MEMBER.first(db, project=project_id, user=user_id)
    return None if row is None else Member(**row._asdict())


def members_of(db: Connection, project_id: str) -> list[Member]:
    """Return everybody in a project."""
    rows = db.execute(select(members).where(members.c.project_id == project_id)).all()
    return [Member(**row._asdict()) for row in rows]


def publish_guideline(db: Connection, project_id: str, text: str, *, base: int, by: str) -> int:
    """Let a new text hold, and return its version; judgments keep the version they were made under.

    Args:
        db: a connection that writes.
        project_id: whose guideline.
        text: Markdown.
        base: the version that the author started from.
        by: the author.

    Raises:
        StoreError: somebody published another version in between.
    """
    current = guideline(db, project_id)
    if current.version != base:
        raise StoreError(
            f"guideline: version {current.version} came out while you wrote. "
            "Look at it, and publish on top of it."
        )
    row: dict[str, Any] = {
        "version": base + 1,
        "text": text,
        "hash": hashlib.sha256(text.encode()).hexdigest(),
        "author_id": by,
        "created_at": events.now(),
    }
    db.execute(insert(guidelines).values(project_id=project_id, **row))
    told = {"version": row["version"], "hash": row["hash"]}
    events.append(db, project_id, type="guideline_published", user_id=by, data=told)
    return base + 1


def guideline(db: Connection, project_id: str, version: int | None = None) -> Guideline:
    """Return the guideline that holds, or one of its earlier versions."""
    asked: dict[str, Any] = {"project": project_id}
    if version is not None:
        asked["version"] = version
    row = db.execute(_LATEST if version is None else _VERSION, asked).one_or_none()
    if row is None:
        return NO_GUIDELINE
    fields = row._asdict()
    fields.pop("project_id")
    return Guideline(**fields)


def guidelines_of(db: Connection, project_id: str) -> list[Guideline]:
    """Return all versions of a guideline, the newest first."""
    found = []
    for row in db.execute(_GUIDELINES, {"project": project_id}):
        fields = row._asdict()
        fields.pop("project_id")
        found.append(Guideline(**fields))
    return found


def _project_row(db: Connection, project_id: str) -> Row[Any]:
    row = db.execute(_PROJECT, {"project": project_id}).one_or_none()
    if row is None:
        raise StoreError(f"project {project_id}: is not there.")
    return row


def _project(row: Row[Any]) -> Project:
    return Project(
        id=row.id,
        name=row.name,
        settings=_settings(row.settings),
        secret=row.secret,
        created_at=row.created_at,
    )


@lru_cache(maxsize=64)
def _settings(encoded: str) -> ProjectSettings:
    return msgspec.json.decode(encoded, type=ProjectSettings)


def _of(project_id: str, user_id: str) -> Any:
    return update(members).where(members.c.project_id == project_id, members.c.user_id == user_id)


def _encoded(settings: ProjectSettings) -> str:
    return msgspec.json.encode(settings).decode()
