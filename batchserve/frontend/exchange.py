"""One hot inference request, from its body to its answer."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

from batchserve.core.request import Response
from batchserve.core.trace import Trace
from batchserve.errors import InternalError, ModelNotReady, RequestError
from batchserve.frontend.replies import error_reply, ok_head, plain_reply
from batchserve.frontend.templates import fitting
from batchserve.frontend.timing import timing_headers
from batchserve.frontend.trace_headers import names, new_request_id, request_id_line

if TYPE_CHECKING:
    import asyncio
    import mmap
    from collections.abc import Callable, Sequence

    from batchserve.core.request import Request
    from batchserve.core.ticket import Ticket
    from batchserve.engine.model import Model
    from batchserve.frontend.heads import Head
    from batchserve.frontend.hot import HotPath
    from batchserve.frontend.inference import Written
    from batchserve.frontend.plans import Plan
    from batchserve.frontend.v2 import Asked

__all__ = ["Exchange"]

JOIN_BYTES = 64 << 10
"""A smaller answer leaves in one write; of a larger one nothing is copied."""

_log = logging.getLogger(__name__)


class _Front(Protocol):
    """The connection, as far as an exchange needs it."""

    transport: asyncio.Transport

    def end_request(self) -> None: ...

    def close_after_answer(self) -> None: ...

    def stream(self, parts: Sequence[bytes | memoryview], done: Callable[[], None]) -> None: ...


class Exchange:
    """One request of one connection. Event loop only.

    Invariant: its memory (the budget's bytes and the buffer) is given back exactly once: when no run reads it any more,
    not when its client goes.

    Args:
        hot: What connections share.
        model: The version the request is for.
        head: Its head; the budget has room for its body.
        front: The connection.
    """

    __slots__ = ("_asked", "_buffer", "_front", "_head", "_hot", "_model", "_start_s", "_ticket", "_trace")

    def __init__(self, hot: HotPath, model: Model, head: Head, front: _Front) -> None:
        self._hot = hot
        self._model = model
        self._head = head
        self._front: _Front | None = front
        self._buffer: mmap.mmap | None = None
        self._ticket: Ticket | None = None
        self._asked: Asked | None = None
        self._start_s = 0.0
        self._trace: Trace | None = head.trace
        hot.budget.take(head.length)

    # --- what the connection calls --------------------------------------------------------------------------------

    def begin(self, body: bytes | memoryview, buffer: mmap.mmap | None = None) -> None:
        """Decode and queue the request.

        Args:
            body: All of it; nobody writes to it until the memory is given back.
            buffer: The pooled buffer that `body` lies in; from here on the exchange's to give back.
        """
        self._buffer = buffer
        self._start_s = arrival_s = time.monotonic()
        if self._hot.tracer is not None:
            self._trace = self._hot.tracer.sample(self._trace)
        current = self._hot.current(self._head)
        if current is None:
            self._end(ModelNotReady(f"model '{self._model.name}' was unloaded while the request arrived"))
            return
        self._model = model = current
        info = self._hot.inference.info(model)
        head = self._head
        if self._hot.inference.is_heavy(info, body, head.header_length):
            future = self._hot.loop.run_in_executor(
                self._hot.executor, self._hot.inference.read, info, body, head.header_length, arrival_s
            )
            future.add_done_callback(self._decoded)
            return
        try:
            request, self._asked = self._hot.inference.read(info, body, head.header_length, arrival_s)
        except RequestError as error:
            model.count_invalid()
            self._end(error)
        except Exception:  # noqa: BLE001  # a bug in one request must not end its neighbours in this turn
            self._bug()
        else:
            self._submit(request)

    def repeat(self, plan: Plan, data: bytes, trace: Trace | None) -> None:
        """Queue a request that begins with known bytes; as `begin`, without anything to be found out.

        Args:
            plan: How to read it.
            data: All of it, from the first byte of its head.
            trace: What it is called.
        """
        self._start_s = arrival_s = time.monotonic()
        self._trace = trace if self._hot.tracer is None else self._hot.tracer.sample(trace)
        self._asked = plan.asked
        self._submit(plan.apply(data, arrival_s))

    def abandon(self) -> None:
        """Drop the request: its client left."""
        self._front = None
        self._tell_tracer(499)
        if self._ticket is not None:
            self._model.cancel(self._ticket)  # gives the memory back, now or when the run ends
        elif not self._start_s:
            self._give_back()  # its body was still coming; the connection has the buffer

    def refuse(self, error: RequestError) -> None:
        """Drop the request: its body did not come in time. The connection answers."""
        self._front = None
        self._model.count_invalid()
        self._give_back()

    # --- on the way to the queue ----------------------------------------------------------------------------------

    def _decoded(self, future: asyncio.Future[tuple[Request, Asked]]) -> None:
        """Take over what a helper thread has decoded."""
        if self._front is None:
            future.exception()  # whatever it was: nobody waits for it
            self._give_back()
            return
        try:
            request, self._asked = future.result()
        except RequestError as error:
            self._model.count_invalid()
            self._end(error)
        except Exception:  # noqa: BLE001  # as above
            self._bug()
        else:
            self._submit(request)

    def _submit(self, request: Request) -> None:
        if self._head.client:
            request.client = self._head.client
        if self._trace is not None:
            request.trace = self._trace
        try:
            self._ticket = self._model.submit(request, self._reply, self._give_back)
        except RequestError as error:
            self._end(error)

    def _end(self, error: RequestError) -> None:
        """Answer a request that never reached the queue."""
        self._give_back()
        self._reply(error)

    def _bug(self) -> None:
        self._log_bug("reading")
        self._model.count_invalid()
        self._end(InternalError("internal error; the server's log has the details"))

    def _log_bug(self, doing: str) -> None:
        """Log the exception in hand under the id that the client is told."""
        extra = {"request_id": self._name().request_id}
        _log.exception("bug while %s a request for model %s", doing, self._model.name, extra=extra)

    def _name(self) -> Trace:
        """Return what the request is called; gives it a name if it has none."""
        if self._trace is None:
            self._trace = Trace(new_request_id())
        return self._trace

    def _give_back(self) -> None:
        """Give the request's memory back."""
        self._hot.budget.held_bytes -= self._head.length
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._hot.pool.take_back(buffer)

    # --- on the way back ------------------------------------------------------------------------------------------

    def _reply(self, result: Response | RequestError) -> None:
        """Write the answer. Called once, for all requests of a batch in one pass."""
        self._ticket = None
        front = self._front
        if front is None:
            return
        if not isinstance(result, Response):
            self._send_error(result)
            return
        if self._is_sent_plainly(front, result):
            return
        inference, asked = self._hot.inference, self._asked
        assert asked is not None
        info = inference.info(self._model)
        accepted = self._head.accept_encoding
        try:
            if inference.is_heavy_answer(asked, result, accepted):
                work = self._hot.loop.run_in_executor(
                    self._hot.executor, inference.write, info, asked, result, accepted
                )
                work.add_done_callback(partial(self._written, result))
                return
            self._send(inference.write(info, asked, result, accepted), result)
        except RequestError as error:
            self._send_error(error)

    def _is_sent_plainly(self, front: _Front, result: Response) -> bool:
        """Write an answer like one before it, with nothing special about it; False if it is not like that."""
        asked, head, hot = self._asked, self._head, self._hot
        assert asked is not None
        template = fitting(asked, result.outputs)
        if template is None or not (head.is_plain and hot.is_plain) or hot.is_leaving:
            return False
        if head.accept_encoding is not None and template.body_bytes >= hot.config.compression_min_size_bytes:
            return False
        request_id = "" if self._trace is None else self._trace.request_id
        front.transport.write(plain_reply(template, result.outputs, request_id))
        self._front = None
        hot.count(200)
        if self._trace is not None:
            self._tell_tracer(200)
        front.end_request()
        return True

    def _written(self, result: Response, future: asyncio.Future[Written]) -> None:
        """Send what a helper thread has encoded."""
        try:
            written = future.result()
        except RequestError as error:
            self._send_error(error)
        except Exception:  # noqa: BLE001  # as above
            self._log_bug("answering")
            self._send_error(InternalError("internal error; the server's log has the details"))
        else:
            self._send(written, result)

    def _send(self, written: Written, result: Response) -> None:
        front = self._front
        if front is None:
            return
        answer, coding, parts = written
        size_bytes = sum(map(len, parts))
        extra = b"" if coding is None else b"Content-Encoding: %b\r\n" % coding.encode()
        if self._head.wants_timing or self._hot.config.server_timing:
            extra += b"".join(b"%b: %b\r\n" % (n.encode(), v.encode()) for n, v in timing_headers(result).items())
        if self._trace is not None:
            extra += request_id_line(self._trace.request_id)
        is_closing = self._is_closing(front)
        head = ok_head(size_bytes, answer.json_length, extra, is_closing=is_closing)
        if size_bytes <= JOIN_BYTES:
            front.transport.write(b"".join((head, *parts)))
            self._finish(front, 200, len(head) + size_bytes)
        else:
            front.stream([head, *parts], partial(self._finish, front, 200, len(head) + size_bytes))

    def _send_error(self, error: RequestError) -> None:
        front = self._front
        if front is None:
            return
        request_id = self._name().request_id
        self._hot.errors.note(error, self._model.name, request_id)
        is_closing = self._is_closing(front) or error.closes_connection
        if is_closing:
            front.close_after_answer()
        reply = error_reply(error, request_id, is_closing=is_closing)
        front.transport.write(reply)
        self._finish(front, error.status, len(reply))

    def _is_closing(self, front: _Front) -> bool:
        if self._hot.is_leaving:
            front.close_after_answer()
            return True
        return not self._head.is_keep_alive

    def _finish(self, front: _Front, status: int, sent_bytes: int) -> None:
        self._front = None
        hot = self._hot
        hot.count(status)
        self._tell_tracer(status)
        if hot.access_log is not None:
            peer = front.transport.get_extra_info("peername")
            hot.access_log(
                {
                    "remote": peer[0] if isinstance(peer, tuple) else None,
                    "method": "POST",
                    "path": self._head.path,
                    "status": status,
                    "sent_bytes": sent_bytes,
                    "duration_s": time.monotonic() - self._start_s,
                    **names(self._trace),
                }
            )
        front.end_request()

    def _tell_tracer(self, status: int) -> None:
        tracer, trace = self._hot.tracer, self._trace
        if tracer is not None and trace is not None and trace.span_id:
            tracer.request_ended(trace, self._model.name, str(self._model.version), status, self._start_s)
