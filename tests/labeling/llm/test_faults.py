"""Whatever a server does, no label is one that the model did not give, no direction is lost, and what was answered and
recorded is never asked again: under 500 planted faults over 50 directions, and under a process that is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skillaxes.labeling import label
from skillaxes.labeling.llm.cache import Cache, JsonLines

N_FAULTS, N_DIRECTIONS = 500, 50


def faults(chat: Any) -> list[tuple[str, Any]]:
    """Every way to fail, with the kinds of failure that a record may carry for it."""
    answer = chat.Answer
    said = {"error": {"message": "something is wrong", "code": None}}

    def status(code: int, message: str = "something is wrong", **headers: str) -> Any:
        return answer(status=code, error={"error": {"message": message}}, headers={"retry-after-ms": "1", **headers})

    return [
        *[(f"status {code}", status(code)) for code in (401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 529)],
        ("validation", status(422, "response_format: extra fields not permitted")),
        ("filter", status(400, "blocked by our content management policy")),
        ("html", answer(status=502, error=b"<html>Bad gateway</html>")),
        ("bare list", answer(body=b"[]")),
        ("no json", answer(body=b"hello")),
        ("no body", answer(body=b"")),
        ("deep", answer(body=b"[" * 100_000)),
        ("no choices", answer(body=json.dumps({"choices": []}).encode())),
        ("null message", answer(body=json.dumps({"choices": [{"message": None}]}).encode())),
        ("error with 200", answer(body=json.dumps(said).encode())),
        ("close", answer(close=True)),
        ("truncated", answer(text='{"answer": "first"}', truncate=True)),
        ("broken", answer(text='{"analysis": "a", "axes": ["b"')),
        ("prose", answer(text="I am sorry, these groups look alike to me. First or second? Either.")),
        ("wrong schema", answer(text='{"labels": 3}')),
        ("wrong types", answer(text='{"keywords_a": {}, "keywords_b": [], "answer": 7}')),
        ("two words", answer(text='{"keywords_a": "two words", "keywords_b": "two others", "answer": "both"}')),
        ("empty", answer(text="")),
        ("null", answer(text=None)),
        ("cut off", answer(text='{"analysis": "a', finish_reason="length")),
        ("refusal", answer(text=None, refusal="I will not")),
        ("filtered", answer(text="", finish_reason="content_filter")),
    ]


class Saboteur:
    """Plants faults in front of honest answers, and keeps the books."""

    def __init__(self, chat: Any, n_faults: int, seed: int) -> None:
        self._chat = chat
        self._random = random.Random(seed)
        self._pool = faults(chat)
        self._waiting: dict[str, int] = {}
        self._lock = threading.Lock()
        self.left = n_faults
        self.hangs = 6
        self.planted: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()

    def __call__(self, request: Any) -> Any:
        with self._lock:
            if request.key not in self._waiting:
                self._waiting[request.key] = min(self.left, self._random.choice([0, 1, 1, 2, 3]))
                self.left -= self._waiting[request.key]
            if self._waiting[request.key]:
                self._waiting[request.key] -= 1
                if self.hangs and self._random.random() < 0.05:
                    self.hangs -= 1
                    self.planted["hang"] += 1
                    return self._chat.Answer(hang=2.5)
                name, fault = self._random.choice(self._pool)
                self.planted[name] += 1
                return fault
            self.answered[request.key] += 1
        return self._chat.honest(request)


def test_500_faults_over_50_directions(
    tmp_path: Path, folder_of: Callable[..., Any], serve: Callable[..., Any], chat_module: Any
) -> None:
    folder = folder_of(tmp_path, directions=N_DIRECTIONS, randoms=0, n_rows=120, pool=30)
    saboteur = Saboteur(chat_module, N_FAULTS, seed=1)
    server = serve(saboteur)
    calm = shutil.copytree(folder.run_dir, tmp_path / "calm")
    told = label(
        calm,
        folder.traces,
        labeler="openai",
        model="test-model",
        base_url=serve().url,
        pairs=0,
        detections=0,
        baselines=0,
    )
    names = [record["keywords"] for record in told.records]

    def run() -> Any:
        return label(
            folder.run_dir, folder.traces, labeler="openai", model="test-model", base_url=server.url,
            pairs=0, detections=9, baselines=0, concurrency=8, timeout=2.0, retries=1,
        )  # fmt: skip

    def check(summary: Any) -> None:
        assert [record["direction"] for record in summary.records] == list(range(N_DIRECTIONS))
        on_disk = [json.loads(line) for line in summary.path.read_text().splitlines()]
        assert on_disk == list(summary.records)
        for record in on_disk:
            if record["status"] == "labelled":
                assert record["keywords"] == names[record["direction"]]
            else:
                assert record["status"] == "failed" and record["failure"]["kind"].isidentifier()
                assert record["failure"]["message"] and record["keywords"] == {"positive": [], "negative": []}

    first = run()
    check(first)
    assert first.n_failed > 0 and first.exit_code == 1
    runs = 1
    while saboteur.left or any(saboteur._waiting.values()):
        check(run())
        runs += 1
        assert runs < 60, "faults that nobody comes to"
    last = run()
    check(last)
    assert last.n_labelled == N_DIRECTIONS and last.exit_code == 0
    assert all(record["scores"]["detection"]["traces"] == 9 for record in last.records)
    assert sum(saboteur.planted.values()) == N_FAULTS and len(saboteur.planted) >= 25
    assert set(saboteur.answered.values()) == {1}, "something that was answered was asked again"
    n_requests = len(server.requests)
    assert run().records == last.records or len(server.requests) == n_requests
    assert len(server.requests) == n_requests


def test_every_fault_alone_is_a_typed_failure(
    tmp_path: Path, folder_of: Callable[..., Any], serve: Callable[..., Any], chat_module: Any
) -> None:
    folder = folder_of(tmp_path, directions=1, randoms=0)
    kinds = {}
    for name, fault in faults(chat_module):
        server = serve(lambda request, fault=fault: fault)
        summary = label(
            folder.run_dir, folder.traces, labeler="openai", model="m", base_url=server.url, retries=1, baselines=0,
            overwrite=True,
        )  # fmt: skip
        (record,) = summary.records
        assert summary.n_failed == 1 and summary.exit_code == 1
        kinds[name] = record["failure"]["kind"]
        if not fault.close and not fault.truncate:
            assert record["failure"]["request_id"] is not None, name
    assert kinds == {
        "status 401": "authentication", "status 403": "permission", "status 404": "unknown_model",
        "status 408": "timeout", "status 409": "bad_request", "status 413": "bad_request", "status 429": "rate_limit",
        "status 500": "server_error", "status 502": "server_error", "status 503": "server_error",
        "status 529": "server_error", "validation": "bad_request", "filter": "content_filter", "html": "server_error",
        "bare list": "malformed_response", "no json": "malformed_response", "no body": "malformed_response",
        "deep": "malformed_response", "no choices": "malformed_response", "null message": "malformed_response",
        "error with 200": "malformed_response", "close": "connection", "truncated": "connection",
        "broken": "unparseable", "prose": "unparseable", "wrong schema": "wrong_schema", "wrong types": "wrong_schema",
        "two words": "not_three_words", "empty": "empty_reply", "null": "empty_reply", "cut off": "cut_off",
        "refusal": "refusal", "filtered": "content_filter",
    }  # fmt: skip


def test_a_hanging_server_is_a_timeout(folder: Any, serve: Callable[..., Any], chat_module: Any) -> None:
    server = serve(lambda request: chat_module.Answer(hang=1.0))
    summary = label(
        folder.run_dir, folder.traces, labeler="openai", model="m", base_url=server.url, retries=0, baselines=0,
        timeout=0.2,
    )  # fmt: skip
    assert {record["failure"]["kind"] for record in summary.records} == {"timeout"}


def test_no_server_is_a_connection_failure(folder: Any, serve: Callable[..., Any]) -> None:
    server = serve()
    server.close()
    summary = label(
        folder.run_dir, folder.traces, labeler="openai", model="m", base_url=server.url, retries=0, baselines=0
    )
    assert {record["failure"]["kind"] for record in summary.records} == {"connection"}
    assert summary.exit_code == 1


def test_a_killed_run_asks_nothing_again(
    tmp_path: Path, folder: Any, serve: Callable[..., Any], chat_module: Any
) -> None:
    """And it ends with the bytes of a run that nothing disturbed, though its server takes the lowest rung only."""
    asked: list[str] = []

    def slow(request: Any) -> Any:
        if "response_format" in request.body:
            refusal = {"error": {"message": "response_format is unknown here", "param": "response_format"}}
            return chat_module.Answer(status=400, error=refusal)
        asked.append(request.key)
        time.sleep(0.02)
        return chat_module.honest(request)

    server = serve(slow)
    options = (
        f"labeler='openai', model='m', base_url={server.url!r}, pairs=20, detections=30, baselines=2, concurrency=4"
    )
    undisturbed = shutil.copytree(folder.run_dir, tmp_path / "undisturbed")
    code = f"from skillaxes.labeling import label; label({str(folder.run_dir)!r}, {str(folder.traces)!r}, {options})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "engine")}
    for kills, stop in enumerate((5, 60, 120), 1):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        until = time.monotonic() + 30
        while len(asked) < stop and time.monotonic() < until and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        recorded = Cache(folder.run_dir)
        n_recorded, before = len(recorded._replies), len(asked)
        recorded.close()
        assert before >= stop and n_recorded >= before - kills * 4  # but for what was under way
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    repeated = sum(count - 1 for count in Counter(asked).values())
    assert repeated <= 3 * 4  # what was under way at each kill
    n_asked = len(asked)
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    assert len(asked) == n_asked
    code = code.replace(repr(str(folder.run_dir)), repr(str(undisturbed)))
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    assert (folder.run_dir / "labels.jsonl").read_bytes() == (undisturbed / "labels.jsonl").read_bytes()


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": 2')
    lines = JsonLines(path)
    assert lines.entries() == [{"a": 1}]
    lines.append({"c": 3})
    lines.close()
    assert lines.entries() == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize("durable", [True, False])
def test_many_threads_write_whole_lines(tmp_path: Path, durable: bool) -> None:
    lines = JsonLines(tmp_path / "j.jsonl", durable=durable)
    threads = [
        threading.Thread(target=lambda n=n: [lines.append({"n": n, "i": i, "x": "y" * 500}) for i in range(20)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.close()
    assert sorted((e["n"], e["i"]) for e in lines.entries()) == [(n, i) for n in range(8) for i in range(20)]
