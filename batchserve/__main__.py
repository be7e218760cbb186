"""`python -m batchserve`: the command line."""

from __future__ import annotations

from batchserve.cli.main import main

if __name__ == "__main__":
    main()
