"""A chat endpoint on this machine that misbehaves as a test wants it to."""

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from trl_negalign.evaluation.queries import Queries


def completion(text: str | None, finish_reason: str = "stop") -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice]}).encode()


def say(text: str | None, finish_reason: str = "stop") -> Callable:
    return lambda handler: handler.reply(200, completion(text, finish_reason))


def fail(status: int, body: bytes = b"out of order", **headers) -> Callable:
    return lambda handler: handler.reply(status, body, **headers)


def cut_off(handler) -> None:
    body = completion("Verdict: A")
    handler.reply(200, body[: len(body) // 2], **{"Content-Length": str(len(body))})
    handler.close_connection = True


def slow(seconds: float) -> Callable:
    def reply(handler):
        time.sleep(seconds)
        handler.reply(200, completion("Verdict: B"))

    return reply


def drip(handler) -> None:
    """One byte at a time: no single wait is long, the whole is."""
    body = completion("Verdict: B")
    handler.start(200, {"Content-Length": str(len(body))})
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.3)


def shorter(handler) -> None:
    """A judge with an opinion: the shorter response is better."""
    text = handler.body["messages"][-1]["content"]
    a, b = (
        re.search(rf"<{tag}-(\w+)>\n(.*)\n</{tag}-\1>", text, re.DOTALL)[2] for tag in ("response_a", "response_b")
    )
    verdict = "tie" if len(a) == len(b) else "A" if len(a) < len(b) else "B"
    handler.reply(200, completion(f"Short is good.\nVerdict: {verdict}"))


class JudgeServer:
    """
    Answers the n-th request with the n-th of `replies`, and all further ones with the last; counts and records them.
    """

    def __init__(self, *replies: Callable):
        self.replies = replies
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(server.bodies)
                    server.bodies.append(self.body)
                    server.headers.append(dict(self.headers))
                try:
                    server.replies[min(number, len(server.replies) - 1)](self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def start(self, status, headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()

            def reply(self, status, body, **headers):
                self.start(status, {"Content-Length": str(len(body))} | headers)
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    @property
    def requests(self) -> int:
        return len(self.bodies)

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()


def some_queries(count: int = 3) -> tuple[Queries, list[str], list[str]]:
    """Queries, and two responses to each; the first one is shorter."""
    queries = Queries(list(range(count)), [f"question {i}" for i in range(count)], None, {}, {})
    return queries, [f"short {i}" for i in range(count)], [f"a longer one {i}" for i in range(count)]
