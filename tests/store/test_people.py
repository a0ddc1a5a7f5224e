"""People, sessions, invitations and tries to sign in, on both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, select

from preftune.errors import StoreError
from preftune.store import people, projects
from preftune.store.database import Database
from preftune.store.projects import ProjectSettings
from preftune.store.schema import metadata

NOW_S = 1_700_000_000.0
HOUR_S = 3600.0
IDLE_S, WHOLE_S = 12 * HOUR_S, 7 * 24 * HOUR_S


def add(store: Database, name: str, *, is_admin: bool = False) -> str:
    return store.write(
        lambda db: people.add_person(
            db, email=f"{name}@example.org", name=name, password_hash="-", is_admin=is_admin
        )
    )


def enter(store: Database, user_id: str, now_s: float = NOW_S) -> str:
    return store.write(lambda db: people.open_session(db, user_id, now_s=now_s))


def who(store: Database, token: str, now_s: float = NOW_S) -> str | None:
    with store.read() as db:
        found = people.session(db, token, now_s=now_s, idle_s=IDLE_S, whole_s=WHOLE_S)
    return found.person.id if found else None


def make_project(store: Database, name: str = "desk") -> str:
    return store.write(
        lambda db: projects.create_project(db, name=name, settings=ProjectSettings(), by="test")
    )


def invite(store: Database, project_id: str | None, role: people.InviteRole = "rater") -> str:
    return store.write(
        lambda db: people.invite(
            db, role=role, project_id=project_id, by="test", expires_s=NOW_S + HOUR_S
        )
    )


def use(store: Database, token: str, user_id: str, now_s: float = NOW_S) -> people.Invite:
    return store.write(lambda db: people.use_invite(db, token, user_id, now_s=now_s))


def attempt(store: Database, *names: str, now_s: float = NOW_S) -> list[int] | None:
    return store.write(
        lambda db: people.begin_attempt(db, names, now_s=now_s, window_s=900.0, most=5)
    )


def everything(db: Connection) -> str:
    """All that every table holds, as text."""
    return "\n".join(str(db.execute(select(table)).all()) for table in metadata.sorted_tables)


def test_an_e_mail_address_has_one_account_whatever_its_case(store: Database) -> None:
    first = add(store, "Ada")
    with pytest.raises(StoreError, match="this e-mail address has one"):
        add(store, "ADA")
    with store.read() as db:
        found = people.account(db, " ADA@Example.Org ")
        assert found is not None
        assert found[0].id == first


def test_a_session_ends_when_idle_and_when_old(store: Database) -> None:
    ada = add(store, "ada")
    token = enter(store, ada)
    assert who(store, token, NOW_S + IDLE_S - 1) == ada
    assert who(store, token, NOW_S + IDLE_S + 1) is None
    for hours in range(0, 7 * 24, 6):  # used every six hours
        store.write(partial(people.keep_session, token=token, now_s=NOW_S + hours * HOUR_S))
    assert who(store, token, NOW_S + WHOLE_S - 1) == ada
    assert who(store, token, NOW_S + WHOLE_S + 1) is None


def test_t03_a_copy_of_the_store_holds_no_token(store: Database) -> None:
    project_id = make_project(store)
    secrets = [enter(store, add(store, "ada")), invite(store, project_id)]
    secrets.append(store.write(lambda db: people.invite_first_admin(db, expires_s=NOW_S + 1)))
    with store.read() as db:
        text = everything(db)
    assert all(len(secret) == 43 for secret in secrets)  # 256 bits in base64
    assert not [secret for secret in secrets if secret in text]
    assert people.token_hash(secrets[0]) in text  # the search does look there


def test_t03_a_disabled_person_is_out_at_once_and_comes_back_without_old_sessions(
    store: Database,
) -> None:
    add(store, "admin", is_admin=True)
    ada = add(store, "ada")
    tokens = [enter(store, ada), enter(store, ada)]
    store.write(lambda db: people.disable(db, ada))
    assert [who(store, token) for token in tokens] == [None, None]
    store.write(lambda db: people.enable(db, ada))
    assert [who(store, token) for token in tokens] == [None, None]
    assert who(store, enter(store, ada)) == ada


def test_the_last_admin_cannot_be_disabled(store: Database) -> None:
    first, second = add(store, "a", is_admin=True), add(store, "b", is_admin=True)
    store.write(lambda db: people.disable(db, first))
    with pytest.raises(StoreError, match="last admin"):
        store.write(lambda db: people.disable(db, second))


def test_an_invitation_works_once_and_gives_its_role(store: Database) -> None:
    project_id = make_project(store)
    token = invite(store, project_id, "lead")
    ada, bob = add(store, "ada"), add(store, "bob")
    assert use(store, token, ada).role == "lead"
    with pytest.raises(StoreError, match="used"):
        use(store, token, bob)
    with store.read() as db:
        found = projects.member(db, project_id, ada)
        assert found is not None
        assert found.role == "lead"
        assert projects.member(db, project_id, bob) is None


def test_an_invitation_expires_and_can_be_withdrawn(store: Database) -> None:
    project_id, ada = make_project(store), add(store, "ada")
    late, gone = invite(store, project_id), invite(store, project_id)
    with pytest.raises(StoreError, match="expired"):
        use(store, late, ada, NOW_S + HOUR_S + 1)
    store.write(lambda db: people.withdraw_invite(db, people.token_hash(gone)))
    with pytest.raises(StoreError, match="withdrawn"):
        use(store, gone, ada)
    with store.read() as db:
        assert [one.id for one in people.open_invites(db, now_s=NOW_S)] == [people.token_hash(late)]


def test_an_invitation_does_not_take_a_role_away(store: Database) -> None:
    project_id, ada = make_project(store), add(store, "ada")
    use(store, invite(store, project_id, "lead"), ada)
    with pytest.raises(StoreError, match="already"):
        use(store, invite(store, project_id, "rater"), ada)


def test_admins_are_invited_to_no_project_and_others_to_one(store: Database) -> None:
    with pytest.raises(StoreError, match="belong"):
        invite(store, make_project(store), "admin")
    with pytest.raises(StoreError, match="belong"):
        invite(store, None, "rater")


def test_the_first_admins_link_of_the_last_start_alone_holds(store: Database) -> None:
    old = store.write(lambda db: people.invite_first_admin(db, expires_s=NOW_S + 1))
    new = store.write(lambda db: people.invite_first_admin(db, expires_s=NOW_S + 1))
    ada = add(store, "ada")
    with pytest.raises(StoreError):
        use(store, old, ada)
    use(store, new, ada)
    with store.read() as db:
        assert people.person(db, ada).is_admin


def test_t04_five_tries_count_per_name_and_fade_after_the_window(store: Database) -> None:
    for second in range(5):
        assert attempt(store, "account:ada", "address:x", now_s=NOW_S + second) is not None
    assert attempt(store, "account:ada", "address:y", now_s=NOW_S + 5) is None
    assert attempt(store, "account:bob", "address:x", now_s=NOW_S + 5) is None
    assert attempt(store, "account:bob", "address:y", now_s=NOW_S + 5) is not None
    assert attempt(store, "account:ada", "address:x", now_s=NOW_S + 901) is not None  # one faded
    assert attempt(store, "account:ada", "address:x", now_s=NOW_S + 901) is None  # full again


def test_t04_a_right_password_is_not_held_against_anybody(store: Database) -> None:
    for _ in range(20):
        counted = attempt(store, "account:ada")
        assert counted is not None
        store.write(partial(people.forgive_attempt, attempt=counted))


def test_t04_tries_side_by_side_do_not_slip_past_the_limit(store: Database) -> None:
    with ThreadPoolExecutor(16) as pool:
        passed = list(pool.map(lambda _: attempt(store, "account:ada"), range(40)))
    assert sum(one is not None for one in passed) == 5


class Sessions(RuleBasedStateMachine):
    """T3: what a plain model says of who holds which token, against the store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.store = Database(Path(self.folder.name) / "store.db")
        add(self.store, "admin", is_admin=True)
        self.ids = [add(self.store, name) for name in ("ada", "bob")]
        self.holds: dict[str, str | None] = {}
        self.disabled: set[str] = set()

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def tokens_of(self, user_id: str) -> Iterator[str]:
        return (token for token, holder in self.holds.items() if holder == user_id)

    @rule(which=st.integers(0, 1))
    def sign_in(self, which: int) -> None:
        user_id = self.ids[which]
        token = enter(self.store, user_id)
        assert token not in self.holds
        self.holds[token] = None if user_id in self.disabled else user_id

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def sign_out(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.holds)))
        self.store.write(lambda db: people.end_session(db, token))
        self.holds[token] = None

    @rule(which=st.integers(0, 1))
    def change_password(self, which: int) -> None:
        self.store.write(lambda db: people.set_password(db, self.ids[which], "other"))
        self.holds.update(dict.fromkeys(list(self.tokens_of(self.ids[which]))))

    @rule(which=st.integers(0, 1))
    def disable(self, which: int) -> None:
        self.store.write(lambda db: people.disable(db, self.ids[which]))
        self.disabled.add(self.ids[which])
        self.holds.update(dict.fromkeys(list(self.tokens_of(self.ids[which]))))

    @precondition(lambda self: not self.disabled)
    @rule()
    def nobody_is_disabled(self) -> None:
        with self.store.read() as db:
            assert not [one for one in people.people(db) if one.disabled]

    @invariant()
    def every_token_opens_what_the_model_says(self) -> None:
        assert {token: who(self.store, token) for token in self.holds} == self.holds


Sessions.TestCase.settings = hypothesis_settings(max_examples=15, stateful_step_count=15)
test_t03_no_token_outlives_its_session = Sessions.TestCase
