"""The worker process of an isolated model: loads it, and runs what comes along its lanes.

Started as `python -m batchserve.backends.worker DESCRIPTOR`, whose socket first brings what to load. It ends when its
parent does, because the socket then ends.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from batchserve.backends.cores import cores_for
from batchserve.backends.lanes import Closed, Lane, receive, send
from batchserve.errors import BackendError, ModelLoadError, OutOfMemory

if TYPE_CHECKING:
    from batchserve.backends.base import Session

__all__ = ["main"]


def main(descriptor: int) -> None:
    """Load, say what was loaded, and serve lanes until the parent is gone; never returns."""
    # A Ctrl-C in the terminal is for the server, which ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    try:
        factory, file, config = receive(control)
        threading.Thread(target=_end_with_parent, args=(control,), daemon=True).start()
        try:
            _limit_memory(config.memory_limit_bytes)
            cores_for(config)
            if config.cpu_affinity:
                os.sched_setaffinity(0, config.cpu_affinity)  # threads that begin from now on are kept there too
            session = _factory(factory).load(file, config)
        except ModelLoadError as error:
            send(control, ("failed", str(error)))
            os._exit(1)
        except MemoryError:
            send(control, ("failed", "it does not fit into memory_limit"))
            os._exit(1)
        send(control, ("loaded", _description(session)))
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 3)
            if not message:
                break
            end, outgoing, incoming = descriptors
            lane = Lane(socket.socket(fileno=end), outgoing, incoming)
            threading.Thread(target=_work, args=(lane, session), daemon=True).start()
    except (Closed, OSError):
        pass
    os._exit(0)  # runs that go on have nobody to answer to


def _end_with_parent(control: socket.socket) -> None:
    """End this process if the parent is gone before the model is loaded, which may take minutes."""
    try:
        if control.recv(1, socket.MSG_PEEK):
            return  # the first lane: from now on the main thread sees the end
    except OSError:
        pass
    os._exit(0)


def _factory(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def _limit_memory(limit_bytes: int | None) -> None:
    """Bound what this process may allocate: its data, which the runtime's weights and arenas are."""
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _description(session: Session) -> dict[str, Any]:
    return {
        "inputs": session.inputs,
        "outputs": session.outputs,
        "batchability": session.batchability,
        "pad": session.pad,
        "providers": session.providers,
        "layouts": session.layouts,
        "facts": {**session.facts, "isolation": "process"},
    }


def _work(lane: Lane, session: Session) -> None:
    """Answer one lane until its other side is closed."""
    try:
        while True:
            what, arrays, detail = lane.receive()
            try:
                outputs = session.sample(*detail) if what == "sample" else session.run(arrays, detail)
            except (OutOfMemory, MemoryError) as error:
                lane.send("no memory", [], str(error) or "no memory is left within memory_limit")
            except BackendError as error:
                lane.send("failed", [], str(error))
            else:
                lane.send("done", outputs)
            arrays = outputs = []
    except Closed:
        lane.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
