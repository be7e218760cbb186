"""The load at a fixed rate."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.live_server import live_server

from loadtest.client import LoadError
from loadtest.paced import Paced
from loadtest.wire import get_request


def test_it_asks_at_its_rate_and_counts_what_comes_back(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        load = Paced(server.service.port, [get_request("/v2/health/live", "127.0.0.1")], 500, 4)
        with load:
            while sum(load.statuses.values()) < 100:
                assert not load.error
        assert load.statuses.keys() == {200}
        assert len(load.latencies_s) == load.statuses[200] >= 100
        assert all(latency > 0 for latency in load.latencies_s)


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        port = server.service.port
    load = Paced(port, [get_request("/", "127.0.0.1")], 10, 1)
    with pytest.raises(LoadError, match="broke"), load:
        pass
