"""Recordings of arrivals: what the server writes down, and what the load makes of it."""

from __future__ import annotations

import json
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from batchserve.core.request import Request
from batchserve.errors import ConfigError
from batchserve.load.recording import FORMAT, read_streams
from batchserve.telemetry import recording
from batchserve.telemetry.recording import CHUNK, Recorder


class Immediately(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Never(Executor):
    """Takes work and never does it: a disk that does not answer."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()


def request(at_s: float, rows: int = 1, *key: tuple[int, ...], **fields: Any) -> Request:
    return Request((), rows, key, 1, at_s, **fields)


def model(name: str = "m") -> Any:
    return SimpleNamespace(name=name)


def recorder(folder: Path, size: int = 1 << 20, files: int = 8, executor: Executor | None = None) -> Recorder:
    return Recorder(folder, size, files, executor or Immediately(), clock=lambda: 105.0)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*")) for line in path.read_text().splitlines()]


def test_requests_are_written_without_what_is_in_them(tmp_path: Path) -> None:
    one = recorder(tmp_path / "new")
    one.arrived(model(), request(100.0, 2, (17,), (17,), priority=1, client="secret@example.org"))
    one.arrived(model("n"), request(100.25, 1, (3, 32, 32)))
    one.close()
    head, first, second = lines(tmp_path / "new")
    assert head["format"] == recording.FORMAT == FORMAT
    hashed = first.pop("client")
    assert first == {"t": 0.0, "model": "m", "rows": 2, "dims": [[17], [17]], "priority": 1}
    assert second == {"t": 0.25, "model": "n", "rows": 1, "dims": [[3, 32, 32]]}
    assert len(hashed) == 12
    assert "secret" not in json.dumps(lines(tmp_path / "new"))


def test_request_that_may_be_padded_is_written_with_its_own_length(tmp_path: Path) -> None:
    """In its key the padded axes are left out, for requests of all lengths may share a run."""
    one = recorder(tmp_path)
    one.arrived(model(), request(100.0, 1, (-1, 4), (-1,), (8,), length=17))
    one.close()
    assert lines(tmp_path)[1]["dims"] == [[17, 4], [17], [8]]


def test_client_has_one_hash_within_a_recording_and_another_in_the_next(tmp_path: Path) -> None:
    for name in ("a", "b"):
        one = recorder(tmp_path / name)
        for client in ("x", "y", "x"):
            one.arrived(model(), request(1.0, client=client))
        one.close()
    hashes = [[line["client"] for line in lines(tmp_path / name)[1:]] for name in ("a", "b")]
    assert hashes[0][0] == hashes[0][2] != hashes[0][1]
    assert hashes[0][0] != hashes[1][0]


def test_files_are_followed_by_new_ones_and_the_oldest_go(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("stays")
    one = recorder(tmp_path, size=200, files=2)
    for number in range(6):
        for _ in range(10):
            one.arrived(model(), request(100.0 + number))
        one.flush()
    one.close()
    names = sorted(path.name for path in tmp_path.glob("arrivals-*"))
    assert [name.rpartition("-")[2] for name in names] == ["5.jsonl", "6.jsonl"]
    assert (tmp_path / "mine.txt").read_text() == "stays"


def test_many_requests_are_handed_over_before_the_second_is_up(tmp_path: Path) -> None:
    one = recorder(tmp_path)
    for _ in range(CHUNK):
        one.arrived(model(), request(1.0))
    assert len(lines(tmp_path)) == CHUNK + 1
    one.close()


def test_slow_disk_costs_requests_of_the_recording_and_no_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_WAITING", 3)
    one = recorder(tmp_path, executor=Never())
    for _ in range(10):
        one.arrived(model(), request(1.0))
        one.flush()
    assert [record.message for record in caplog.records] == [
        "recording: the disk is slower than the requests, so some are not written down"
    ]
    assert one._lost == 7


def test_files_of_earlier_starts_count_and_other_files_do_not(tmp_path: Path) -> None:
    """A server that is started again and again does not fill the disk."""
    names = [f"arrivals-2020010{day}T000000-{9 - day}-1.jsonl" for day in (1, 2, 3)]
    for name in (*names, "other.jsonl"):
        (tmp_path / name).write_text("")
    one = recorder(tmp_path, files=2)
    one.arrived(model(), request(100.0))
    one.close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left[0] == names[2]
    assert len(left) == 3
    assert left[2] == "other.jsonl"


def test_folder_that_cannot_be_written_is_said_once_and_hurts_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    one = recorder(tmp_path / "file")
    for _ in range(3):
        one.arrived(model(), request(1.0))
        one.flush()
    one.close()
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.records[0].message


def test_written_by_a_thread_every_request_is_there_and_in_order(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        one = recorder(tmp_path, executor=executor)
        for number in range(5000):
            one.arrived(model(), request(100.0 + number / 1000))
        one.close()
    times = [line["t"] for line in lines(tmp_path)[1:]]
    assert times == [round(number / 1000, 6) for number in range(5000)]


def test_recording_becomes_streams_that_send_it_again(tmp_path: Path) -> None:
    one = recorder(tmp_path)
    for at_s, rows, length in ((100.0, 1, 8), (100.5, 1, 16), (101.0, 1, 8), (102.0, 2, 8)):
        one.arrived(model(), request(at_s, rows, (length,), priority=2))
    one.close()
    streams, seconds = read_streams([tmp_path], speed=2.0)
    assert seconds == pytest.approx(1.0)
    drawn = {}
    for stream in streams:
        assert stream.arrivals is not None
        assert (stream.model, stream.priority, stream.variants) == ("m", 2, 1)
        drawn[stream.rows, stream.dims] = stream.arrivals.draw(10.0, np.random.default_rng(0)).tolist()
    assert drawn == {
        ((1, 1), ((8,),)): pytest.approx([0.0, 0.5]),
        ((1, 1), ((16,),)): pytest.approx([0.25]),
        ((2, 2), ((8,),)): pytest.approx([1.0]),
    }


def test_recording_whose_last_line_was_cut_is_read_up_to_it(tmp_path: Path) -> None:
    one = recorder(tmp_path)
    one.arrived(model(), request(100.0, 1, (8,)))
    one.close()
    (path,) = tmp_path.glob("*")
    path.write_text(path.read_text() + '{"t":1.0,"mod')
    streams, _ = read_streams([path])
    assert len(streams) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line says not"),
        ('{"format": "other"}\n', "its first line says not"),
        ('{"format": "batchserve-arrivals/1", "started": "2026-01-01T00:00:00+00:00"}\n', "no request in it"),
        ('{"format": "batchserve-arrivals/1", "started": "2026-01-01T00:00:00+00:00"}\n{}\n', "line 2: cannot be read"),
        ("nonsense\n", "line 1: cannot be read"),
    ],
)
def test_file_that_is_no_recording_says_so(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_streams([tmp_path])
