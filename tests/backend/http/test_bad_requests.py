"""Invalid requests get a JSON error with a reason, never a crash."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from backend.composition import compose
from backend.http.app import create_app
from backend.settings import Settings
from backend.store import Store
from trajseg.errors import InputError

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("route", ["/setup", "/predict", "/webhook"])
@pytest.mark.parametrize("body", ["{", "", "[]", "null", '"text"', "{}", '{"tasks": 3, "action": []}'])
def test_malformed_body_gets_a_clear_error(route: str, body: str, client: FlaskClient) -> None:
    answer = client.post(route, data=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.get_json()["error"]
    assert answer.get_json()["remedy"]


def test_invalid_key_is_named_without_its_value(client: FlaskClient) -> None:
    answer = client.post("/setup", json={"project": "6.1", "schema": ["secret"], "access_token": "secret"})
    assert "`schema`" in answer.get_json()["error"]
    assert "secret" not in answer.text


@pytest.mark.parametrize("project", ["", "abc", "-1", ".5", "9" * 40, "6." + "1" * 99])
def test_an_invalid_project_is_refused(
    project: str, client: FlaskClient, predict_body: Callable[..., dict[str, Any]]
) -> None:
    answer = client.post("/predict", json={**predict_body(1), "project": project})
    assert answer.status_code == 400
    assert "`project`" in answer.get_json()["error"]


def test_empty_task_list_is_no_error(client: FlaskClient, predict_body: Callable[..., dict[str, Any]]) -> None:
    assert client.post("/predict", json={**predict_body(1), "tasks": []}).json == {"results": []}


def test_other_content_types_are_refused(client: FlaskClient) -> None:
    answer = client.post("/predict", data="tasks=1")
    assert answer.status_code == 415
    assert "application/json" in answer.get_json()["remedy"]


def test_a_request_that_is_too_large_is_refused(settings: Settings, store: Store) -> None:
    settings.max_request_bytes = 70_000
    client = create_app(compose(settings, store)).test_client()
    answer = client.post("/predict", data=b"x" * 80_000, headers=JSON)
    assert answer.status_code == 413
    assert "TRAJSEG_MAX_REQUEST_BYTES" in answer.get_json()["remedy"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/predict", 405)])
def test_wrong_addresses_are_reported_as_json(method: str, path: str, status: int, client: FlaskClient) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert answer.get_json()["error"]


def test_unexpected_error_hides_its_details(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, predict_body: Callable[..., dict[str, Any]]
) -> None:
    service = client.application.extensions["trajseg"]

    def broken(*_: object) -> None:
        raise RuntimeError("the password is 1234")

    monkeypatch.setattr(service.store.jobs, "add_all", broken)
    answer = client.post("/predict", json=predict_body(1))
    assert answer.status_code == 500
    assert "RuntimeError" in answer.get_json()["error"]
    assert "1234" not in answer.text


def test_unreachable_store_is_reported_by_health_and_every_request(
    settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    client = create_app(compose(settings, Store("postgresql://me:secret@127.0.0.1:1/none"))).test_client()
    health = client.get("/health")
    assert health.status_code == 503
    assert health.get_json()["status"] == "DOWN"
    answer = client.post("/predict", json=predict_body(1))
    assert answer.status_code == 503
    assert "DATABASE_URL" in answer.get_json()["remedy"]
    assert "secret" not in answer.text + health.text


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


def test_basic_authentication_guards_all_but_health_and_signed_links(
    settings: Settings, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    guarded = Settings(
        data_dir=settings.data_dir,
        redis_url=settings.redis_url,
        basic_auth_user="studio",
        basic_auth_password=SecretStr("wörd:with:colons"),
    )
    client = create_app(compose(guarded, store)).test_client()
    assert client.get("/health").status_code == 200
    assert client.get("/media/bad/name.jpg").status_code == 403
    for path in ("/", "/versions", "/jobs", "/metrics", "/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
        assert answer.get_json()["remedy"]
    for wrong in (basic("studio", "x"), basic("x", "wörd:with:colons"), {"Authorization": "Bearer x"}):
        assert client.post("/predict", json=predict_body(1), headers=wrong).status_code == 401
    right = basic("studio", "wörd:with:colons")
    assert client.post("/predict", json=predict_body(1), headers=right).status_code == 200
    assert client.get("/versions", headers=right).status_code == 200


@pytest.mark.parametrize("half", [{"basic_auth_user": "a"}, {"basic_auth_password": "b"}])
def test_half_of_basic_authentication_is_refused(half: dict[str, str], settings: Settings, store: Store) -> None:
    with pytest.raises(InputError, match="Only one"):
        create_app(compose(Settings(data_dir=settings.data_dir, **half), store))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "hostname", ["http://[", "http://[::1", "javascript:alert(1)", "http://a b", "http://", "x" * 400]
)
def test_forged_host_name_does_not_break_pages(
    hostname: str, client: FlaskClient, predict_body: Callable[..., dict[str, Any]]
) -> None:
    body = predict_body(1)
    client.post("/setup", json={"project": body["project"], "schema": body["label_config"], "hostname": hostname})
    assert client.post("/predict", json=body).status_code == 200
    for path in ("/page/jobs", "/page/report", "/jobs"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "javascript:" not in answer.text


def test_json_that_is_nested_too_deeply_is_refused(client: FlaskClient) -> None:
    deep = "[" * 200_000 + "]" * 200_000
    for route in ("/setup", "/predict", "/webhook"):
        answer = client.post(route, data=deep, headers=JSON)
        assert answer.status_code == 400
        assert "nested" in answer.get_json()["error"]


@pytest.mark.parametrize("number", ["99999999999999999999", "9223372036854775808", "2147483648"])
@pytest.mark.parametrize(
    "path", ["/jobs?task={}", "/jobs?project={}", "/page/jobs?project={}", "/projects/{}/export?format=davis"]
)
def test_number_beyond_the_database_range_gets_a_clear_error(path: str, number: str, client: FlaskClient) -> None:
    assert client.get(path.format(number)).status_code < 500
