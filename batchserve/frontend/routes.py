"""Which endpoint a path means (protocol.md section 2). Pure: a path in, a name out."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

__all__ = ["PROBES", "Route", "find_route", "is_plain_name"]

_GET: tuple[str, ...] = ("GET", "HEAD")
_POST: tuple[str, ...] = ("POST",)


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint, with what its path names.

    Attributes:
        name: The endpoint's own name, which the application maps to a handler.
        methods: What it answers to.
        target: The model or region in the path, percent-decoded once; "" if the path has none.
        version: The version in the path, percent-decoded once; "" if the path has none.
    """

    name: str
    methods: tuple[str, ...]
    target: str = ""
    version: str = ""


_FIXED = {
    "/": Route("alive", _GET),
    "/metrics": Route("metrics", _GET),
    "/console/events": Route("console_events", ("GET",)),
    "/v2": Route("server_metadata", _GET),
    "/v2/logging": Route("logging", ("GET", "HEAD", "POST")),
    "/v2/health/live": Route("live", _GET),
    "/v2/health/ready": Route("ready", _GET),
    "/v2/models/stats": Route("all_statistics", _GET),
    "/v2/repository/index": Route("index", _POST),
    "/v2/systemsharedmemory/status": Route("regions", _GET),
    "/v2/systemsharedmemory/unregister": Route("unregister_region", _POST),
    "/v2/cudasharedmemory/status": Route("regions", _GET),
    "/v2/cudasharedmemory/unregister": Route("unregister_region", _POST),
}

PROBES = frozenset({"alive", "live", "ready", "server_metadata", "model_metadata", "model_ready", "model_config"})
"""Endpoints that are answered from what is known, without a body, in microseconds."""

_MODEL_VERBS = {
    "ready": ("model_ready", _GET),
    "config": ("model_config", _GET),
    "stats": ("model_statistics", _GET),
    "infer": ("infer", _POST),
    "profile": ("profile", _POST),
}

_REPOSITORY_VERBS = {"load": ("load", _POST), "unload": ("unload", _POST)}

_REGION_VERBS = {
    ("systemsharedmemory", "status"): ("region", _GET),
    ("systemsharedmemory", "register"): ("register_system_region", _POST),
    ("systemsharedmemory", "unregister"): ("unregister_region", _POST),
    ("cudasharedmemory", "status"): ("region", _GET),
    ("cudasharedmemory", "register"): ("register_cuda_region", _POST),
    ("cudasharedmemory", "unregister"): ("unregister_region", _POST),
}


def find_route(raw_path: str) -> Route | None:
    """Find the endpoint of a path.

    Paths match exactly: a trailing slash, an empty segment or an unknown verb is no endpoint. A model named `stats`
    cannot exist, since `/v2/models/stats` is an endpoint of its own.

    Args:
        raw_path: The path as sent, still percent-encoded, without query and fragment.

    Returns:
        The endpoint, or None if there is none.
    """
    fixed = _FIXED.get(raw_path)
    if fixed is not None:
        return fixed
    match raw_path.split("/"):
        case ["", "v2", "models", model, "config", "reload"] if model:
            return Route("reload", _POST, _decode(model))
        case ["", "v2", "models", model, *rest] if model:
            return _model_route(model, rest)
        case ["", "v2", "repository", "models", model, verb] if model and verb in _REPOSITORY_VERBS:
            name, methods = _REPOSITORY_VERBS[verb]
            return Route(name, methods, _decode(model))
        case ["", "v2", family, "region", region, verb] if region and (family, verb) in _REGION_VERBS:
            name, methods = _REGION_VERBS[family, verb]
            return Route(name, methods, _decode(region))
    return None


def _model_route(model: str, rest: list[str]) -> Route | None:
    version = ""
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
        if not version:
            return None
    if not rest:
        return Route("model_metadata", _GET, _decode(model), _decode(version))
    if len(rest) == 1 and rest[0] in _MODEL_VERBS:
        name, methods = _MODEL_VERBS[rest[0]]
        return Route(name, methods, _decode(model), _decode(version))
    return None


def _decode(segment: str) -> str:
    """Percent-decode once; what is not UTF-8 becomes U+FFFD, which no loaded name holds."""
    return unquote(segment) if "%" in segment else segment


def is_plain_name(name: str) -> bool:
    """Say whether a decoded name may be looked up at all.

    A name with a slash or a NUL, `.` and `..` could mean another place on disk.
    """
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name and "\ufffd" not in name
