"""The page at `/` in a browser, and the stream of events that feeds it."""

from batchserve.frontend.console.recent import RecentErrors
from batchserve.frontend.console.stream import Console

__all__ = ["Console", "RecentErrors"]
