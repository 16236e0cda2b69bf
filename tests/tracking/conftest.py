"""A Weights & Biases server on the loopback device: as much as wandb 0.31 needs to record a run online."""

import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class RecordedRun:
    """What arrived of one W&B run."""

    info: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    exit_code: int | None = None

    def values(self, metric: str) -> list[float]:
        return [entry[metric] for _, entry in sorted(self.history.items()) if metric in entry]


class WandbServer:
    """Answers the GraphQL operations of a run and takes its file stream; `broken` makes every answer a 500."""

    def __init__(self) -> None:
        self.runs: dict[str, RecordedRun] = {}
        self.requests = 0
        self.broken = False
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with server.lock:
                    server.requests += 1
                    found = {} if server.broken else server.handle(self.path, body)
                text = json.dumps(found).encode()
                self.send_response(500 if server.broken else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = answer

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:  # the client drops connections when it ends
                pass

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def handle(self, path: str, body: bytes) -> dict[str, Any]:
        if path.startswith("/graphql"):
            request = json.loads(body)
            data = self.graphql(request["query"], request.get("variables") or {})
            return {"errors": [{"message": "unknown to the test server"}]} if data is None else {"data": data}
        if match := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self.stream(self.runs[match[1]], json.loads(body))
            return {"exitcode": None, "limits": {}}
        return {}

    def stream(self, run: RecordedRun, sent: dict[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            for offset, line in enumerate(part["content"], start=part["offset"]):
                if name == "wandb-history.jsonl":
                    run.history[offset] = json.loads(line)
                elif name == "wandb-summary.json":
                    run.summary = json.loads(line)
        if sent.get("complete"):
            run.complete, run.exit_code = True, sent.get("exitcode")

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        if "upsertBucket" in query:
            return self.upsert(variables)
        if "createRunFiles" in query:
            name = variables.get("run") or variables.get("name")
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in variables.get("files") or []]
            return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": files}}
        if "viewer" in query or "serverInfo" in query:
            user = {"id": "VXNlcjox", "entity": "local", "username": "local", "name": "local", "email": "l@example.org"}
            more = {"admin": False, "flags": "{}", "teams": {"edges": []}, "accountType": ""}
            version = {"outOfDate": False, "latestVersionString": "0.99.0", "versionOnThisInstanceString": "0.99.0"}
            info = {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": version, "features": []}
            return {"viewer": user | more, "serverInfo": info, "QueryType": {"fields": []}}
        if "RunResumeStatus" in query:
            found = self.resume_status(variables["name"])
            return {
                "model": {"id": "m", "name": variables.get("project"), "entity": {"name": "local"}, "bucket": found}
            }
        return None

    def upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or variables["id"]
        run = self.runs.setdefault(name, RecordedRun())
        inserted = not run.info
        run.info |= {key: value for key, value in variables.items() if value is not None}
        if variables.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(variables["config"]).items()}
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "local"}}
        bucket = {
            "id": base64.b64encode(f"Run:v1:{name}:p:local".encode()).decode(),
            "name": name,
            "displayName": variables.get("displayName") or name,
            "description": None,
            "sweepName": None,
            "historyLineCount": 0,
            "config": "{}",
            "project": project,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def resume_status(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        last = [json.dumps(run.history[max(run.history)])] if run.history else []
        return {
            "id": "x",
            "name": name,
            "displayName": name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(last),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()
    yield server
    server.stop()
