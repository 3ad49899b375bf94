"""A model hub with as much of its interface as an upload needs, all in memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory


class Hub:
    """``files`` holds what was committed, by repository and path; ``created`` the repositories."""

    url = constants.ENDPOINT

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict] = []
        self.tokens: set[str | None] = set()

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        self.tokens.add(request.headers.get("authorization"))
        if request.url.path.startswith("/api/models/forbidden/"):
            return httpx2.Response(403, json={"error": "You don't have the rights to write here"})
        return httpx2.Response(200, json=self._answer(request))

    def _answer(self, request: httpx2.Request) -> dict[str, Any]:
        parts = request.url.path.strip("/").split("/")  # api/models/<who>/<what>/<verb>/…
        body = request.read()
        if request.method == "GET":
            return {"id": "me/bird", "sha": "0" * 40, "siblings": []}
        if parts[:3] == ["api", "repos", "create"]:
            wanted = json.loads(body)
            self.created.append(wanted)
            return {"url": f"{self.url}/{wanted['organization']}/{wanted['name']}"}
        if parts[1:2] == ["validate-yaml"]:
            return {"errors": [], "warnings": []}
        repository, verb = "/".join(parts[2:4]), parts[4]
        if verb == "preupload":
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": file["path"]} | kind for file in json.loads(body)["files"]]}
        assert verb == "commit"
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.files.setdefault(repository, {})[entry["value"]["path"]] = content
        url = f"{self.url}/{repository}/commit/0"
        return {"success": True, "commitUrl": url, "commitOid": "0" * 40}


@contextmanager
def fake_hub() -> Iterator[Hub]:
    hub = Hub()
    transport = httpx2.MockTransport(hub.respond)
    set_client_factory(lambda: httpx2.Client(transport=transport))
    try:
        yield hub
    finally:
        set_client_factory(default_client_factory)
