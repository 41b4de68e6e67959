"""Secrets are planted everywhere, and must appear in no message, page, log line or answer."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from pydantic import SecretStr

from backend.addresses import shown_address, shown_text
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.setup.commands import doctor
from backend.logs import RedactingFormatter
from backend.settings import Settings, load_settings
from backend.store import Store
from trajseg.errors import InputError, TrajSegError

TOKEN = "0123456789abcdef0123456789abcdef01234567"
PASSWORD = "pass/word-of-the-store"
ADDRESS = "https://ann:swordfish@videos.example.com/clips/a.mp4?X-Amz-Signature=deadbeef&X-Amz-Expires=60"


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\n\n", "\t"])
def test_a_token_may_end_in_a_line_break(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN + end)
    assert Settings().label_studio_api_key.get_secret_value() == TOKEN


@pytest.mark.parametrize("name", ["BASIC_AUTH_PASSWORD", "SECRET_KEY"])
def test_so_may_the_other_secrets(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"TRAJSEG_{name}", "correct horse\r\n")
    assert getattr(Settings(), name.lower()).get_secret_value() == "correct horse"
    monkeypatch.setenv("REDIS_URL", "redis://:pw@127.0.0.1:6379/0\n")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db\n")
    assert Settings().redis_url.endswith("/0")
    assert Settings().database_url.endswith("x.db")


@pytest.mark.parametrize("middle", ["\n", " ", "\x00", "é", "\x7f", '"', "'", "\\n", "\ufeff"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_quoted(middle: str) -> None:
    with pytest.raises(InputError, match="LABEL_STUDIO_API_KEY") as caught:
        load_settings(label_studio_api_key=f"{TOKEN[:20]}{middle}{TOKEN[20:]}")
    assert TOKEN[:20] not in str(caught.value)
    assert TOKEN[20:] not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8080", "http://"),
        ("studio", "http://"),
        ("http://", "has no host"),
        ("http://host:port", "not an http"),
        ("http://[::1", "not an http"),
        ("https://me:swordfish@host", "user name or password"),
        ("https://host/?token=swordfish", "query"),
        ("http:// host", "blank"),
        ("http://my host:8080", "blank"),
        ("http://host/a b", "blank"),
        ("http://host\u200b:8080", "invalid character"),
        ("http://host\\labelstudio", "invalid character"),
        ('"http://host"', "http://"),
        ("http:/host", "http://"),
        ("ftp://host", "http://"),
    ],
)
def test_an_address_that_cannot_be_is_a_settings_error(monkeypatch: pytest.MonkeyPatch, url: str, words: str) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", url)
    with pytest.raises(InputError, match="LABEL_STUDIO_URL") as caught:
        load_settings()
    assert words in str(caught.value)
    assert "swordfish" not in str(caught.value)
    ran = CliRunner().invoke(doctor, [])
    assert isinstance(ran.exception, TrajSegError)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (" http://host:8080/ \n", "http://host:8080"),
        ("HTTP://Host/LabelStudio/", "http://Host/LabelStudio"),
        ("http://host//labelstudio///", "http://host/labelstudio"),
        ("http://host/labelstudio/", "http://host/labelstudio"),
        ("http://host/./a/../labelstudio", "http://host/labelstudio"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://host:", "http://host"),
    ],
)
def test_an_address_is_one_however_it_is_written(monkeypatch: pytest.MonkeyPatch, written: str, read: str) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", written)
    assert load_settings().label_studio_url == read


def test_a_client_with_a_bad_token_does_not_quote_it() -> None:
    client = LabelStudioClient("http://127.0.0.1:9", f"{TOKEN}\nX-Evil: 1", attempts=1)
    with pytest.raises(TrajSegError) as caught:
        client.version()
    assert TOKEN not in str(caught.value)
    client.close()


@pytest.mark.parametrize(
    "url", [f"redis://:{PASSWORD}@127.0.0.1:1/0", f"redis://u:{PASSWORD}@[::1/0", "redis://:swordfish@host:port/0"]
)
def test_the_doctor_shows_no_password(monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Any) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{PASSWORD}@127.0.0.1:1/x")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(tmp_path))
    ran = CliRunner().invoke(doctor, ["--read-only", "--video", "https://ann:swordfish@127.0.0.1:9/a.mp4?sig=deadbeef"])
    assert ran.exit_code == 1, ran.exception
    for secret in (TOKEN, PASSWORD, "word-of-the-store", "swordfish", "deadbeef"):
        assert secret not in ran.output


@pytest.fixture
def planted(client: FlaskClient, store: Store, settings: Settings, predict_body: Any) -> str:
    """The id of a failed job whose address and error contain secrets."""
    settings.label_studio_api_key = SecretStr(TOKEN)
    client.post("/predict", json=predict_body(1, video=ADDRESS))
    (job,) = store.jobs.newest(state="queued")
    token = store.runs.start(job.id)
    assert token is not None
    store.runs.fail(job.id, token, f"Illegal header value b'Token {TOKEN}' for {ADDRESS}", f"Check {ADDRESS}.")
    return job.id


def test_no_answer_and_no_page_has_them(client: FlaskClient, planted: str) -> None:
    for path in (f"/jobs/{planted}", "/jobs", "/page/jobs", f"/page/jobs/{planted}", "/metrics", "/health"):
        text = client.get(path).get_data(as_text=True)
        assert len(text) > 20
        for secret in (TOKEN, "swordfish", "deadbeef"):
            assert secret not in text, path
    assert client.get(f"/jobs/{planted}").json["video"] == "https://videos.example.com/clips/a.mp4"  # type: ignore[index]


def test_the_job_keeps_the_address_that_it_needs(store: Store, planted: str) -> None:
    assert store.jobs.get(planted).video == ADDRESS


def test_no_log_line_has_them() -> None:
    settings = Settings(
        label_studio_api_key=SecretStr(TOKEN),
        redis_url=f"redis://:{PASSWORD}@host/0",
        basic_auth_password=SecretStr("hunter22"),
    )
    formatter = RedactingFormatter(settings, "%(message)s")
    try:
        raise ValueError(f"Token {TOKEN} {ADDRESS}")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "", 1, "%s hunter22 %s", (ADDRESS, PASSWORD), info)
    line = formatter.format(record)
    assert "ValueError" in line
    for secret in (TOKEN, PASSWORD, "swordfish", "deadbeef", "hunter22"):
        assert secret not in line


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (ADDRESS, "https://videos.example.com/clips/a.mp4"),
        ("rtsp://me:pw@cam:554/x", "rtsp://cam:554/x"),
        ("s3://bucket/key name.mp4", "s3://bucket/key name.mp4"),
        ("/data/local-files/?d=media/a.mp4", "/data/local-files/?d=media/a.mp4"),
        ("/data/local-files/?d=media/a.mp4&token=x", "/data/local-files/?d=media/a.mp4"),
        ("https://me:pw@[bad/a.mp4?s=1", "https://[bad/a.mp4"),
        ("clip 1?.mp4", "clip 1?.mp4"),
        ("", ""),
    ],
)
def test_shown_addresses(address: str, shown: str) -> None:
    assert shown_address(address) == shown
    if " " not in address and "://" in address:
        assert shown_text(f"It is at '{address}', is it?") == f"It is at '{shown}', is it?"
