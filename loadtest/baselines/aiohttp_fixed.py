"""An aiohttp application that does next to nothing: read the body, answer fixed bytes.

    python loadtest/baselines/aiohttp_fixed.py --path /v2/models/m/infer --answer-bytes 300

With `--decode-json` it also makes an array of the body's `data`, as `np.array(json.loads(body)["inputs"][0]["data"])`.
On uvloop, as batchserve is; without an access log.
"""

from __future__ import annotations

import argparse
import asyncio
import json

import numpy as np
import uvloop
from aiohttp import web

__all__ = ["application"]

LARGEST_BODY_BYTES = 64 << 20


def application(path: str, answer_bytes: int, *, decode_json: bool) -> web.Application:
    """Make the application.

    Args:
        path: The one path it answers POST on.
        answer_bytes: Length of the answer's body.
        decode_json: Also decode the body, to `float32[N]`.
    """
    answer = bytes(answer_bytes)

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer, content_type="application/octet-stream")

    async def handle_json(request: web.Request) -> web.Response:
        np.array(json.loads(await request.read())["inputs"][0]["data"], np.float32)
        return web.Response(body=answer, content_type="application/octet-stream")

    made = web.Application(client_max_size=LARGEST_BODY_BYTES)
    made.router.add_post(path, handle_json if decode_json else handle)
    return made


async def serve(made: web.Application) -> None:
    runner = web.AppRunner(made, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Read bodies with aiohttp and answer the same bytes.")
    parser.add_argument("--path", required=True, help="the path to answer POST on")
    parser.add_argument("--answer-bytes", type=int, required=True, help="length of the answer's body")
    parser.add_argument("--decode-json", action="store_true", help="make an array of the body first")
    arguments = parser.parse_args()
    uvloop.run(serve(application(arguments.path, arguments.answer_bytes, decode_json=arguments.decode_json)))
