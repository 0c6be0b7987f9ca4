"""A forge on loopback: the documented API of Gitea, GitHub and GitLab, with git over HTTP.

Repositories are real; ``git http-backend`` (a part of git) serves them. Requests need a token.
"""

import base64
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support.git_http import GitHandler, answer_git
from support.loopback_http import HttpService

OWNER = "lab"
USER = "curator"


@dataclass
class Forge(HttpService):
    """Accepts one token; records the requests for repositories, without their tokens."""

    folder: Path
    token: str
    clone_host: str = ""
    """Another host that the API names in clone URLs."""
    refusals: list[int] = field(default_factory=list)
    """Status codes of the next requests to the API."""
    requests: list[str] = field(default_factory=list)
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    handler_type = GitHandler

    def git_dir(self, name: str, owner: str = OWNER) -> Path:
        return self.folder / owner / f"{name}.git"

    def answer(self, handler: Any) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        path = unquote(urlsplit(handler.path).path)
        if ".git/" in path:
            self._answer_git(handler, path, body)
            return
        self.requests.append(f"{handler.command} {path}")
        given = handler.headers.get("Authorization", "") or handler.headers.get("PRIVATE-TOKEN", "")
        if given.rpartition(" ")[2] != self.token:
            _reply(handler, 401, {"message": "bad credentials"})
        elif self.refusals:
            _reply(handler, self.refusals.pop(0), {"message": "API rate limit exceeded"})
        else:
            content = json.loads(body) if body else {}
            _reply(handler, *self._api(handler.command, path, content))

    def _api(self, method: str, path: str, content: dict[str, Any]) -> tuple[int, Any]:
        parts = path.removeprefix("/api/v1").strip("/").split("/")
        match method, parts:
            case "GET", ["user"]:
                return 200, {"login": USER}
            case "POST", ["org" | "orgs", owner, "repos"]:
                return self._create(owner, content)
            case "POST", ["user", "repos"]:
                return self._create(USER, content)
            case _, ["repos", owner, name, *rest]:
                made = self.repositories.get(f"{owner}/{name}")
                if made is None:
                    return 404, {"message": "Not Found"}
                if method == "PATCH":
                    made |= content
                    if branch := content.get("default_branch"):
                        head = self.git_dir(name, owner) / "HEAD"
                        head.write_text(f"ref: refs/heads/{branch}\n")
                elif rest == ["topics"]:
                    made["topics"] = content.get("topics") or content.get("names")
                return 200, made
        return 404, {"message": "Not Found"}

    def _create(self, owner: str, content: dict[str, Any]) -> tuple[int, Any]:
        name = content["name"]
        if f"{owner}/{name}" in self.repositories:
            return 409, {"message": "The repository with the same name already exists."}
        repository = self.git_dir(name, owner)
        subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
        subprocess.run(
            ["git", "-C", str(repository), "config", "http.receivepack", "true"], check=True
        )
        base = self.clone_host or self.url
        self.repositories[f"{owner}/{name}"] = content | {
            "full_name": f"{owner}/{name}",
            "html_url": f"{self.url}/{owner}/{name}",
            "clone_url": f"{base}/{owner}/{name}.git",
            "ssh_url": f"git@127.0.0.1:{owner}/{name}.git",
        }
        return 201, self.repositories[f"{owner}/{name}"]

    def _answer_git(self, handler: Any, path: str, body: bytes) -> None:
        scheme, _, given = handler.headers.get("Authorization", "").partition(" ")
        secret = base64.b64decode(given).decode().partition(":")[2] if scheme == "Basic" else ""
        if secret != self.token:
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="forge"')
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        answer_git(handler, self.folder, path, body, USER)


def _reply(handler: Any, status: int, content: Any) -> None:
    body = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
