"""The console's page: one document, put together from its parts when the server starts, and who is to get it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["Page", "prefers_html"]

_SCRIPTS = ("charts.js", "form.js", "console.js")

_LONGEST_ACCEPT = 1000
"""Characters of an `Accept` header that are read; browsers send about 150."""


@dataclass(frozen=True, slots=True)
class Page:
    """The document and its headers.

    Attributes:
        body: HTML with its style and script inside.
        headers: Say that nothing but this document's own parts may run, and nothing may be fetched from elsewhere.
    """

    body: bytes
    headers: dict[str, str]

    @classmethod
    def load(cls) -> Page:
        """Read the parts from the package and join them. Blocks for less than a millisecond."""
        folder = files(__package__)
        style = (folder / "style.css").read_text(encoding="utf-8")
        script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
        frame = (folder / "page.html").read_text(encoding="utf-8")
        body = frame.replace("/*style*/", style).replace("/*script*/", script)
        policy = (
            f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy,
            "Cache-Control": "no-cache",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept",
        }
        return cls(body.encode(), headers)


def _hash(text: str) -> str:
    """Name an inline part for a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def prefers_html(accept: str) -> bool:
    """Say whether an `Accept` header asks for a page for people: it names `text/html`, and JSON not before it.

    `*/*`, which curl and the clients of the protocol send, does not.
    """
    weights: dict[str, float] = {}
    for part in accept[:_LONGEST_ACCEPT].lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        weights.setdefault(kind, weight)
    html = weights.get("text/html", 0.0)
    return html > 0 and html >= weights.get("application/json", 0.0)
