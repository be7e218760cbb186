"""`/v2/logging` (protocol.md section 14): read by anybody, changed where control is allowed, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from support.http_service import Serve, Service

from batchserve.backends.fake import FakeBackend
from batchserve.config import ServerConfig

PATH = "/v2/logging"


class Settings:
    """The process's settings, as the server is given them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            "log_file": "",
            "log_info": True,
            "log_warning": True,
            "log_error": True,
            "log_verbose_level": 0,
            "log_format": "ISO8601",
        }

    def update(self, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        self.values |= changes
        return dict(self.values)


async def started(serve: Serve, *, admin: bool = True) -> tuple[Service, Settings]:
    settings = Settings()
    service = await serve(FakeBackend(), config=ServerConfig(admin=admin), log_settings=settings.update)
    return service, settings


async def test_settings_are_shown_and_the_extension_is_listed(serve: Serve) -> None:
    service, settings = await started(serve, admin=False)
    async with await service.client() as client:
        assert (await client.get(PATH)).json == settings.values
        assert "logging" in (await client.get("/v2")).json["extensions"]


async def test_without_settings_there_is_no_endpoint_and_no_extension(serve: Serve) -> None:
    service = await serve(FakeBackend(), config=ServerConfig(admin=True))
    async with await service.client() as client:
        for reply in (await client.get(PATH), await client.post(PATH, {})):
            assert reply.status == 404
            assert reply.error
        assert "logging" not in (await client.get("/v2")).json["extensions"]


async def test_a_subset_is_changed_and_all_are_returned(serve: Serve) -> None:
    service, settings = await started(serve)
    async with await service.client() as client:
        reply = await client.post(PATH, {"log_info": False, "log_verbose_level": 2, "log_format": "default"})
        assert reply.status == 200
        assert reply.json == {**settings.values, "log_info": False, "log_verbose_level": 2, "log_format": "default"}
        assert (await client.get(PATH)).json == reply.json


async def test_what_is_null_unknown_or_missing_changes_nothing(serve: Serve) -> None:
    service, settings = await started(serve)
    before = dict(settings.values)
    async with await service.client() as client:
        for body in (b"", {}, {"log_info": None, "log_of_captain": "7"}, {"log_file": ""}):
            reply = await client.post(PATH, body)
            assert (reply.status, reply.json) == (200, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("log_info", 1), ("log_warning", "true"), ("log_error", [])),
        *(("log_verbose_level", -1), ("log_verbose_level", True), ("log_verbose_level", 1.5)),
        *(("log_format", "iso8601"), ("log_format", ["default"]), ("log_file", 3), ("log_file", "server.log")),
    ],
)
async def test_a_wrong_value_is_400_and_nothing_changes(serve: Serve, name: str, value: object) -> None:
    service, settings = await started(serve)
    before = dict(settings.values)
    async with await service.client() as client:
        reply = await client.post(PATH, {"log_info": False, name: value, "log_warning": False} | {name: value})
    assert reply.status == 400
    assert name in reply.error
    assert settings.values == before


async def test_changes_need_control(serve: Serve) -> None:
    service, settings = await started(serve, admin=False)
    before = dict(settings.values)
    async with await service.client() as client:
        reply = await client.post(PATH, {"log_info": False})
    assert reply.status == 403
    assert "server.admin" in reply.error
    assert settings.values == before


async def test_other_methods_are_405(serve: Serve) -> None:
    service, _ = await started(serve)
    async with await service.client() as client:
        reply = await client.ask("PUT", PATH, b"{}")
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD, POST"
