"""Keys over HTTP: shown once, listed without their secret, gone when revoked."""

import time

import pytest
from tests.api.conftest import Api, refused


def test_a_key_is_shown_once_and_opens_what_it_says(api: Api) -> None:
    owner = api.client()
    sent = {"name": "loader", "scopes": ["files:read"], "requests_per_minute": 60}
    made = owner.post("/v1/keys", json=sent).json()
    secret = made.pop("key")
    assert secret.startswith(made["shown"])
    assert made["scopes"] == ["files:read"]
    assert made["requests_per_minute"] == 60
    user = api.with_secret(secret)
    assert user.get("/v1/files").status_code == 200
    refused(user.get("/v1/models"), 403)
    refused(user.get("/v1/keys"), 403)
    listed = owner.get("/v1/keys")
    assert secret not in listed.text
    shown = {key["id"]: key for key in listed.json()["data"]}
    assert set(shown) == {api.key.id, made["id"]}
    assert shown[made["id"]] == {**made, "last_used_at": shown[made["id"]]["last_used_at"]}


def test_a_key_cannot_be_made_under_an_idempotency_key(api: Api) -> None:
    """Its secret is kept nowhere, so the first answer could not be given again."""
    owner, headers = api.client(), {"Idempotency-Key": "k"}
    error = refused(owner.post("/v1/keys", json={"name": "a"}, headers=headers), 400)
    assert error["param"] == "Idempotency-Key"
    assert [key["id"] for key in owner.get("/v1/keys").json()["data"]] == [api.key.id]


def test_a_revoked_key_is_gone(api: Api) -> None:
    owner = api.client()
    made = owner.post("/v1/keys", json={"name": "short"}).json()
    user = api.with_secret(made["key"])
    assert user.get("/v1/keys").status_code == 200
    gone = owner.delete(f"/v1/keys/{made['id']}").json()
    assert gone == {"id": made["id"], "object": "api_key", "deleted": True}
    refused(user.get("/v1/keys"), 401)
    refused(owner.delete(f"/v1/keys/{made['id']}"), 404)
    assert [key["id"] for key in owner.get("/v1/keys").json()["data"]] == [api.key.id]


@pytest.mark.parametrize(
    "said",
    [
        {"scopes": ["files:raed"]},
        {"scopes": []},
        {"expires_at": 1},
        {"expires_at": 253_402_300_800},  # the year 10000
        {"requests_per_minute": 0},
        {"name": " "},
    ],
)
def test_a_key_that_cannot_be_is_refused(api: Api, said: dict[str, object]) -> None:
    refused(api.client().post("/v1/keys", json={"name": "a", **said}), 400)


def test_a_key_may_expire(api: Api) -> None:
    at = int(time.time()) + 3600
    made = api.client().post("/v1/keys", json={"name": "a", "expires_at": at}).json()
    assert made["expires_at"] == at
