"""``--max-cost`` is a hard stop: in whatever order requests go and fail, what a server may charge by the price table
stays below it. An estimate comes before anything is sent, and a ledger after."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaxes.errors import UsageError
from skillaxes.labeling import estimate, label
from skillaxes.labeling.llm.cost import LimitReached, Price, SpendingLimit, look_up

PRICES = {"models": {"m": {"input": 2.0, "cached_input": 0.5, "output": 8.0, "context": 4000}}}
LIMIT = 0.01


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(PRICES))
    return path


class Greedy:
    """Charges as much as it may for whatever reached it, and answers as it likes."""

    def __init__(self, chat: Any, seed: int) -> None:
        self._chat = chat
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.charged = 0.0

    def __call__(self, request: Any) -> Any:
        answer, price = self._chat.Answer, PRICES["models"]["m"]
        with self._lock:
            cap = request.body["max_tokens"]
            dice = self._random.random()
            tokens_in, tokens_out = len(request.raw), cap
            if dice < 0.5:  # an honest answer and an honest bill
                tokens_in, tokens_out = self._random.randint(1, len(request.raw)), self._random.randint(1, cap)
            if dice < 0.8:
                cached = self._random.randint(0, tokens_in)
                usage = {
                    "prompt_tokens": tokens_in,
                    "completion_tokens": tokens_out,
                    "prompt_tokens_details": {"cached_tokens": cached},
                }
                self.charged += ((tokens_in - cached) * price["input"] + cached * price["cached_input"]) / 1e6
                self.charged += tokens_out * price["output"] / 1e6
                text = self._chat.honest(request) if dice < 0.7 else "nothing of use"
                return answer(text=text, usage=usage)
            if dice < 0.87:  # turned away: free
                return answer(status=429, error={"error": "slow down"}, headers={"retry-after-ms": "1"})
            self.charged += (tokens_in * price["input"] + tokens_out * price["output"]) / 1e6
            if dice < 0.91:
                return answer(status=500, error={"error": "oh"}, headers={"retry-after-ms": "1"})
            if dice < 0.94:
                return answer(close=True)
            if dice < 0.97:
                return answer(text=self._chat.honest(request), no_usage=True)
            return answer(text=self._chat.honest(request), truncate=True)


@pytest.mark.parametrize("seed", range(16))
def test_never_more_than_the_limit(
    folder: Any, serve: Callable[..., Any], chat_module: Any, prices: Path, seed: int
) -> None:
    greedy = Greedy(chat_module, seed)
    server = serve(greedy)
    summary = label(
        folder.run_dir, folder.traces, labeler="openai", model="m", base_url=server.url, prices=prices, max_cost=LIMIT,
        max_output_tokens=60 + 20 * (seed % 3), concurrency=1 + seed % 8, retries=seed % 3, pairs=20, detections=9,
        baselines=1, seed=seed,
    )  # fmt: skip
    assert 0 < greedy.charged <= LIMIT + 1e-12
    assert summary.spent is not None and greedy.charged - 1e-12 <= summary.spent <= LIMIT + 1e-12
    assert summary.stopped_by_cost and summary.exit_code == 75 and len(summary.records) == 2
    assert greedy.charged > LIMIT / 4  # a stop, not a refusal to go
    for request in server.requests:
        assert request.body["max_tokens"] == 60 + 20 * (seed % 3)


def test_the_same_command_goes_on(folder: Any, serve: Callable[..., Any], prices: Path) -> None:
    server = serve()
    options = {
        "labeler": "openai", "model": "m", "base_url": server.url, "prices": prices, "max_cost": LIMIT,
        "max_output_tokens": 100, "pairs": 10, "detections": 3, "baselines": 0, "concurrency": 2,
    }  # fmt: skip
    runs = 1
    while label(folder.run_dir, folder.traces, **options).exit_code == 75:
        runs += 1
        assert runs < 20
    assert runs > 1
    asked = [request.key for request in server.requests]
    assert len(asked) == len(set(asked))


def test_a_limit_needs_a_price(folder: Any, serve: Callable[..., Any]) -> None:
    with pytest.raises(
        UsageError, match=r"--max-cost 0.01: the price of model 'unheard-of' is not known; .*--prices FILE"
    ):
        label(folder.run_dir, folder.traces, labeler="openai", model="unheard-of", base_url=serve().url, max_cost=0.01)


def test_a_limit_brings_a_cap_of_its_own(folder: Any, serve: Callable[..., Any], prices: Path) -> None:
    server = serve()
    label(
        folder.run_dir, folder.traces, labeler="openai", model="m", base_url=server.url, prices=prices, max_cost=1.0,
        pairs=0, detections=0, baselines=0,
    )  # fmt: skip
    assert {request.body["max_tokens"] for request in server.requests} == {4000}


def test_ledger_and_costs_by_the_table(folder: Any, serve: Callable[..., Any], prices: Path) -> None:
    server = serve()
    summary = label(
        folder.run_dir, folder.traces, labeler="openai", model="m", base_url=server.url, prices=prices,
        pairs=10, detections=3, baselines=1,
    )  # fmt: skip
    expected = 0.0
    for request in server.requests:
        reply = len(server.behave(request)) // 4 + 1
        expected += (len(request.raw) // 4 * 2.0 + reply * 8.0) / 1e6
    assert summary.spent == pytest.approx(expected) and summary.usage.cost == pytest.approx(expected)
    ledger = [json.loads(line) for line in (folder.run_dir / "label_ledger.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in ledger].count("answered") == len(server.requests)
    assert sum(entry.get("cost", 0) for entry in ledger) == pytest.approx(expected, abs=1e-6)
    by_direction = sum(record["cost"] for record in summary.records)
    assert 0 < by_direction < expected  # the baselines are nobody's
    assert {entry["purpose"] for entry in ledger} == {"component 0", "component 1", "random 0", "order 0"}
    again = label(
        folder.run_dir, folder.traces, labeler="openai", model="m", base_url=server.url, prices=prices,
        pairs=10, detections=3, baselines=1,
    )  # fmt: skip
    assert again.spent == 0.0 and again.usage.cached == again.usage.requests
    assert [record["cost"] for record in again.records] == pytest.approx([record["cost"] for record in summary.records])


def test_estimate_before_anything_is_sent(
    folder: Any, serve: Callable[..., Any], prices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    options = {
        "labeler": "openai", "model": "m", "base_url": server.url, "prices": prices, "pairs": 10, "detections": 6,
        "baselines": 2, "samples": 2,
    }  # fmt: skip
    with monkeypatch.context() as context:
        context.delenv("OPENAI_API_KEY")
        before = sorted(folder.run_dir.iterdir())
        found = estimate(folder.run_dir, folder.traces, **options)
        assert sorted(folder.run_dir.iterdir()) == before and not server.requests
    label(folder.run_dir, folder.traces, **options)
    assert found.requests == len(server.requests)
    assert found.labels == sum(request.task == "label" for request in server.requests) == 2 * 3 + 2 + 2
    sent = sum(len(message["content"]) for request in server.requests for message in request.body["messages"])
    assert sent / 4 < found.input_tokens < sent
    assert found.cost == pytest.approx((found.input_tokens * 2.0 + found.output_tokens * 8.0) / 1e6)
    assert estimate(folder.run_dir, folder.traces, **{**options, "model": "unheard-of"}).cost is None


def test_price_table(tmp_path: Path) -> None:
    assert look_up("gpt-5").price == Price(1.25, 0.125, 10.0)
    assert look_up("gpt-5-2025-08-07") == look_up("gpt-5")
    assert look_up("gpt-5-mini").price != look_up("gpt-5").price
    assert look_up("gpt-5", "flex").price == Price(0.625, 0.0625, 5.0)
    assert look_up("gpt-5-unheard-of").price is None
    assert Price(1.0, 0.1, 10.0).cost(1_000_000, 500_000, 100_000) == pytest.approx(0.5 + 0.05 + 1.0)
    for content in (
        "nothing",
        "[]",
        '{"models": {"m": {"input": 1}}}',
        '{"models": {"m": {"input": -1, "output": 1}}}',
    ):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(UsageError, match="no table of prices"):
            look_up("m", path=tmp_path / "p.json")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 1)), min_size=1, max_size=60),
    st.integers(1, 6),
    st.floats(0.1, 2),
)
def test_limit_under_threads(requests: list[tuple[float, float]], n_threads: int, limit: float) -> None:
    spending = SpendingLimit(limit)
    waiting = list(requests)
    lock = threading.Lock()
    spent: list[float] = []

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                worst, share = waiting.pop()
            try:
                spending.reserve(worst)
            except LimitReached:
                continue
            spending.record(worst, worst * share)
            with lock:
                spent.append(worst * share)

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert spending.spent == pytest.approx(sum(spent)) and spending.spent <= limit + 1e-9
    assert spending.refused or len(spent) == len(requests)
