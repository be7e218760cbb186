"""A server on a Unix socket: it answers as on a port, and its file comes and goes with it."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from pathlib import Path

import pytest
from support import http_service
from support.http_service import Serve, infer_body
from support.raw_http import TIMEOUT_S, RawClient

from batchserve.backends.fake import FakeBackend
from batchserve.cli.assemble import new_event_loop
from batchserve.errors import ConfigError
from batchserve.frontend.listen import listen
from batchserve.frontend.unix_socket import listen_unix, remove_unix

INFER = "/v2/models/echo/infer"


def is_socket(path: Path) -> bool:
    return path.is_socket()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers that a test starts listen: under a short name, because the system allows some 100 bytes."""
    monkeypatch.chdir(tmp_path)

    def on_a_socket(config: object, **keys: object) -> object:
        return dataclasses.replace(config, **{**keys, "host": "unix:s"})  # type: ignore[type-var]

    monkeypatch.setattr(http_service, "_with", on_a_socket)
    return tmp_path / "s"


async def connect() -> RawClient:
    return RawClient(*await asyncio.open_unix_connection("s"))


async def test_it_answers_as_on_a_port_and_leaves_no_file(serve: Serve, path: Path) -> None:
    service = await serve(FakeBackend(), with_access_log=True)
    assert service.server.url == "unix:s"
    assert is_socket(path)
    async with await connect() as client:
        for value in range(3):
            (output,) = (await client.post(INFER, infer_body(value))).json["outputs"]
            assert output["data"] == [value] * 4
            assert (await client.get("/v2/health/ready")).status == 200
    assert [access["path"] for access in service.accesses if access["method"] == "POST"] == [INFER] * 3
    await service.server.drain()
    assert not is_socket(path)


def test_the_fastest_event_loop_listens_on_it_as_well(path: Path) -> None:
    async def test() -> None:
        service = await http_service.start_service(FakeBackend())
        async with await connect() as client:
            for value in range(3):
                (output,) = (await client.post(INFER, infer_body(value))).json["outputs"]
                assert output["data"] == [value] * 4
        await service.server.drain()
        await service.stop()
        assert not is_socket(path)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(asyncio.wait_for(test(), TIMEOUT_S))


async def test_a_socket_that_was_left_behind_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind("s")
    assert is_socket(path)
    (listener,) = await listen("unix:s", 0)
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect("s")
    remove_unix(listener)


def test_a_socket_that_is_listened_on_or_another_file_is_left_alone(path: Path) -> None:
    with listen_unix("s"), pytest.raises(ConfigError, match=r"server\.host = 'unix:s': the path is taken by another"):
        listen_unix("s")
    path.unlink()
    path.write_text("mine")
    with pytest.raises(ConfigError, match="the path is taken by another server or file"):
        listen_unix("s")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["none/s", "x" * 200, ""])
async def test_a_path_that_cannot_be_had_is_told_in_one_line(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.host = 'unix:.*' cannot be listened on") as error:
        await listen(f"unix:{name}", 0)
    assert "\n" not in str(error.value)
