"""docker-compose.yml and Dockerfile, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.command import ServeProcess
from support.observability import GRAFANA, ROOT

from batchserve.config.schema import SERVER_KEYS

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ("batchserve", "batchserve-gpu")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def mounts(service: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Give the files and folders of the checkout that a service mounts, and where."""
    for volume in service["volumes"]:
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert mode == ["ro"], volume
            yield ROOT / source, target
        else:
            assert source in COMPOSE["volumes"], volume


def inside(service: dict[str, Any], path: str) -> Path:
    """Find the file of the checkout that lies at a path of the container."""
    for source, target in mounts(service):
        if path == target or path.startswith(f"{target}/"):
            return source / path.removeprefix(target).lstrip("/")
    raise AssertionError(f"{path} is not mounted")


def instruction(name: str) -> list[str]:
    """Read an instruction of the Dockerfile that is written as a list."""
    joined = DOCKERFILE.replace("\\\n", " ")
    found = re.search(rf"^{name}\b.*?(\[.*\])$", joined, re.MULTILINE)
    assert found is not None, name
    command = json.loads(found[1])
    assert isinstance(command, list)
    return command


def test_the_file_is_what_the_compose_specification_allows() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text("utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError, match="red_only"):
        validator.validate(COMPOSE | {"services": {"batchserve": {"red_only": True}}})


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined_and_says_how_it_is(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_path_that_is_mounted_exists(name: str) -> None:
    for source, _ in mounts(SERVICES[name]):
        assert source.exists(), source


def test_what_the_server_writes_goes_to_a_volume() -> None:
    folder = re.search(r"BATCHSERVE_SERVER__CACHE_DIR=(\S+)", DOCKERFILE)
    assert folder is not None
    assert "cache_dir" in SERVER_KEYS
    for name in SERVERS:
        assert f"cache:{folder[1]}" in SERVICES[name]["volumes"]
    assert re.search(rf"install -d -o 10001 -g 10001 {folder[1]}$", DOCKERFILE, re.MULTILINE)


def test_images_that_are_not_built_here_are_pinned() -> None:
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", SERVICES["prometheus"]["image"])
    assert re.fullmatch(r"grafana/grafana:11\.\d+\.\d+", SERVICES["grafana"]["image"])
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+$", DOCKERFILE, re.MULTILINE)
    pins = (ROOT / "docker" / "constraints.txt").read_text("utf-8").splitlines()[1:]
    assert len(pins) > 15
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)


def test_one_server_for_processors_and_one_for_gpus() -> None:
    assert [SERVICES[name]["profiles"] for name in SERVERS] == [["cpu"], ["gpu"]]
    (device,) = SERVICES["batchserve-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for name in SERVERS:
        build = SERVICES[name]["build"]
        assert (ROOT / build["context"] / "Dockerfile").is_file()
        for extra in build["args"]["EXTRAS"].split(","):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_whoever_needs_another_waits_until_it_is_well() -> None:
    assert SERVICES["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}
    needed = SERVICES["prometheus"]["depends_on"]
    assert set(needed) == set(SERVERS)  # only one of them runs, so none is required
    assert all(each == {"condition": "service_healthy", "required": False} for each in needed.values())


def test_prometheus_finds_its_configuration_its_rules_and_the_server() -> None:
    service = SERVICES["prometheus"]
    options = dict(option.removeprefix("--").split("=", 1) for option in service["command"])
    config_path = inside(service, options["config.file"])
    config = yaml.safe_load(config_path.read_text("utf-8"))
    for pattern in config["rule_files"]:
        folder = inside(service, str(Path(options["config.file"]).parent / Path(pattern).parent))
        assert list(folder.glob(Path(pattern).name))
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    port = instruction("CMD")[instruction("CMD").index("--port") + 1]
    assert targets["batchserve"] == [f"batchserve:{port}"]
    for name in SERVERS:
        assert "batchserve" in SERVICES[name]["networks"]["default"]["aliases"]
        assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"EXPOSE {port}" in DOCKERFILE
    assert options["enable-feature"] == "exemplar-storage"


def test_grafana_finds_prometheus_its_dashboards_and_its_home() -> None:
    service = SERVICES["grafana"]
    sources = inside(service, "/etc/grafana/provisioning/datasources/prometheus.yaml")
    (source,) = yaml.safe_load(sources.read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert SERVICES["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    assert SERVICES["prometheus"]["image"].endswith(source["jsonData"]["prometheusVersion"])
    providers = inside(service, "/etc/grafana/provisioning/dashboards/batchserve.yaml")
    (provider,) = yaml.safe_load(providers.read_text("utf-8"))["providers"]
    assert inside(service, provider["options"]["path"]) == GRAFANA / "dashboards"
    environment = service["environment"]
    assert inside(service, environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).is_file()
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert set(re.findall(r"\$\{(\w+)\}", sources.read_text("utf-8"))) <= set(environment)


def test_the_images_command_serves_what_is_mounted_and_its_health_check_notices() -> None:
    """The real command of the image on this machine, on a free port, with the folder that is mounted."""
    program, *arguments = instruction("CMD")
    assert program == "serve"
    models = inside(SERVICES["batchserve"], arguments[0])
    here = [str(models), *arguments[1:]]
    here[here.index("--port") + 1] = "0"
    here[here.index("--host") + 1] = "127.0.0.1"
    process = ServeProcess(here)
    try:
        process.loaded()
        check = instruction("HEALTHCHECK")
        assert check == SERVICES["batchserve"]["healthcheck"]["test"][1:]
        code = check[-1].replace("http://127.0.0.1:8000", process.url)
        assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
    finally:
        process.close()
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False, stderr=-3).returncode == 1


def test_what_the_image_is_built_from_is_there_and_not_ignored() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    copied: list[str] = []
    for line in DOCKERFILE.splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            copied += words[1:-1]
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / path).exists() for path in copied)
