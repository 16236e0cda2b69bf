"""A Weights & Biases server on the loopback device: the part that wandb 0.31 uses to record, sync and read runs, and to drive the
agents of a sweep. It can be slow, return status 500, and stop and restart.

Unknown requests get an error, as a null would make the client's core panic.
"""

import base64
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from typing import Any

import yaml

ENTITY = "local"


@dataclass
class StoredRun:
    """The received data of one W&B run."""

    name: str
    project: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    internal: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: dict[int, dict[str, Any]] = field(default_factory=dict)
    console: dict[int, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    complete: bool = False
    exit_code: int | None = None
    received: int = 0
    sweep: str | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Store a row of the history. The step is its key: the W&B server replaces a row that is sent again
        (the consequences are in github.com/wandb/wandb/pull/12668).
        """
        self.history[row["_step"]] = row
        self.received += 1

    def values(self, metric: str) -> list[float]:
        return [entry[metric] for _, entry in sorted(self.history.items()) if metric in entry]

    def table(self, key: str) -> dict[str, Any]:
        """Return a table that was logged under a key, as its columns and data."""
        return json.loads(self.files[self.summary[key]["path"]])


@dataclass
class StoredSweep:
    """A grid sweep: the remaining points, and the number of started ones."""

    name: str
    config: str
    queue: list[dict[str, Any]]
    given: int = 0

    @classmethod
    def of(cls, name: str, config: str) -> "StoredSweep":
        parameters = yaml.safe_load(config)["parameters"]
        choices = [entry["values"] if "values" in entry else [entry["value"]] for entry in parameters.values()]
        return cls(name, config, [dict(zip(parameters, values, strict=True)) for values in product(*choices)])


class WandbServer:
    """The server; received data are in `runs`, `artifacts` and `sweeps`.

    With `broken` every response has status 500, with `fails` those of the requests that it selects by number and path; `delay`
    is the time before a response in seconds. `die` closes the port, `revive` opens it again without loss of data.
    """

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.sweeps: dict[str, StoredSweep] = {}
        self.views: list[dict[str, Any]] = []
        self.agents: dict[str, tuple[str, str | None]] = {}
        self.unknown: list[str] = []
        self.requests = 0
        self.broken = False
        self.delay = 0.0
        self.fails: Callable[[int, str], bool] = lambda number, path: False
        self.lock = threading.Lock()
        self.http: ThreadingHTTPServer | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.revive()

    # ---- the wire --------------------------------------------------------------------------------------------------

    def revive(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                time.sleep(server.delay)
                if server.http is None:  # the server was stopped during the request
                    self.close_connection = True
                    return
                with server.lock:
                    server.requests += 1
                    failed = server.broken or server.fails(server.requests, self.path)
                    result = {} if failed else server.handle(self.command, self.path, body)
                text = result if isinstance(result, bytes) else json.dumps(result).encode()
                self.send_response(500 if failed else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = respond

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:  # the client drops connections when it ends
                pass

        self.http = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def die(self) -> None:
        if self.http is not None:
            http, self.http = self.http, None
            http.shutdown()
            http.server_close()

    def handle(self, method: str, path: str, body: bytes) -> Any:
        if path.startswith("/graphql"):
            request = json.loads(body)
            data = self.graphql(request["query"], request.get("variables") or {})
            return {"errors": [{"message": "unknown to the test server"}]} if data is None else {"data": data}
        if match := re.match(r"/files/[^/]+/([^/]+)/([^/]+)/file_stream", path):
            self.stream(self.run(match[2]), json.loads(body))
            return {"exitcode": None, "limits": {}}
        if match := re.match(r"/storage/run/([^/]+)/(.+)", path):
            if method == "GET":
                return self.run(match[1]).files[match[2]]
            self.run(match[1]).files[match[2]] = body
        elif match := re.match(r"/storage/artifact/([^/]+)/(.+)", path):
            self.artifacts[match[1]]["files"][match[2]] = body
        return {}

    def run(self, name: str) -> StoredRun:
        return self.runs.setdefault(name, StoredRun(name))

    def stream(self, run: StoredRun, sent: dict[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            for offset, line in enumerate(part["content"], start=part["offset"]):
                if name == "wandb-history.jsonl":
                    run.add(json.loads(line))
                elif name == "wandb-events.jsonl":
                    run.events[offset] = json.loads(line)
                elif name == "output.log":
                    run.console[offset] = line
                elif name == "wandb-summary.json":
                    run.summary = json.loads(line)
        if sent.get("complete"):
            run.complete, run.exit_code = True, sent.get("exitcode")

    # ---- GraphQL ---------------------------------------------------------------------------------------------------

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        result = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = result[1] if result else "anonymous"
        handlers = self._operations()
        names = [operation] if operation in handlers else []
        names += [name for name in handlers if name[0].islower() and name in query]
        if names:
            return handlers[names[0]](variables.get("input", variables))
        self.unknown.append(f"{operation} {variables}\n{query}")
        return None

    def _operations(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]]:
        """Return the handlers by the name of an operation, which starts with a capital, or by a field of the query."""
        return {
            "upsertBucket": self._upsert,
            "createRunFiles": self._run_files,
            "createArtifactManifest": lambda v: self._manifest("create", v["artifactID"], v["name"]),
            "updateArtifactManifest": lambda v: self._manifest("update", v["artifactManifestID"], "manifest.json"),
            "createArtifactFiles": self._artifact_files,
            "commitArtifact": self._commit_artifact,
            "createArtifact": self._create_artifact,
            "upsertSweep": self._upsert_sweep,
            "createAgent": self._create_agent,
            "agentHeartbeat": self._heartbeat,
            "upsertView": self._upsert_view,
            "RunResumeStatus": lambda v: {"model": self._project(v) | {"bucket": self._resume_status(v["name"])}},
            "Runs": self._list,
            "Run": lambda v: self._one(v, self._node(self.runs[v["name"]])) if v["name"] in self.runs else None,
            "ProjectInternalId": lambda v: {"project": {"id": "p", "internalId": "1"}},
            "RunFiles": lambda v: self._one(v, {"fileCount": 1, "files": self._files(v)}),
            "GetProjects": self._projects,
            "RunHistoryKeys": lambda v: self._one(v, {"historyKeys": self._node(self.runs[v["name"]])["historyKeys"]}),
            "OrganizationCoreWeaveOrganizationID": lambda v: {
                "entity": {"organization": {"coreWeaveOrganizationId": None}}
            },
            "RunParquetHistory": lambda v: self._one(v, {"parquetHistory": {"parquetUrls": [], "liveData": []}}),
            "RunFullHistory": lambda v: self._one(v, {"history": self._lines(v)}),
            "HistoryPage": lambda v: self._one(v, {"history": self._lines(v)}),
            "SweepWithRuns": self._sweep,
            "GetSweep": self._sweep,
            "serverInfo": self._viewer,
            "viewer": self._viewer,
        }

    def _viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        user = {"id": "VXNlcjox", "entity": ENTITY, "username": "local", "name": "local", "email": "l@example.org"}
        more = {"admin": False, "flags": "{}", "teams": {"edges": []}, "accountType": ""}
        version = {"outOfDate": False, "latestVersionString": "0.99.0", "versionOnThisInstanceString": "0.99.0"}
        info = {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": version, "features": []}
        return {"viewer": user | more, "serverInfo": info, "QueryType": {"fields": []}}

    def _project(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": ENTITY}}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or self._name_of(variables["id"])
        run = self.run(name)
        inserted = not run.info
        run.info |= {key: value for key, value in variables.items() if value is not None}
        run.project = variables.get("project") or run.project
        run.sweep = variables.get("sweep") or run.sweep
        if variables.get("config"):
            sent = {key: entry["value"] for key, entry in json.loads(variables["config"]).items()}
            run.internal = sent.pop("_wandb", run.internal)
            run.config = sent
        bucket = {
            "id": base64.b64encode(f"Run:v1:{name}:{run.project}:{ENTITY}".encode()).decode(),
            "name": name,
            "displayName": run.info.get("displayName") or name,
            "description": None,
            "sweepName": run.sweep,
            "historyLineCount": len(run.history),
            "config": "{}",
            "project": self._project(variables),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    @staticmethod
    def _name_of(id: str) -> str:
        return base64.b64decode(id).decode().split(":")[2]

    def _resume_status(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None or not run.info:
            return None
        last = [json.dumps(run.history[max(run.history)])] if run.history else []
        return {
            "id": "x",
            "name": name,
            "displayName": run.info.get("displayName") or name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": len(run.console),
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.events),
            "historyTail": json.dumps(last),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": run.info.get("tags") or [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("run") or variables.get("name")
        where = f"{self.url}/storage/run/{name}"
        files = [{"name": file, "uploadUrl": f"{where}/{file}"} for file in variables.get("files") or []]
        return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": files}}

    # ---- artifacts -------------------------------------------------------------------------------------------------

    def _create_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        id = f"artifact{len(self.artifacts)}"
        self.artifacts[id] = variables | {"committed": False, "files": {}}
        return {
            "createArtifact": {
                "artifact": {
                    "id": id,
                    "state": "PENDING",
                    "artifactSequence": {"id": f"sequence-{id}", "latestArtifact": None},
                }
            }
        }

    def _manifest(self, verb: str, id: str, name: str) -> dict[str, Any]:
        artifact = id.removeprefix("manifest-")
        url = f"{self.url}/storage/artifact/{artifact}/{name}"
        manifest = {"id": f"manifest-{artifact}", "file": {"id": "f", "uploadUrl": url, "uploadHeaders": []}}
        return {f"{verb}ArtifactManifest": {"artifactManifest": manifest}}

    def _artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in variables["artifactFiles"]:
            id, name = file["artifactID"], file["name"]
            edges.append(
                {
                    "node": {
                        "storagePath": name,
                        "uploadUrl": f"{self.url}/storage/artifact/{id}/{name}",
                        "uploadHeaders": [],
                        "uploadMultipartUrls": None,
                        "artifact": {"id": id},
                    }
                }
            )
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[variables["artifactID"]]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "d"}}}

    # ---- reading back ----------------------------------------------------------------------------------------------

    def _node(self, run: StoredRun) -> dict[str, Any]:
        state = "running" if not run.complete else "finished" if run.exit_code == 0 else "failed"
        config = run.config | {"_wandb": run.internal}
        return {
            "id": base64.b64encode(f"Run:v1:{run.name}:{run.project}:{ENTITY}".encode()).decode(),
            "projectId": "1",
            "tags": run.info.get("tags") or [],
            "name": run.name,
            "displayName": run.info.get("displayName") or run.name,
            "sweepName": run.sweep,
            "state": state,
            "config": json.dumps({key: {"value": value} for key, value in config.items()}),
            "group": run.info.get("groupName"),
            "jobType": run.info.get("jobType"),
            "commit": None,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z",
            "description": None,
            "notes": run.info.get("notes"),
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "user": {"name": "local", "username": "local"},
            "historyKeys": {"lastStep": max((entry["_step"] for entry in run.history.values()), default=-1)},
        }

    def _list(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Return one run per page, to test paging."""
        runs = [run for run in self.runs.values() if run.project == variables["project"]]
        if not runs:
            return {"project": None}
        start = int(variables.get("cursor") or 0)
        edges = [
            {"node": self._node(run), "cursor": str(i + 1)}
            for i, run in enumerate(runs[start : start + 1], start=start)
        ]
        more = {"endCursor": str(start + 1), "hasNextPage": start + 1 < len(runs)}
        return {
            "project": {
                "internalId": "1",
                "runCount": len(runs),
                "readOnly": False,
                "runs": {"edges": edges, "pageInfo": more},
            }
        }

    def _one(self, variables: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": result}}

    def _files(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        edges = []
        for file in variables["fileNames"]:
            if (body := self.runs[name].files.get(file)) is not None:
                url = f"{self.url}/storage/run/{name}/{file}"
                facts = {"id": file, "name": file, "url": url, "directUrl": url, "sizeBytes": str(len(body)), "md5": ""}
                node = facts | {"mimetype": "", "updatedAt": "2026-01-01T00:00:00"}
                edges.append({"node": node, "cursor": file})
        return {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}

    def _lines(self, variables: dict[str, Any]) -> list[str]:
        run = self.runs[variables.get("run") or variables["name"]]
        first, end = variables.get("minStep") or 0, variables.get("maxStep") or 10**9
        rows = [entry for _, entry in sorted(run.history.items())]
        return [json.dumps(row) for row in rows if first <= row["_step"] < end]

    # ---- sweeps and their agents -----------------------------------------------------------------------------------

    def _upsert_sweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = StoredSweep.of(name, variables["config"])
        project = {"id": "p", "name": variables.get("projectName"), "entity": {"id": "e", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def _sweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("sweep") or variables.get("name") or variables.get("sweepName") or ""
        facts = {"id": "S", "name": name, "method": "grid", "state": "RUNNING", "config": self.sweeps[name].config}
        empty = ("description", "heartbeatAt", "updatedAt", "controller", "scheduler", "displayName", "priorRuns")
        more = {"createdAt": "2026-01-01T00:00:00", "earlyStopJobRunning": False, "runs": {"edges": []}}
        return {"project": {"sweep": facts | dict.fromkeys(empty) | more}}

    def _create_agent(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = f"agent{len(self.agents)}"
        self.agents[name] = (variables["sweep"], None)
        return {"createAgent": {"agent": {"id": name}}}

    def _heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        agent = variables["id"]
        working = json.loads(variables.get("runState") or "{}")
        return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(self._commands(agent, working))}}

    def _commands(self, agent: str, working: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the next run for an agent once its last run has ended; after the last run, end the agent."""
        name, last = self.agents[agent]
        sweep = self.sweeps[name]
        if last is not None and (last in working or not self.run(last).complete):
            return []
        if not sweep.queue:
            return [{"type": "exit"}]
        values = sweep.queue.pop(0)
        sweep.given += 1
        run = f"{name}run{sweep.given}"
        self.agents[agent] = (name, run)
        arguments = {key: {"value": value} for key, value in values.items()}
        return [
            {"type": "run", "run_id": run, "args": arguments, "program": yaml.safe_load(sweep.config).get("program")}
        ]

    def _projects(self, variables: dict[str, Any]) -> dict[str, Any]:
        names = sorted({run.project for run in self.runs.values()})
        facts = {
            "id": "p",
            "entityName": ENTITY,
            "createdAt": "2026-01-01T00:00:00",
            "isBenchmark": False,
            "user": None,
        }
        edges = [{"node": facts | {"name": name}, "cursor": name} for name in names]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def _upsert_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.views.append(variables)
        facts = {key: variables.get(key) for key in ("type", "name", "displayName", "description", "spec")}
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = facts | {"id": "view", "project": project, "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": True}}
