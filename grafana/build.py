"""Writes the dashboards' JSON: `python -m grafana.build`, or with `--check` only says whether it is up to date."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.model import model_dashboard
from grafana.overview import overview_dashboard

__all__ = ["FOLDER", "dashboards", "main"]

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> Mapping[Path, str]:
    """Return the JSON of each dashboard by the file that it belongs into."""
    built = {"overview": overview_dashboard(), "model": model_dashboard()}
    return {
        FOLDER / f"{name}.json": json.dumps(one, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, one in built.items()
    }


def main() -> int:
    """Write what differs; with `--check` name it and return 1."""
    is_check = "--check" in sys.argv[1:]
    stale = [path for path, text in dashboards().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{path.name} is {'not up to date: run python -m grafana.build' if is_check else 'written'}")
        if not is_check:
            path.write_text(dashboards()[path], encoding="utf-8")
    return 1 if stale and is_check else 0


if __name__ == "__main__":
    sys.exit(main())
