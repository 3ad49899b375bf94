"""The service: a request of any dialect, read, embedded beside others', and answered."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response

from unime.config.serving import ServeConfig
from unime.embedder import Embedder
from unime.errors import DataError
from unime.inputs.given import IN_MEMORY
from unime.inputs.images import pixels_of
from unime.serving.access import Access
from unime.serving.batching import Batcher, usual_tokens
from unime.serving.bodies import MIB, Held, Hold, read_body
from unime.serving.dialects.cohere import Cohere
from unime.serving.dialects.openai import OpenAI
from unime.serving.dialects.voyage import Voyage
from unime.serving.dialects.weaviate import Weaviate
from unime.serving.fetching import fetch
from unime.serving.metrics import Metrics
from unime.serving.requests import Address, Asked, Dialect, Embedded, Given, RequestError, parse
from unime.serving.vectors import check

T = TypeVar("T")
DIALECTS: dict[str, Dialect] = {
    "/v1/embeddings": OpenAI(),
    "/v2/embed": Cohere(),
    "/v1/multimodalembeddings": Voyage(),
    "/vectorize": Weaviate(),
}
READERS, FETCHERS = 4, 8  # threads
JSON = "application/json"


class Service:
    """Embeds what requests of any dialect ask for.

    Args:
        names: of the model, the first of which answers say.
        dialects: by the paths that they are asked at.
        access: who may ask; None: as the settings say.

    Raises:
        ConfigError: others could reach it without a key.
    """

    def __init__(
        self,
        embedder: Embedder,
        config: ServeConfig,
        names: Sequence[str],
        dialects: Mapping[str, Dialect] = DIALECTS,
        access: Access | None = None,
    ) -> None:
        self.embedder, self.config, self.names, self.dialects = embedder, config, names, dialects
        self.access, self.metrics = access or Access(config), Metrics()
        self.held = Held(config.held_mib * MIB)
        self.batcher = Batcher(
            embedder,
            batch_tokens=config.batch_tokens or usual_tokens(embedder),
            queue_items=config.queue_items,
            wait=config.batch_wait_ms / 1000,
            workers=config.workers,
            seen=self.metrics.batch,
        )
        self.metrics.queue.set_function(lambda: self.batcher.unanswered)
        self.metrics.held.set_function(lambda: self.held.now)
        self._readers, self._fetchers = map(ThreadPoolExecutor, (READERS, FETCHERS))

    def close(self) -> None:
        """Answer what was accepted, and end."""
        self.batcher.close()
        for pool in (self._readers, self._fetchers):
            pool.shutdown(cancel_futures=True)

    def check_name(self, name: str) -> None:
        """Refuse what is no name of the model.

        Raises:
            RequestError: it is none.
        """
        if name not in self.names:
            known = ", ".join(self.names)
            raise RequestError(f"model: got {name[:60]!r}, expected one of {known}", 404)

    async def respond(self, request: Request) -> Response:
        """The answer to a request in the dialect of its address, or why there is none."""
        route, started = request.url.path, time.monotonic()
        dialect = self.dialects[route]
        try:
            with Hold(self.held) as hold:
                response = await self._answered(request, dialect, hold)
        except RequestError as error:
            response = refusal(dialect, error)
        except Exception:
            traceback.print_exc()
            response = refusal(dialect, RequestError("a mistake of the service; its log says", 500))
        self.metrics.requests.labels(route, response.status_code).inc()
        self.metrics.seconds.labels(route).observe(time.monotonic() - started)
        return response

    async def _answered(self, request: Request, dialect: Dialect, hold: Hold) -> Response:
        most, seconds = self.config.max_body_mib * MIB, self.config.body_seconds
        body = await read_body(request, self.access.check, hold, most, seconds)
        asked = await self._in(self._readers, lambda: self._read(dialect, body))
        await self._fetch(asked.items, hold, most - len(body))
        items, pictures = await self._in(self._readers, lambda: self._made(asked.items))
        found = await self._embedded(request, asked.items, self.batcher.submit(items, pictures))
        for given, one in zip(asked.items, found, strict=True):
            if one.is_cut and not asked.may_cut:
                limit = self.embedder.encoders[0].processor.inputs.max_text_tokens
                raise RequestError(f"{given.place}: longer than {limit} tokens, and not to be cut")
        cut = sum(one.is_cut for one in found)
        self.metrics.cut.inc(cut)
        content = await self._in(
            self._readers, partial(_written, dialect, asked, found, self.names[0])
        )
        headers = {"X-Unime-Cut": str(cut)} if cut else None
        return Response(content, media_type=JSON, headers=headers)

    async def _in(self, pool: ThreadPoolExecutor, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, act)

    def _read(self, dialect: Dialect, body: bytes) -> Asked:
        asked = dialect.read(parse(body))
        if len(asked.items) > self.config.most_items:
            most = f"of at most {self.config.most_items}"
            raise RequestError(f"{len(asked.items)} items, {most}", 413)
        if asked.model is not None:
            self.check_name(asked.model)
        check(asked, self.embedder.dimension)
        return asked

    async def _fetch(self, items: Sequence[Given], hold: Hold, room: int) -> None:
        """Put the contents of pictures into the place of their addresses."""
        hosts, seconds = self.config.allowed_hosts, self.config.fetch_seconds
        for item in items:
            for number, image in enumerate(item.images):
                if isinstance(image, Address):
                    get = partial(fetch, image.url, hosts, room, seconds, item.place)
                    content = await self._in(self._fetchers, get)
                    hold.add(len(content))
                    room -= len(content)
                    item.images[number] = content

    def _made(self, given: Sequence[Given]) -> Any:
        """Items with their pictures, once these are not too large."""
        for item in given:
            pixels = 0
            for image in item.images:
                try:
                    pixels += pixels_of(image) if isinstance(image, bytes) else 0
                except Exception as error:  # Pillow raises nearly anything of damaged files
                    reason = f"{item.place}: not a readable picture: {str(error)[:200]}"
                    raise RequestError(_without_object(reason)) from None
            if pixels > (most := self.config.max_pixels):
                reason = f"{item.place}: pictures of {pixels} pixels or more, of at most {most}"
                raise RequestError(reason, 413)
        return self.embedder.as_items([item.as_input() for item in given])

    async def _embedded(
        self, request: Request, given: Sequence[Given], answers: Sequence[Future[Embedded]]
    ) -> list[Embedded]:
        """What each item became; nothing more is done for a client that is gone."""
        waited = [asyncio.wrap_future(answer) for answer in answers]
        everything = asyncio.gather(*waited, return_exceptions=True)
        gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
        either: set[asyncio.Future[Any]] = {everything, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                raise RequestError("the client is gone", 499)
            found = everything.result()
        finally:
            gone.cancel()
            for answer in answers:  # and so `everything` ends, which nobody may wait for any more
                answer.cancel()
        for item, one in zip(given, found, strict=True):
            if isinstance(one, DataError):
                only = f"{IN_MEMORY}1: " if len(item.images) == 1 else ""
                reason = one.plain.removeprefix(only)
                raise RequestError(f"{item.place}: {reason}")
            if isinstance(one, BaseException):
                raise one
        return [one for one in found if isinstance(one, Embedded)]


def _written(dialect: Dialect, asked: Asked, found: Sequence[Embedded], model: str) -> bytes:
    return json.dumps(dialect.answer(asked, found, model)).encode()


def _without_object(reason: str) -> str:
    """Pillow names what it was handed by its address in memory."""
    return reason.partition(" <")[0]


def refusal(dialect: Dialect, error: RequestError) -> Response:
    content = json.dumps(dialect.refusal(error.status, str(error)))
    return Response(content, error.status, error.headers, JSON)


def make_app(service: Service) -> FastAPI:
    """All routes of a service, which ends with the application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    for path in service.dialects:
        app.add_route(path, service.respond, methods=["POST"])
    name, dimensions = service.names[0], service.embedder.dimension
    about = {"status": "ok", "model": name, "dimensions": dimensions}
    listed = [
        {"id": one, "object": "model", "created": 0, "owned_by": "unime"} for one in service.names
    ]
    models = {"object": "list", "data": listed}

    def guarded(
        act: Callable[[Request], Response], is_open: bool = False
    ) -> Callable[[Request], Response]:
        def respond(request: Request) -> Response:
            try:
                (service.access.check_page if is_open else service.access.check)(request)
                return act(request)
            except RequestError as error:
                return refusal(DIALECTS["/v1/embeddings"], error)

        return respond

    def told(value: Any) -> Callable[[Request], Response]:
        return lambda _: Response(json.dumps(value), media_type=JSON)

    def model(request: Request) -> Response:
        service.check_name(name := request.path_params["name"])
        (one,) = (one for one in listed if one["id"] == name)
        return told(one)(request)

    for path in ("/.well-known/ready", "/.well-known/live"):
        app.add_route(path, guarded(lambda _: Response(status_code=204), is_open=True))
    app.add_route("/health", guarded(told(about), is_open=True))
    app.add_route("/meta", guarded(told(about)))
    app.add_route("/v1/models", guarded(told(models)))
    app.add_route("/v1/models/{name:path}", guarded(model))
    plain = "text/plain; version=0.0.4"
    app.add_route("/metrics", guarded(lambda _: Response(service.metrics.text(), media_type=plain)))
    return app
