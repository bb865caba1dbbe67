"A server on this machine that Kaggle's own client takes for Kaggle."
import http.server, json, threading
from contextlib import contextmanager

SITE = """
import os
from kagglesdk import kaggle_env
kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = os.environ["FAKE_KAGGLE"]
"""


class FakeKaggle(http.server.BaseHTTPRequestHandler):
    """Answers with fields, with a status and a message, or with a zip.

    By the name of what is asked, from `answers` (also functions of the fields asked), else `answer`.
    """
    answer, answers, asked = None, {}, []

    def do_POST(self):
        name, body = self.path.rpartition("/")[2], self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.path, body))
        answer = self.answers.get(name, self.answer)
        if callable(answer): answer = answer(json.loads(body))
        if isinstance(answer, bytes): return self.send(302, b"", Location=f"{self.url()}/all.zip")
        status, fields = (200, answer) if isinstance(answer, dict) else (answer[0], dict(code=answer[0], message=answer[1]))
        self.send(status, json.dumps(fields).encode(), **{"Content-Type": "application/json"})

    def do_GET(self): self.send(200, self.answer)

    def do_PUT(self):
        self.asked.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send(200, b"")

    def url(self): return f"http://127.0.0.1:{self.server.server_port}"

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": len(body)}).items(): self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments): pass


@contextmanager
def fake_kaggle(folder):
    "Serve; what a client's process needs in its environment is given too."
    handler = type("Handler", (FakeKaggle,), dict(answers={}, asked=[]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(SITE)
    yield handler, dict(FAKE_KAGGLE=f"http://127.0.0.1:{server.server_port}", PYTHONPATH=str(folder / "site"), HOME=str(folder))
    server.shutdown()
    server.server_close()
