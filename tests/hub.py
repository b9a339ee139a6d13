"A small Hugging Face Hub on the loopback: it knows what a push needs, keeps what it gets, and misbehaves when told to."
import base64
import json
import re
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

REPO = re.compile(
    r"/(?:api/(?P<kinds>datasets|models)/|(?P<git>datasets/)?)(?P<repo>[\w.-]+/[\w.-]+?)(?:\.git)?(?:/(?P<rest>.*))?")


class Trouble:
    "What the server does to requests whose line matches: a status, 'cut', 'take' (do it, then cut) or 'silent'."
    def __init__(self, line, does, times=10**6, **headers):
        self.line, self.does, self.times, self.headers = line, does, times, headers


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *trouble, obeys=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.trouble, self.obeys = list(trouble), obeys # does it make private what shall be private?
        self.repos, self.objects, self.asked, self.received, self.over = {}, {}, [], 0, Event()

    @property
    def url(self): return f"http://127.0.0.1:{self.server_port}"

    def make(self, kind, repo, private, **files):
        self.repos[kind, repo] = dict(private=private, files={})
        for path, text in files.items(): self.keep(kind, repo, path.replace("__", "/"), text.encode())

    def keep(self, kind, repo, path, data, lfs=False):
        git = sha1(b"blob %d\0" % len(data) + data).hexdigest()
        more = dict(lfs=dict(oid=sha256(data).hexdigest(), size=len(data), pointerSize=130)) if lfs else {}
        self.repos[kind, repo]["files"][path] = dict(type="file", path=path, size=len(data), oid=git, **more)

    def files(self, kind, repo): return sorted(self.repos[kind, repo]["files"])

    def count(self, part): return sum(part in o for o in self.asked)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args): pass

    def answer(self, status, body=None, **headers):
        data = json.dumps(body if body is not None else dict(error=f"status {status}")).encode()
        self.send_response(status)
        for k, v in dict(content_type="application/json", content_length=len(data), **headers).items():
            self.send_header(k.replace("_", "-"), str(v))
        self.end_headers()
        self.wfile.write(data)

    def cut(self): self.close_connection = True

    def handle_any(self):
        hub, body = self.server, self.rfile.read(int(self.headers.get("content-length") or 0))
        line = f"{self.command} {self.path}"
        hub.asked.append(line)
        for o in hub.trouble:
            if not o.times or not re.search(o.line, line): continue
            o.times -= 1
            if isinstance(o.does, int): return self.answer(o.does, **o.headers)
            if o.does == "silent": hub.over.wait(60)
            if o.does == "take":
                self.answer = lambda *args, **kw: None
                self.route(body)
                del self.answer
            return self.cut()
        self.route(body)

    do_GET = do_POST = do_PUT = handle_any

    def route(self, body):
        hub, path = self.server, self.path.split("?")[0]
        if path == "/api/repos/create": return self.create(json.loads(body))
        if path == "/api/validate-yaml": return self.answer(200, dict(warnings=[], errors=[]))
        if path.startswith("/lfs/"):
            hub.received += len(body)
            hub.objects[path[5:]] = body
            return self.answer(200, {})
        found = REPO.fullmatch(path)
        kind = "dataset" if found["kinds"] == "datasets" or found["git"] else "model"
        held = hub.repos.get((kind, found["repo"]))
        rest = found["rest"] or ""
        if held is None: return self.answer(404, X_Error_Code="RepoNotFound")
        info = dict(id=found["repo"], private=held["private"], sha="0" * 40, siblings=[])
        if rest in ("", "revision/main"): return self.answer(200, info)
        if rest == "tree/main": return self.answer(200, list(held["files"].values()))
        if rest == "info/lfs/objects/batch": return self.batch(json.loads(body))
        hub.received += len(body)
        if rest == "preupload/main":
            mode = lambda o: "lfs" if o["path"].endswith(".safetensors") else "regular"
            asked = json.loads(body)["files"]
            return self.answer(200, dict(files=[dict(path=o["path"], uploadMode=mode(o), shouldIgnore=False) for o in asked]))
        if rest == "commit/main": return self.commit(kind, found["repo"], [json.loads(o) for o in body.splitlines()])
        self.answer(404)

    def create(self, asked):
        hub, kind, repo = self.server, asked.get("type") or "model", f"{asked['organization']}/{asked['name']}"
        url = f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        if (kind, repo) in hub.repos: return self.answer(409, dict(error="You already created this repo", url=url))
        private = asked.get("private") is True or asked.get("visibility") == "private" # older and newer clients
        hub.make(kind, repo, hub.obeys and private)
        self.answer(200, dict(url=url))

    def batch(self, asked):
        hub = self.server
        upload = lambda oid: {} if oid in hub.objects else dict(actions=dict(upload=dict(href=f"{hub.url}/lfs/{oid}")))
        objects = [dict(oid=o["oid"], size=o["size"], **upload(o["oid"])) for o in asked["objects"]]
        self.answer(200, dict(transfer="basic", objects=objects))

    def commit(self, kind, repo, steps):
        hub = self.server
        for o in steps:
            v = o["value"]
            if o["key"] == "file": hub.keep(kind, repo, v["path"], base64.b64decode(v["content"]))
            if o["key"] == "lfsFile": hub.keep(kind, repo, v["path"], hub.objects[v["oid"]], lfs=True)
            if o["key"] == "deletedFile": del hub.repos[kind, repo]["files"][v["path"]]
        self.answer(200, dict(commitUrl=f"{hub.url}/{repo}/commit/1", commitOid="1" * 40))


@contextmanager
def serving(*trouble, **kw):
    "A Hub for the length of a block."
    with Hub(*trouble, **kw) as hub:
        thread = Thread(target=hub.serve_forever, kwargs=dict(poll_interval=.05), daemon=True)
        thread.start()
        try: yield hub
        finally: hub.over.set(), hub.shutdown(), thread.join(10)
