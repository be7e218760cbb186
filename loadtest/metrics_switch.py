"""A server whose metrics can be turned on and off while it runs, by SIGUSR1: for measuring what they cost.

Two processes of one program differ by a tenth in processor time, however they are started; one process that does both
in turns does not. Off is what `server.metrics = false` is: nobody listens for metrics, and nothing else is timed.

    python loadtest/metrics_switch.py FOLDER
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from batchserve.cli.assemble import Assembly, new_event_loop
from batchserve.config import Settings
from batchserve.engine.sources import find_models

__all__ = ["main"]


async def _serve(folder: Path) -> None:
    """Serve until SIGTERM; metrics are on at first."""
    settings = Settings.load(sets=("server.port=0", "server.profile_cache=false", "defaults.instances=1"))
    assembly = Assembly(settings, find_models([folder]))
    gauging, listeners = assembly._gauging, assembly.repository._listeners  # noqa: SLF001  # what a measurement may do
    assert gauging is not None, "metrics are on unless something turns them off"
    assert isinstance(listeners, list), "models share the list with the repository"
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def switch() -> None:
        if gauging.metrics in listeners:
            listeners.remove(gauging.metrics)
            gauging.stop()
        else:
            listeners.insert(0, gauging.metrics)
            gauging.start(loop)

    loop.add_signal_handler(signal.SIGUSR1, switch)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        await assembly.start()
        print(f"Listening on {assembly.server.url}", flush=True)
        await assembly.load()
        await stopping.wait()
    finally:
        await assembly.close()


def main() -> None:
    """Serve the models of the folder that is named."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
