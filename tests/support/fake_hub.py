"""A model hub on loopback with as much of its interface as an upload needs, all in memory."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """``files`` holds what was committed, by repository and path; ``created`` the repositories."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict] = []
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:  # noqa: N802 (the name that http.server calls)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.tokens.add(self.headers.get("authorization"))
        parts = self.path.split("?")[0].strip("/").split("/")  # api/models/<who>/<what>/<verb>/…
        if parts[:3] == ["api", "repos", "create"]:
            wanted = json.loads(body)
            self.server.created.append(wanted)
            url = f"{self.server.url}/{wanted['organization']}/{wanted['name']}"
            return self._answer({"url": url})
        if parts[1:2] == ["validate-yaml"]:
            return self._answer({"errors": [], "warnings": []})
        repository, verb = "/".join(parts[2:4]), parts[4]
        if repository.startswith("forbidden/"):
            return self._answer({"error": "You don't have the rights to write here"}, 403)
        if verb == "preupload":
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"]} | kind for file in json.loads(body)["files"]]
            return self._answer({"files": files})
        assert verb == "commit"
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.server.files.setdefault(repository, {})[entry["value"]["path"]] = content
        url = f"{self.server.url}/{repository}/commit/0"
        self._answer({"success": True, "commitUrl": url, "commitOid": "0" * 40})

    def do_GET(self) -> None:  # noqa: N802
        self._answer({"id": "me/bird", "sha": "0" * 40, "siblings": []})

    def _answer(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def fake_hub() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
