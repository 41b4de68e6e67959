"""Who gets an answer: addresses without a password, guesses, host names, and the token of the job API."""

from __future__ import annotations

import re
import socket
import stat
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from backend.cli import token as token_command
from backend.composition import compose
from backend.http.app import create_app
from backend.http.guesses import (
    FORGOTTEN_SECONDS,
    FREE_GUESSES,
    LONGEST_PAUSE_SECONDS,
    MOST_ADDRESSES,
    GuessLimiter,
)
from backend.server import BackendServer
from backend.settings import Settings
from backend.store import Store
from trajseg.errors import InputError

PASSWORD = "correct horse battery staple"


def basic(password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"studio:{password}".encode()).decode()}


def variant(settings: Settings, **changes: Any) -> Settings:
    return Settings(data_dir=settings.data_dir, redis_url=settings.redis_url, **changes)


def guarded(settings: Settings, store: Store, **changes: Any) -> FlaskClient:
    """A client of a backend with a password."""
    changed = variant(settings, basic_auth_user="studio", basic_auth_password=PASSWORD, **changes)
    return create_app(compose(changed, store)).test_client()


# No password off loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_listening_on_other_addresses_without_a_password_is_rejected(host: str, settings: Settings) -> None:
    if host == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here")
    with pytest.raises(InputError, match="without a password") as caught:
        BackendServer(variant(settings, host=host, port=0))
    assert "TRAJSEG_BASIC_AUTH_PASSWORD" in caught.value.remedy
    assert "127.0.0.1" in caught.value.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "127.0.0.1"},
        {"host": "127.0.0.2"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "basic_auth_user": "studio", "basic_auth_password": PASSWORD},
    ],
)
def test_loopback_needs_no_password_and_other_addresses_need_one(changes: dict[str, Any], settings: Settings) -> None:
    server = BackendServer(variant(settings, port=0, **changes))
    server.start()
    try:
        host = changes["host"].replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"http://{host}:{server.settings.port}/health").status_code == 200
        wanted = 401 if "basic_auth_user" in changes else 200
        assert httpx.get(f"http://{host}:{server.settings.port}/jobs").status_code == wanted
    finally:
        server.stop()


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.0.9", "2001:db8::1", "::ffff:192.0.2.7", "169.254.1.1"])
def test_under_any_server_a_backend_without_a_password_serves_only_this_machine(
    address: str, client: FlaskClient
) -> None:
    environment = {"REMOTE_ADDR": address}
    answer = client.get("/jobs", environ_base=environment)
    assert answer.status_code == 403
    assert "TRAJSEG_BASIC_AUTH_PASSWORD" in answer.get_json()["remedy"]
    assert client.get("/health", environ_base=environment).status_code == 200
    for own in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", ""):
        assert client.get("/jobs", environ_base={"REMOTE_ADDR": own}).status_code == 200


def test_no_answer_lets_a_browser_guess_its_type(client: FlaskClient) -> None:
    for path, status in (("/jobs", 200), ("/health", 200), ("/page/jobs", 200), ("/nowhere", 404)):
        answer = client.get(path)
        assert (answer.status_code, answer.headers.getlist("X-Content-Type-Options")) == (status, ["nosniff"])
    refused = client.get("/jobs", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert (refused.status_code, refused.headers["X-Content-Type-Options"]) == (403, "nosniff")


def test_forged_forwarded_header_is_not_local(client: FlaskClient) -> None:
    headers = {"X-Forwarded-For": "127.0.0.1"}
    assert client.get("/jobs", environ_base={"REMOTE_ADDR": "192.0.2.7"}, headers=headers).status_code == 403


# Guesses


def test_wrong_passwords_cause_a_back_off_for_the_right_one_as_well(settings: Settings, store: Store) -> None:
    client = guarded(settings, store)
    statuses = [client.get("/jobs", headers=basic(f"guess {number}")).status_code for number in range(200)]
    assert statuses.count(401) <= FREE_GUESSES + 1
    assert set(statuses) == {401, 429}
    answer = client.get("/jobs", headers=basic())
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert "TRAJSEG_PROXIES" in answer.get_json()["remedy"]
    assert client.get("/jobs", headers=basic(), environ_base={"REMOTE_ADDR": "192.0.2.7"}).status_code == 200
    assert client.get("/health").status_code == 200


def test_parallel_guesses_gain_nothing(settings: Settings, store: Store) -> None:
    app = guarded(settings, store).application
    statuses: list[int] = []

    def guess(number: int) -> None:
        statuses.append(app.test_client().get("/jobs", headers=basic(f"guess {number}")).status_code)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(401) <= FREE_GUESSES + 1


def test_wrong_tokens_count_as_guesses(settings: Settings, store: Store) -> None:
    client = guarded(settings, store)
    wrong = {"Authorization": "Bearer wrong"}
    assert [client.get("/jobs", headers=wrong).status_code for _ in range(20)].count(401) <= FREE_GUESSES + 1


def test_a_request_without_a_password_is_no_guess(settings: Settings, store: Store) -> None:
    client = guarded(settings, store)
    assert {client.get("/jobs").status_code for _ in range(50)} == {401}
    assert client.get("/jobs", headers=basic()).status_code == 200


def test_clients_behind_a_proxy_are_counted_separately(settings: Settings, store: Store) -> None:
    client = guarded(settings, store, proxies=1)
    # What a client writes itself stands further left than what the proxy adds.
    forged = [{"X-Forwarded-For": f"10.0.0.{number}, 198.51.100.9"} for number in range(100)]
    statuses = [client.get("/jobs", headers=basic("wrong") | headers).status_code for headers in forged]
    assert statuses.count(401) <= FREE_GUESSES + 1
    assert client.get("/jobs", headers=basic() | {"X-Forwarded-For": "198.51.100.8"}).status_code == 200


def test_forwarded_addresses_are_ignored_without_the_setting(settings: Settings, store: Store) -> None:
    client = guarded(settings, store)
    forged = [{"X-Forwarded-For": f"198.51.100.{number}"} for number in range(100)]
    statuses = [client.get("/jobs", headers=basic("wrong") | headers).status_code for headers in forged]
    assert statuses.count(401) <= FREE_GUESSES + 1


def test_pauses_grow_to_a_limit_and_are_forgotten() -> None:
    moment = 0.0
    limiter = GuessLimiter(lambda: moment)
    guesses = 0
    while moment < 24 * 3600:
        attempt = limiter.attempt("192.0.2.7", lambda: False)
        guesses += attempt.wait_seconds == 0
        moment += max(attempt.wait_seconds, 0.001)
    assert guesses < 24 * 3600 / LONGEST_PAUSE_SECONDS + 20
    moment += FORGOTTEN_SECONDS + 1
    assert limiter.attempt("192.0.2.7", lambda: True).right


def test_remembered_addresses_are_bounded_and_an_ipv6_network_counts_as_one() -> None:
    limiter = GuessLimiter()
    for number in range(MOST_ADDRESSES + 500):
        limiter.attempt(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", lambda: False)
    assert len(limiter) == MOST_ADDRESSES
    limiter = GuessLimiter()
    for number in range(50):
        limiter.attempt(f"2001:db8::{number:x}", lambda: False)
    assert len(limiter) == 1
    assert limiter.attempt("2001:db8::ffff", lambda: True).wait_seconds > 0
    assert limiter.attempt("2001:db8:0:1::1", lambda: True).right


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !", "Basic " + b64encode(b"no colon").decode(), "Basic " + b64encode(b"\xff:\xfe").decode(), "x"],
)
def test_malformed_authorization_header_gets_a_clear_error(header: str, settings: Settings, store: Store) -> None:
    answer = guarded(settings, store).get("/jobs", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.get_json()["remedy"]


# Host header


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:9090", "127.0.0.1:9090", "[::1]:9090", "192.168.0.7", "studio.example",
     "labels.example:443", "backend:9090", "a.b.lab.example", "LOCALHOST", "labels.example."],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/jobs", "/health", "/page/jobs"])
def test_own_host_names_are_accepted(host: str, path: str, settings: Settings, store: Store) -> None:
    changed = variant(
        settings,
        public_url="https://labels.example/trajseg",
        label_studio_url="http://studio.example:8080",
        allowed_hosts="backend, *.LAB.example",
    )
    client = create_app(compose(changed, store)).test_client()
    assert client.get(path, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433",
     "evil@localhost", "localhost@evil.example", "", "[::1", "a b", "notlab.example", "lab.example.evil",
     "localhost:9090:1", "xlocalhost"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/jobs", "/page/jobs", "/health", "/media/x/y.jpg", "/nowhere"])
def test_dns_rebinding_is_rejected(host: str, path: str, settings: Settings, store: Store) -> None:
    client = create_app(compose(variant(settings, allowed_hosts="*.lab.example"), store)).test_client()
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 400
    assert "TRAJSEG_ALLOWED_HOSTS" in answer.get_json()["remedy"]


def test_forwarded_host_is_ignored(client: FlaskClient, settings: Settings, store: Store) -> None:
    behind = create_app(compose(variant(settings, proxies=1), store)).test_client()
    for one in (client, behind):
        headers = {"Host": "evil.example", "X-Forwarded-Host": "localhost", "X-Forwarded-For": "127.0.0.1"}
        assert one.get("/jobs", headers=headers).status_code == 400


# The token of the job API


@pytest.fixture
def job_id(client: FlaskClient, store: Store, predict_body: Any) -> str:
    client.post("/predict", json=predict_body(1))
    return store.jobs.newest()[0].id


ASKED_WITHOUT_TOKEN = {"/setup", "/predict", "/webhook"}
"""What Label Studio sends: JSON, which no stranger's page can send without asking first; it changes no job."""


def test_every_changing_route_is_protected(client: FlaskClient) -> None:
    rules = [rule for rule in client.application.url_map.iter_rules() if rule.methods and "POST" in rule.methods]
    assert len(rules) >= 7
    for rule in rules:
        path = re.sub(r"<[^>]*>", "1", rule.rule)
        answers = [client.post(path), client.post(path, data={"token": "x"})]
        if path in ASKED_WITHOUT_TOKEN:
            answers.append(client.post(path, data="{}", headers={"Content-Type": "text/plain"}))
        wanted = 415 if path in ASKED_WITHOUT_TOKEN else 403
        assert {answer.status_code for answer in answers} == {wanted}, path


@pytest.mark.parametrize("action", ["cancel", "retry"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
        {"Referer": "http://localhost/page/jobs"},
    ],
)
def test_a_job_is_not_changed_without_the_token(
    action: str, headers: dict[str, str], client: FlaskClient, store: Store, job_id: str
) -> None:
    answer = client.post(f"/jobs/{job_id}/{action}", headers=headers)
    assert answer.status_code == 403
    assert answer.get_json()["error"]
    if "Sec-Fetch-Site" not in headers:
        assert "trajseg token" in answer.get_json()["remedy"]
    assert store.jobs.get(job_id).state == "queued"


def test_password_added_by_a_browser_is_not_a_token(settings: Settings, store: Store, job_id: str) -> None:
    client = guarded(settings, store)
    assert client.post(f"/jobs/{job_id}/cancel", headers=basic()).status_code == 403
    assert store.jobs.get(job_id).state == "queued"


def test_the_token_opens_the_job_api_without_a_password_and_nothing_else(
    settings: Settings, store: Store, job_id: str, bearer: dict[str, str], predict_body: Any
) -> None:
    client = guarded(settings, store)
    for path in ("/jobs", f"/jobs/{job_id}", "/metrics"):
        assert client.get(path, headers=bearer).status_code == 200
    for path in ("/page/jobs", "/page/report", "/versions", "/"):
        assert client.get(path, headers=bearer).status_code == 401
    assert client.post("/predict", json=predict_body(2), headers=bearer).status_code == 401
    assert client.post(f"/jobs/{job_id}/cancel", headers=bearer).get_json()["state"] == "cancelled"


def test_a_page_of_this_backend_needs_no_token(client: FlaskClient, job_id: str) -> None:
    answer = client.post(f"/jobs/{job_id}/cancel", headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.get_json()["state"] == "cancelled"


def test_trajseg_token_prints_the_token(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    printed = CliRunner().invoke(token_command).output.strip()
    assert printed == settings.job_token()
    assert len(printed) > 40
    monkeypatch.setenv("TRAJSEG_API_TOKEN", "from-the-vault")
    assert CliRunner().invoke(token_command).output.strip() == "from-the-vault"


def test_kept_secrets_are_redacted(settings: Settings) -> None:
    told = f"token {settings.job_token()} key {settings.signing_key()}"
    assert settings.redact(told) == "token *** key ***"


# Files


def modes(folder: Path) -> dict[str, str]:
    found = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): oct(stat.S_IMODE(path.stat().st_mode)) for path in found}


def test_store_and_secrets_are_readable_only_by_their_owner(tmp_path: Path, valkey_url: str) -> None:
    settings = Settings(data_dir=tmp_path / "new" / "data", redis_url=valkey_url)
    backend = compose(settings)
    settings.job_token()
    settings.signing_key()
    backend.store.projects.upsert(7, "", "<View/>")
    found = modes(settings.data_dir)
    assert found.pop(".") == "0o700"
    assert {"trajseg.db", "trajseg.db-wal", "trajseg.db-shm", "secret_key", "api_token"} <= set(found)
    assert set(found.values()) == {"0o600"}
    backend.close()


def test_permissions_of_earlier_versions_are_tightened(settings: Settings, store: Store) -> None:
    for name in ("media", "downloads"):
        (settings.data_dir / name).mkdir()
        (settings.data_dir / name).chmod(0o755)
    store.projects.upsert(7, "", "<View/>")
    for path in settings.data_dir.glob("trajseg.db*"):
        path.chmod(0o644)
    backend = compose(settings)
    found = modes(settings.data_dir)
    assert found["media"] == found["downloads"] == "0o700"
    assert {mode for name, mode in found.items() if name.startswith("trajseg.db")} == {"0o600"}
    backend.close()
