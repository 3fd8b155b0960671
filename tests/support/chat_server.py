"""A server on loopback that speaks the chat completions API, and misbehaves on request.

Its model is simple and honest: it calls a group after the word that stands in all of its texts, and judges texts by
that word.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FENCED = re.compile(r"<<<BEGIN (\w+) (\w{12})>>>\n(.*?)\n<<<END \1 \2>>>", re.DOTALL)


@dataclass
class Answer:
    """What the server does with one request."""

    text: str | None = None
    status: int = 200
    error: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    refusal: str | None = None
    usage: dict[str, Any] | None = None
    no_usage: bool = False
    body: bytes | None = None  # in place of everything else
    hang: float = 0.0
    close: bool = False
    truncate: bool = False


@dataclass
class Request:
    """What the server got."""

    body: dict[str, Any]
    headers: dict[str, str]
    number: int
    raw: bytes

    @property
    def prompt(self) -> str:
        return "\n".join(message["content"] for message in self.body["messages"])

    @property
    def texts(self) -> dict[str, str]:
        return {name: text for name, _, text in FENCED.findall(self.prompt)}

    @property
    def outside(self) -> str:
        """The prompt without the fenced texts."""
        return FENCED.sub(r"<<<\1>>>", self.prompt)

    @property
    def task(self) -> str:
        asked = self.outside
        return "label" if "What tells group A" in asked else "pair" if "Which one belongs" in asked else "detect"

    @property
    def key(self) -> str:
        """The question, whatever form of reply is asked for."""
        return json.dumps(self.body["messages"][:2])


def honest(request: Request) -> str:
    """The reply of a model that knows its job."""
    texts = request.texts
    if request.task == "label":
        marks = []
        for group in "AB":
            mine = [set(re.findall(r"[a-z]{4,}", t)) for name, t in texts.items() if name.startswith(group)]
            others = Counter(
                w for n, t in texts.items() if not n.startswith(group) for w in re.findall(r"[a-z]{4,}", t)
            )
            common = Counter(word for words in mine for word in words)
            marks.append(max(sorted(common), key=lambda word: common[word] - others[word], default="nothing"))
        return json.dumps(
            {
                "analysis": f"A speaks of {marks[0]}, B of {marks[1]}.",
                "axes": [f"{marks[0]} versus {marks[1]}"],
                "attributes_a": [f"uses {marks[0]}", "short"],
                "attributes_b": [f"uses {marks[1]}", "short"],
                "interpretable": True,
                "keywords_a": f"speaks of {marks[0]}",
                "keywords_b": f"speaks of {marks[1]}",
            }
        )
    groups = re.findall(r"^Group [AB]: (.*)$", request.prompt, re.MULTILINE)
    words = [group.split()[-1] for group in groups]
    if request.task == "pair":
        count = {name: text.count(words[0]) - text.count(words[1]) for name, text in texts.items()}
        return json.dumps({"answer": "first" if count["first"] >= count["second"] else "second"})
    text = texts["text"]
    scores = {"A": text.count(words[0]), "B": text.count(words[1])}
    best = max(scores, key=lambda name: scores[name])
    return json.dumps({"answer": best if scores[best] else "neither"})


class ChatServer:
    """Runs in a thread; ``behave`` decides what happens to each request."""

    def __init__(self, behave: Callable[[Request], Answer | str] = honest) -> None:
        self.behave = behave
        self.requests: list[Request] = []
        self.answered: Counter[str] = Counter()  # question -> usable replies that were sent
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet: without it each answer waits 40 ms for an acknowledgement

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                with server._lock:
                    request = Request(json.loads(raw), dict(self.headers), len(server.requests), raw)
                    server.requests.append(request)
                answer = server.behave(request)
                server._reply(self, request, Answer(text=answer) if isinstance(answer, str) else answer)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _reply(self, handler: BaseHTTPRequestHandler, request: Request, answer: Answer) -> None:
        if answer.hang:
            time.sleep(answer.hang)
        if answer.close or answer.hang:
            handler.close_connection = True
            return
        body, status = answer.body, answer.status
        if body is None and answer.error is not None:
            body = json.dumps(answer.error).encode() if not isinstance(answer.error, bytes) else answer.error
        if body is None:
            text = answer.text or ""
            cap = request.body.get("max_completion_tokens") or request.body.get("max_tokens") or 10**9
            reply: dict[str, Any] = {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": request.body["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": answer.finish_reason,
                        "message": {"role": "assistant", "content": answer.text, "refusal": answer.refusal},
                    }
                ],
            }
            if not answer.no_usage:
                reply["usage"] = answer.usage or {
                    "prompt_tokens": len(request.raw) // 4,
                    "completion_tokens": min(cap, len(text) // 4 + 1),
                    "total_tokens": 0,
                }
            body = json.dumps(reply).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body) + (100 if answer.truncate else 0)))
        handler.send_header("x-request-id", f"req-{request.number}")
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        if answer.truncate:
            handler.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
