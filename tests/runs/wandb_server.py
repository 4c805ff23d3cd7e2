"""A stand-in for the Weights & Biases server: what wandb-core needs in order to make, resume and finish runs.

It keeps what it is sent: per run its history by line number, its summary, its configuration and its group.
"""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "p", "name": "meigm_jax", "entity": {"id": "e", "name": "me"}}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """wandb-core closes connections as it likes."""

    def history(self, run):
        """The rows of a run in the order of their lines."""
        return [row for _, row in sorted(self.runs[run]["history"].items())]

    def answer(self, query, of):
        run = self.runs.get(of.get("name"))
        upload = {"uploadUrl": f"{self.url}/upload", "uploadHeaders": []}
        if query == "RunResumeStatus":
            return {"model": PROJECT | {"bucket": run and self.bucket(of["name"])}}
        if query == "UpsertBucket":
            run = self.runs.setdefault(of["name"], {"history": {}, "summary": {}, "config": {}, "group": None})
            run["group"] = of["groupName"] or run["group"]
            run["config"] |= json.loads(of["config"] or "{}")
            return {"upsertBucket": {"bucket": self.bucket(of["name"]), "inserted": True}}
        if query == "Viewer":
            return {"viewer": {"id": "me", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if query == "ArtifactType":
            return {"project": {"artifact": None}}
        if query == "CreateRunFiles":
            return {"createRunFiles": {"runID": "b", **upload, "files": [{"name": n, **upload} for n in of["files"]]}}
        if query == "CreateArtifact":
            sequence = {"id": "s", "latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        return {"serverInfo": {"features": []}} if query == "ServerFeaturesQuery" else {}

    def bucket(self, name):
        run = self.runs[name]
        tail = [json.dumps(row) for row in self.history(name)[-1:]]
        counts = {"historyLineCount": len(run["history"]), "eventsLineCount": 0, "logLineCount": 0}
        told = {"summaryMetrics": json.dumps(run["summary"]), "historyTail": json.dumps(tail), "eventsTail": "[]"}
        named = {"id": "b", "name": name, "displayName": name, "description": "", "sweepName": None, "tags": []}
        return named | counts | told | {"config": "{}", "wandbConfig": '{"t": 1}', "project": PROJECT}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args): ...

    def do_PUT(self):
        self.body()
        self.reply({})

    do_GET = do_PUT

    def do_POST(self):
        body = self.body()
        if self.path.startswith("/graphql"):
            asked = json.loads(body)
            query = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
            self.reply({"data": self.server.answer(query, asked.get("variables") or {})})
        else:
            if stream := re.match(r"/files/\w*/\w*/([\w-]*)/file_stream", self.path):
                self.stream(self.server.runs[stream[1]], json.loads(body))
            self.reply({})

    def stream(self, run, sent):
        files = sent.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            run["history"] |= {history["offset"] + i: json.loads(line) for i, line in enumerate(history["content"])}
        if summary := files.get("wandb-summary.json"):
            run["summary"] = json.loads(summary["content"][-1])
        run["exitcode"] = sent.get("exitcode", run.get("exitcode"))

    def body(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def reply(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
