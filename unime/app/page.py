"""The page and what it shows, beside the service's routes: its files, what it is, and pictures of
the index by their ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from threading import BoundedSemaphore
from typing import Any

from fastapi import FastAPI, Request, Response

from unime.app.questions import Classify, Compare, Search, found_in
from unime.config.serving import ServeConfig
from unime.errors import RunError
from unime.search.index import Index
from unime.search.terminal import thumbnail
from unime.serving.access import Access
from unime.serving.requests import Dialect, RequestError
from unime.serving.service import JSON, Service, make_app, refusal

SIDES = {"small": 360, "large": 1600}  # pixels
DRAWN_AT_ONCE = 2  # pictures, each of which may be of 50 million pixels
SCRIPTS = ("app.js", "pictures.js", "search.js", "classify.js", "compare.js")  # in this order
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass
class About:
    """What the page says of itself.

    Attributes:
        title: what is searched.
        model: what embeds.
        remarks: what one should know of both.
        instruction: that searches begin with.
        examples: texts to search for.
        labels: to begin the classifier with.
    """

    title: str
    model: str
    remarks: list[str] = field(default_factory=list)
    instruction: str = ""
    examples: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def make_service(index: Index, config: ServeConfig, name: str) -> Service:
    """A service that answers the page's questions.

    Raises:
        ConfigError: others could reach it without a key.
    """
    questions: dict[str, Dialect] = {
        "/search": Search(index, config.max_body_mib),
        "/classify": Classify(index),
        "/compare": Compare(index),
    }
    return Service(index.embedder, config, [name], questions, Access(config, of_page=True))


def make_page(service: Service, index: Index, about: About, style: str, elements: str) -> FastAPI:
    """All routes of a service, and the page's.

    Args:
        style: of the report's page, which this one looks like.
        elements: its script that makes elements.
    """
    app = make_app(service)
    app.add_middleware(_Guarded)
    static = files("unime.app") / "static"
    parts = {name: (static / name).read_text("utf-8") for name in (*SCRIPTS, "app.css", "app.html")}
    script = "\n".join(('"use strict";', elements, *(parts[name] for name in SCRIPTS), "start();"))
    texts = {
        "/": (parts["app.html"], "text/html"),
        "/style.css": (style + parts["app.css"], "text/css"),
        "/script.js": (script, "text/javascript"),
        "/favicon.ico": ("", "image/x-icon"),  # asked for beside a picture in a tab of its own
    }

    drawn = BoundedSemaphore(DRAWN_AT_ONCE)

    def told(request: Request) -> Response:
        content, kind = texts[request.url.path]
        return _answer(content, f"{kind}; charset=utf-8")

    def say(request: Request) -> Response:
        facts = {"items": index.store.count(), "dimensions": index.embedder.dimension}
        return _answer(json.dumps(asdict(about) | facts), JSON)

    def draw(request: Request) -> Response:
        side = SIDES.get(request.path_params["side"])
        hit = found_in(index, request.path_params["point"])
        with drawn:
            content = thumbnail(hit.path, hit.kind, hit.place, side) if side else None
        if content is None:
            raise RequestError("there is no picture of it, or it cannot be read any more", 404)
        return Response(content, media_type="image/png", headers={"Cache-Control": "max-age=60"})

    def guarded(act: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def respond(request: Request) -> Response:
            try:
                service.access.check(request)
                return act(request)
            except RequestError as error:
                return refusal(service.dialects["/search"], error)
            except RunError as error:  # a server that has the vectors
                return refusal(service.dialects["/search"], RequestError(str(error), 503))

        return respond

    for path in texts:
        app.add_route(path, guarded(told))
    app.add_route("/about", guarded(say))
    app.add_route("/pictures/{point}/{side}", guarded(draw))
    return app


def _answer(content: str, kind: str) -> Response:
    return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})


class _Guarded:
    """Sends what keeps a browser from anything but this page with each answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        await self._app(scope, receive, sent)
