"""Rendering: autoescaped templates, one stylesheet, one script, everything inside one file."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from fgray.report import wording
from fgray.storage import open_storage


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fgray.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("words", "sentence", "percent", "points", "p_value", "score", "number", "plural", "task_label"):
        environment.filters[name] = getattr(wording, name)
    environment.filters["web_address"] = web_address
    environment.filters["clip"] = clip
    environment.filters["beside"] = lambda row, view, kind: view.control(kind, row)
    return environment


def web_address(url: str | None) -> str:
    """Return the address if it is one of the web, else nothing: data must not bring ``javascript:`` links."""
    return url if url and urlsplit(url).scheme in ("http", "https") else ""


def clip(text: str, length: int = 600) -> str:
    """Return the text, cut with an ellipsis where it is longer than a card can bear."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def render(template: str, **content: Any) -> str:
    """Return a page: the template with the stylesheet and script of the package inlined.

    The content security policy allows no outside resource and no script but that one, by its hash.
    """
    folder = files("fgray.report") / "templates"
    script = (folder / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assets = {"style": Markup((folder / "page.css").read_text("utf-8")), "script": Markup(script), "script_hash": digest}
    return _environment().get_template(template).render(**assets, **content)


def write_page(page: str, uri: str) -> str:
    """Write a page to a path or URI and return its normalised URI.

    Raises:
        StorageError: it cannot be written.
    """
    folder, _, name = uri.rpartition("/")
    storage = open_storage(folder or ("/" if uri.startswith("/") else "."))
    storage.write_bytes(name, page.encode("utf-8", "replace"))
    return f"{storage.uri.rstrip('/')}/{name}"
