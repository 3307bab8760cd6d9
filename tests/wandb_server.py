"""A stand-in for W&B's server, on this machine: what the real client sends is kept, and a sweep hands out its points.

It knows of W&B's GraphQL what client 0.31 asks on the way of a run, of an artifact and of a sweep agent.
"""

import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

KEY = "0123456789" * 4
ME = {"id": "me", "entity": "us", "username": "me", "email": "me@example.org", "flags": "{}", "teams": {"edges": []}}


@dataclass
class Run:
    """What W&B would show of a run.

    Attributes:
        fields: group, job type, tags, name and project, as the run told them.
        config: without W&B's own entry.
        history: rows, in their order.
        files: name and content.
        exit_code: null while it runs.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    def values(self, name: str) -> list[Any]:
        """The history of one name."""
        return [row[name] for row in self.history if name in row]


@dataclass
class Artifact:
    """An artifact: of which run, and its files as name and content."""

    name: str
    type: str
    run: str
    aliases: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class WandbServer:
    """The server, on a port of its own.

    Attributes:
        runs: by id.
        artifacts: in the order in which they came.
        sweeps: the configuration of each, by id.
        points: what a sweep hands out, one to each agent that asks; then agents are told to go.
        stop_when_logged: the name of a run that agents are told to stop when it has logged a score.
        patience: seconds after which every answer comes.
        asked: the names of all GraphQL operations, in their order.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.points: list[dict[str, Any]] = []
        self.given: dict[str, dict[str, Any]] = {}
        self.stop_when_logged: str | None = None
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.patience = 0.0
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"wandb": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Be gone: whoever connects from now on is refused."""
        self.server.shutdown()
        self.server.server_close()

    def environment(self) -> dict[str, str]:
        """What the client needs to come here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def run(self, name: str) -> Run:
        """The one run that is shown under a name."""
        (run,) = [run for run in self.runs.values() if run.fields.get("displayName") == name]
        return run

    def artifact(self, type: str, run: str | None = None) -> Artifact:
        """The latest artifact of a type, of a run's id if one is given."""
        return [found for found in self.artifacts if found.type == type and run in (None, found.run)][-1]

    # GraphQL: one method an operation, named as the client names it

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The `data` of an operation's answer; null for one that is not known."""
        with self.lock:
            self.asked.append(operation)
            method = getattr(self, f"on_{operation}", None)
            answer: dict[str, Any] | None = method(asked) if method else None
            return answer

    def on_Viewer(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": ME}

    def on_ServerFeaturesQuery(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A run begins, or says more of itself."""
        name = asked["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run())
        run.fields |= {key: value for key, value in asked.items() if value is not None and key != "config"}
        if asked.get("config"):
            config = {key: entry["value"] for key, entry in json.loads(asked["config"]).items()}
            run.metrics = config.pop("_wandb", {}).get("m", run.metrics)
            run.config = config
        bucket = {
            "id": name,
            "name": name,
            "displayName": run.fields.get("displayName") or name,
            "description": None,
            "config": None,
            "sweepName": run.fields.get("sweep"),
            "historyLineCount": len(run.history),
            "project": {
                "id": "project",
                "name": asked.get("project") or "uncategorized",
                "entity": {"id": "us", "name": "us"},
            },
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"id": "project", "name": asked.get("project"), "entity": {"id": "us", "name": "us"}}}

    def on_CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/run/{asked['run']}/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def on_CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        asked = asked["input"]
        aliases = [alias["alias"] for alias in asked["aliases"]]
        name = asked["artifactCollectionName"]
        self.artifacts.append(Artifact(name, asked["artifactTypeName"], asked["runName"], aliases))
        identity = str(len(self.artifacts) - 1)
        artifact = {"id": identity, "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def on_CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "file", "uploadUrl": f"{self.url}/manifest/{asked['artifactID']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": asked["artifactID"], "file": file}}}

    def on_UpdateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:
        identity = asked["artifactManifestID"]
        file = {"id": "file", "uploadUrl": f"{self.url}/manifest/{identity}", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": identity, "file": file}}}

    def on_CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in asked.get("input", asked)["artifactFiles"]:
            path = f"{spec['artifactID']}/{spec['name']}"
            node = {
                "storagePath": path,
                "uploadUrl": f"{self.url}/artifact/{path}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": spec["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_CommitArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[int(asked["artifactID"])].committed = True
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "digest"}}}

    def on_UpsertSweep(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = yaml.safe_load(asked["config"]) | {"project": asked["projectName"]}
        project = {"id": "project", "name": asked["projectName"], "entity": {"id": "us", "name": "us"}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, asked: dict[str, Any]) -> dict[str, Any]:
        config = self.sweeps.get(asked["sweep"])
        if config is None:
            return {"project": {"sweep": None}}
        sweep = {"id": asked["sweep"], "name": asked["sweep"], "state": "RUNNING", "runs": {"edges": []}}
        return {"project": {"sweep": sweep | {"config": yaml.safe_dump(config, sort_keys=False)}}}

    def on_CreateAgent(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": f"{asked['sweep']}:{self.asked.count('CreateAgent')}"}}}

    def on_Heartbeat(self, asked: dict[str, Any]) -> dict[str, Any]:
        """An agent that has nothing to run gets the next point; one whose run shall stop is told so."""
        running = json.loads(asked["runState"])
        commands: list[dict[str, Any]] = [{"type": "stop", "run_id": name} for name in running if self.stops(name)]
        if not running and self.points:
            name = f"run{len(self.given)}"
            self.given[name] = self.points.pop(0)
            program = self.sweeps[asked["id"].partition(":")[0]].get("program")
            args = {key: {"value": value} for key, value in self.given[name].items()}
            commands.append({"type": "run", "run_id": name, "program": program, "args": args})
        elif not running:
            commands.append({"type": "exit"})
        return {"agentHeartbeat": {"agent": {"id": asked["id"]}, "commands": json.dumps(commands)}}

    # what is no GraphQL

    def stream(self, name: str, sent: dict[str, Any]) -> dict[str, Any]:
        """What a run sends as it goes."""
        with self.lock:
            run = self.runs[name]
            for file, lines in (sent.get("files") or {}).items():
                rows = [json.loads(line) for line in lines["content"] if line] if "history" in file else []
                run.history += rows
                if "summary" in file:
                    run.summary = json.loads(lines["content"][-1])
            if sent.get("complete"):
                run.exit_code = sent.get("exitcode")
            return {"stopped": True} if self.stops(name) else {}

    def stops(self, name: str) -> bool:
        """Whether a run, by its id, shall end."""
        run = self.runs.get(name, Run())
        return run.fields.get("displayName") == self.stop_when_logged and bool(run.values("val/bleu4"))

    def put(self, path: str, content: bytes) -> None:
        """A file of a run or of an artifact."""
        kind, name, *rest = path.strip("/").split("/", 2)
        with self.lock:
            if kind == "run":
                self.runs[name].files[rest[0]] = content
            elif kind == "artifact":
                self.artifacts[int(name)].files[rest[0]] = content


class Handler(BaseHTTPRequestHandler):
    """HTTP around a `WandbServer`."""

    wandb: WandbServer
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        """Until the client is gone."""
        with suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.wandb.patience)
        sent = json.loads(body) if self.path == "/graphql" or self.path.startswith("/files/") else {}
        if self.path.startswith("/files/"):
            self.reply(self.wandb.stream(self.path.split("/")[4], sent))
            return
        if self.path != "/graphql":  # what wandb tells of itself
            self.reply({})
            return
        operation = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
        data = self.wandb.answer(operation[1] if operation else "", sent.get("variables") or {})
        self.reply({"data": data} if data is not None else {"errors": [{"message": "not known here"}], "data": None})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.wandb.patience)
        self.wandb.put(self.path, content)
        self.reply({})

    def reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""
