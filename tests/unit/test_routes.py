"""Paths and the endpoints they mean."""

from __future__ import annotations

import pytest

from batchserve.frontend.routes import find_route, is_plain_name


@pytest.mark.parametrize(
    ("path", "name", "target", "version"),
    [
        ("/", "alive", "", ""),
        ("/v2", "server_metadata", "", ""),
        ("/v2/models/stats", "all_statistics", "", ""),
        ("/v2/models/m", "model_metadata", "m", ""),
        ("/v2/models/m/versions/3", "model_metadata", "m", "3"),
        ("/v2/models/m/infer", "infer", "m", ""),
        ("/v2/models/m/versions/3/infer", "infer", "m", "3"),
        ("/v2/models/versions/versions/versions/stats", "model_statistics", "versions", "versions"),
        ("/v2/models/versions/infer", "infer", "versions", ""),
        ("/v2/models/a%20b/config/reload", "reload", "a b", ""),
        ("/v2/models/a%20b/versions/2/profile", "profile", "a b", "2"),
        ("/v2/models/stats/ready", "model_ready", "stats", ""),
        ("/v2/repository/models/m/load", "load", "m", ""),
        ("/v2/cudasharedmemory/region/r/register", "register_cuda_region", "r", ""),
    ],
)
def test_a_path_is_found_with_what_it_names(path: str, name: str, target: str, version: str) -> None:
    route = find_route(path)
    assert route is not None
    assert (route.name, route.target, route.version) == (name, target, version)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "//",
        "/v2/",
        "//v2",
        "/V2",
        "/v2/health",
        "/v2/health/live/",
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/m/",
        "/v2/models/m/infer/",
        "/v2/models/m/Infer",
        "/v2/models/m/generate",
        "/v2/models/a/b/infer",
        "/v2/models/m/versions/1/config/reload",
        "/v2/models/m/config/reload/",
        "/v2/models//config/reload",
        "/v2/models/m/versions",
        "/v2/models/m/versions/",
        "/v2/models/m/versions//infer",
        "/v2/models/m/versions/1/",
        "/v2/models/m/versions/1/infer/x",
        "/v2/repository/models/m",
        "/v2/repository/models//load",
        "/v2/repository/models/m/reload",
        "/v2/systemsharedmemory/region//status",
        "/v2/othersharedmemory/region/r/status",
        "/v2/systemsharedmemory/register",
    ],
)
def test_paths_match_exactly(path: str) -> None:
    assert find_route(path) is None


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("a%2520b", "a%20b"),
        ("%c3%a9", "é"),
        ("é", "é"),
        ("a%2Fb", "a/b"),
        ("%", "%"),
        ("%zz", "%zz"),
        ("a%00b", "a\0b"),
        ("%2e%2E", ".."),
    ],
)
def test_a_name_is_decoded_exactly_once(segment: str, name: str) -> None:
    route = find_route(f"/v2/models/{segment}/versions/{segment}/infer")
    assert route is not None
    assert (route.target, route.version) == (name, name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0", "\ufffd"])
def test_a_name_that_could_mean_another_place_is_not_looked_up(name: str) -> None:
    assert not is_plain_name(name)


@pytest.mark.parametrize("name", ["m", "...", ".hidden", "a b", "é", "a\\b", "stats"])
def test_other_names_are_looked_up(name: str) -> None:
    assert is_plain_name(name)
