"""A crowd of clients whose every row says whose it is, some of whom leave before their answer comes."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass

import numpy as np
from support.raw_http import RawClient, Reply, request_bytes

LENGTHS = (1, 2, 3, 5, 8)
MOST_ROWS = 5


@dataclass
class Tally:
    """What became of the crowd's requests, as the clients saw it."""

    answered: int = 0
    left: int = 0


async def run_crowd(
    port: int, *, clients: int, requests: int, leaving: float = 0.05, path: str = "/v2/models/echo/infer"
) -> Tally:
    """Let clients ask, each one request at a time, and check that every answer is the one to its request.

    Args:
        port: Of a server whose model echoes `int64[-1, -1]` from `x` to `y`.
        clients: How many ask at once.
        requests: How many each sends.
        leaving: Share of the requests whose client is gone before the answer comes.
        path: Where the requests go.
    """
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        for client in range(clients):
            group.create_task(_ask(port, client, requests, leaving, path, tally))
    return tally


async def _ask(port: int, client: int, requests: int, leaving: float, path: str, tally: Tally) -> None:
    chance = random.Random(client)
    connection = await RawClient.connect(port)
    for number in range(requests):
        array = _rows(client, number, chance.randint(1, MOST_ROWS), chance.choice(LENGTHS))
        is_binary = chance.random() < 0.5
        await connection.send(_request(path, f"{client}-{number}", array, is_binary=is_binary))
        if chance.random() < leaving:
            for _ in range(chance.randrange(20)):  # so that it leaves at any point: unread, queued, running, answered
                await asyncio.sleep(0)
            connection.abort()
            tally.left += 1
            connection = await RawClient.connect(port)
            continue
        _check(await connection.read(), f"{client}-{number}", array, is_binary=is_binary)
        tally.answered += 1
    await connection.close()


def _rows(client: int, number: int, rows: int, length: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Rows no other request of the crowd has: client, number, row and column are digits of each element."""
    code = (client * 1_000_000 + number * 1000) * 1000
    return code + (np.arange(rows)[:, None] * 100 + np.arange(length)[None, :]).astype(np.int64)


def _request(path: str, name: str, array: np.ndarray[tuple[int, int], np.dtype[np.int64]], *, is_binary: bool) -> bytes:
    tensor = {"name": "x", "datatype": "INT64", "shape": list(array.shape)}
    if not is_binary:
        body = json.dumps({"id": name, "inputs": [{**tensor, "data": array.tolist()}]}).encode()
        return request_bytes("POST", path, body)
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"id": name, "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return request_bytes("POST", path, head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))})


def _check(reply: Reply, name: str, array: np.ndarray[tuple[int, int], np.dtype[np.int64]], *, is_binary: bool) -> None:
    assert reply.status == 200, (name, reply)
    length = int(reply.headers.get("inference-header-content-length", len(reply.body)))
    answer = json.loads(reply.body[:length])
    assert answer["id"] == name
    (output,) = answer["outputs"]
    assert output["shape"] == list(array.shape), name
    got = np.frombuffer(reply.body[length:], np.int64).tolist() if is_binary else output["data"]
    assert got == array.ravel().tolist(), name
