"""Small JSON files that are replaced as a whole: a reader sees the old file or the new one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, value: object) -> None:
    """Put JSON in the place of what a file holds, and make its folder if there is none. Blocks.

    Args:
        path: The file.
        value: Of plain JSON types.

    Raises:
        OSError: It could not be written; the old file is as it was, and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(value, file)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
