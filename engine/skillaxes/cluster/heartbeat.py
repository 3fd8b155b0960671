"""Heartbeat of a process: it reports that the process lives, and ends the process when another one fails.

Beats, the first failure and the request to stop are keys of torch's store. The thread has a connection of its own. A
process may be in a matrix product or in a collective when another one dies, so the thread ends the process itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

EVERY = 1.0  # seconds between beats
SILENCE = 15.0  # seconds without a beat after which a process is taken for dead
_STORE_GRACE = 4.0  # seconds beyond SILENCE for an answer of the store
_LAST_WORDS = 1.0  # seconds: srun loses what a process has said just before its end where another one was killed
_ACKNOWLEDGED = 5.0  # seconds that a failing process waits for the others to have read why
_DEPARTED = "departed"  # instead of a beat
_FAILED, _STOP, _SEEN = "failed", "stop", "seen"  # keys: first failure, request to stop, readers of the failure


class Heartbeat(threading.Thread):
    """The heartbeat thread of one process.

    Parameters
    ----------
    store : a connection that nothing else uses
    names : names of the processes in messages, by rank; filled in as they become known
    rank : the rank of this process
    store_rank : the process that holds the store; None where torchrun's agent does
    wants_stop : whether this process was told to stop

    Attributes
    ----------
    stop_seen : whether any process was told to stop
    departed : ranks of processes that have left without a failure
    on_peer_failure : what the lowest surviving process calls, with exit code and message, before it ends
    """

    def __init__(
        self, store: Store, names: list[str], rank: int, store_rank: int | None, wants_stop: Callable[[], bool]
    ) -> None:
        super().__init__(name="skillaxes-heartbeat", daemon=True)
        self._store, self.names, self._rank, self._store_rank = store, names, rank, store_rank
        self._wants_stop = wants_stop
        self._keys = [f"beat/{number}" for number in range(len(names))]
        self._heard = {number: (b"", time.monotonic()) for number in range(len(names)) if number != rank}
        self._finished = threading.Event()
        self._reported: bytes = b""
        self._rounds_missed, self._ending = 0, False
        self.stop_seen = False
        self.departed: set[int] = set()
        self.on_peer_failure: Callable[[int, str], None] = lambda code, message: None
        for key in (*self._keys, _FAILED, _STOP):
            store.compare_set(key, "", "")  # reading a key that exists never waits
        store.set(self._keys[rank], "0")

    def run(self) -> None:
        """Beat, and look at the others' beats, once a round until :meth:`stop`."""
        threading.Thread(target=self._watch, name="skillaxes-heartbeat-watch", daemon=True).start()
        number = 0
        while not self._finished.wait(EVERY):
            number += 1
            self._rounds_missed = 0
            try:
                self._store.set(self._keys[self._rank], str(number))
                if self._wants_stop() and not self.stop_seen:
                    self._store.set(_STOP, "1")
                failed, stop, *beats = self._store.multi_get([_FAILED, _STOP, *self._keys])
            except RuntimeError:
                if not self._finished.is_set():
                    self._end(1, self._store_lost())
                return
            self.stop_seen = self.stop_seen or stop != b""
            if failed and failed != self._reported:
                self._end_with(failed)
            silent = self._silent(beats)
            if silent and not self._reported:
                who = f"{self.names[silent[0]]} has been silent for {SILENCE:.0f} s: taken for dead"
                self._end_with(self._report_failure(silent[0], 1, who))

    def _watch(self) -> None:
        """End this process when the beat makes no more rounds.

        Behind a cut cable torch's store never answers, and its own time limit waits for the answer to its cancellation.
        Rounds are counted, not seconds measured, so that a process whose threads all waited is not taken for cut off.
        """
        while not self._finished.wait(EVERY) and not self._ending:
            self._rounds_missed += 1
            if self._rounds_missed * EVERY > SILENCE + _STORE_GRACE:
                self._end(1, self._store_lost())

    def fail(self, code: int, message: str) -> str | None:
        """Report this process's failure to the others and wait until they have read it.

        Returns
        -------
        Another process's failure, as one line, if that one was first.
        """
        first = self._report_failure(self._rank, code, f"{self.names[self._rank]} failed: {message}")
        failed_rank, _, why = first.decode().split("\n", 2)
        is_own = int(failed_rank) == self._rank
        if not is_own:
            self._acknowledge_failure()
        if is_own or self._store_rank == self._rank:
            self._wait_until_read({int(failed_rank)})
        return None if is_own else why

    def depart(self, limit: float) -> None:
        """Leave without a failure.

        The process that holds the store first waits until all others have left, at most ``limit`` seconds.
        """
        if self._store_rank == self._rank:
            end = time.monotonic() + limit
            while len(self.departed) < len(self.names) - 1 and time.monotonic() < end:
                time.sleep(min(0.05, len(self.names) / 500))
                with contextlib.suppress(RuntimeError):
                    self._silent(self._store.multi_get(self._keys))
        self._finished.set()
        self.join(SILENCE)
        with contextlib.suppress(RuntimeError):
            self._store.set(self._keys[self._rank], _DEPARTED)

    def stop(self) -> None:
        """End the beat."""
        self._finished.set()

    def _report_failure(self, rank: int, code: int, message: str) -> bytes:
        """Record the failure of process ``rank`` unless there is one already; returns the recorded one."""
        record = f"{rank}\n{code}\n{message}"
        self._reported = record.encode()
        try:
            return self._store.compare_set(_FAILED, "", record)
        except RuntimeError:  # the store is lost, which the others notice themselves
            return self._reported

    def _end_with(self, failed: bytes) -> None:
        """End this process because another one has failed or is dead."""
        rank, code, message = failed.decode().split("\n", 2)
        self._acknowledge_failure()
        self._end(int(code), message, {int(rank)})

    def _wait_until_read(self, lost: set[int]) -> None:
        """Wait until all surviving processes have read the failure, at most ``_ACKNOWLEDGED`` seconds."""
        limit = time.monotonic() + _ACKNOWLEDGED
        readers = len(self.names) - len(self.departed | lost)
        with contextlib.suppress(RuntimeError):
            while self._store.add(_SEEN, 0) < readers and time.monotonic() < limit:
                time.sleep(0.05)

    def _acknowledge_failure(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.add(_SEEN, 1)

    def _silent(self, beats: list[bytes]) -> list[int]:
        """Processes without a new beat for too long, except those that have not begun or have left."""
        now, silent = time.monotonic(), []
        for number, (last, since) in self._heard.items():
            beat = beats[number]
            if beat == _DEPARTED.encode():
                self.departed.add(number)
            elif beat != last:
                self._heard[number] = (beat, now)
            elif beat and now - since > SILENCE:
                silent.append(number)
        return silent

    def _store_lost(self) -> str:
        if self._store_rank is None:
            return "torchrun's agent, which holds the store, cannot be reached any more"
        return f"{self.names[self._store_rank]}, which holds the store, cannot be reached any more"

    def _end(self, code: int, message: str, lost: set[int] | None = None) -> None:
        """End this process at once, whatever its main thread does."""
        self._ending = True
        lost = ({self._store_rank} if self._store_rank is not None else set()) if lost is None else lost
        alive = [number for number in range(len(self.names)) if number not in lost and number not in self.departed]
        if alive and alive[0] == self._rank:
            with contextlib.suppress(Exception):  # a full disk must not keep this process alive
                self.on_peer_failure(code, message)
        print(f"skillaxes: {self.names[self._rank]} ends: {message}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        if self._store_rank == self._rank:  # the others read the failure from this process's store
            self._wait_until_read(lost)
        time.sleep(_LAST_WORDS)
        os._exit(code or 1)
