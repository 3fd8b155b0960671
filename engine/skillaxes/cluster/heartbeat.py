"""A thread a process that tells the others it lives, and ends it when one of them does not.

Beats, the first failure and the wish to stop are keys of torch's own store; the thread has its own connection to it.
A process may sit in a matrix product or a collective when another one dies, so the thread ends it itself.
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
_GRACE = 4.0  # more seconds than that for the store's own answers
_LAST_WORDS = 1.0  # seconds: srun loses what a process has said just before its end where another one was killed
_ACKNOWLEDGED = 5.0  # seconds that a failing process waits for the others to have read why
_LEFT = "left"
_FAILED, _STOP, _SEEN = "failed", "stop", "seen"


class Heartbeat(threading.Thread):
    """The beat of one process.

    Parameters
    ----------
    store : a connection that nobody else uses
    names : how messages call each process; filled in as they become known
    rank : which one this is
    host : which process holds the store; None where torchrun's agent does
    wants_stop : whether this process was told to stop
    """

    def __init__(
        self, store: Store, names: list[str], rank: int, host: int | None, wants_stop: Callable[[], bool]
    ) -> None:
        super().__init__(name="skillaxes-heartbeat", daemon=True)
        self._store, self.names, self._rank, self._host = store, names, rank, host
        self._wants_stop = wants_stop
        self._keys = [f"beat/{number}" for number in range(len(names))]
        self._heard = {number: (b"", time.monotonic()) for number in range(len(names)) if number != rank}
        self._quiet = threading.Event()
        self._told: bytes = b""
        self._rounds_missed, self._ending = 0, False
        self.stop_seen = False
        self.gone: set[int] = set()
        self.when_lost: Callable[[int, str], None] = lambda code, message: None
        for key in (*self._keys, _FAILED, _STOP):
            store.compare_set(key, "", "")  # so that asking for one never waits
        store.set(self._keys[rank], "0")

    def run(self) -> None:
        threading.Thread(target=self._watch, name="skillaxes-heartbeat-watch", daemon=True).start()
        number = 0
        while not self._quiet.wait(EVERY):
            number += 1
            self._rounds_missed = 0
            try:
                self._store.set(self._keys[self._rank], str(number))
                if self._wants_stop() and not self.stop_seen:
                    self._store.set(_STOP, "1")
                failed, stop, *beats = self._store.multi_get([_FAILED, _STOP, *self._keys])
            except RuntimeError:
                if not self._quiet.is_set():
                    self._end(1, self._without_store())
                return
            self.stop_seen = self.stop_seen or stop != b""
            if failed and failed != self._told:
                self._follow(failed)
            silent = self._silent(beats)
            if silent and not self._told:
                who = f"{self.names[silent[0]]} has been silent for {SILENCE:.0f} s: taken for dead"
                self._follow(self._first(silent[0], 1, who))

    def _watch(self) -> None:
        """End this process when a round of the beat does not: behind a cut cable torch's store never answers, and its
        own time limit waits for the answer to its cancellation.

        Seconds are counted, not measured, so that a process whose threads all waited is not taken for cut off.
        """
        while not self._quiet.wait(EVERY) and not self._ending:
            self._rounds_missed += 1
            if self._rounds_missed * EVERY > SILENCE + _GRACE:
                self._end(1, self._without_store())

    def fail(self, code: int, message: str) -> str | None:
        """Tell the others of this process's failure and wait until they know.

        Returns
        -------
        Another process's failure, as one line, if that one was first.
        """
        first = self._first(self._rank, code, f"{self.names[self._rank]} failed: {message}")
        lost, _, why = first.decode().split("\n", 2)
        mine = int(lost) == self._rank
        if not mine:
            self._acknowledge()
        if mine or self._host == self._rank:
            self._wait_until_read({int(lost)})
        return None if mine else why

    def leave(self, limit: float) -> None:
        """Take leave without a failure; the process that holds the store waits until all others have left."""
        if self._host == self._rank:
            end = time.monotonic() + limit
            while len(self.gone) < len(self.names) - 1 and time.monotonic() < end:
                time.sleep(min(0.05, len(self.names) / 500))
                with contextlib.suppress(RuntimeError):
                    self._silent(self._store.multi_get(self._keys))
        self._quiet.set()
        self.join(SILENCE)
        with contextlib.suppress(RuntimeError):
            self._store.set(self._keys[self._rank], _LEFT)

    def quiet(self) -> None:
        """Beat no more."""
        self._quiet.set()

    def _first(self, lost: int, code: int, message: str) -> bytes:
        """Put a failure on record, and return the one that was there first."""
        told = f"{lost}\n{code}\n{message}"
        self._told = told.encode()
        try:
            return self._store.compare_set(_FAILED, "", told)
        except RuntimeError:  # the store is gone, and the others know it already
            return self._told

    def _follow(self, failed: bytes) -> None:
        """End because another process has failed or is dead."""
        lost, code, message = failed.decode().split("\n", 2)
        self._acknowledge()
        self._end(int(code), message, {int(lost)})

    def _wait_until_read(self, lost: set[int]) -> None:
        """Until all that are left have read what failed, for a while."""
        limit = time.monotonic() + _ACKNOWLEDGED
        readers = len(self.names) - len(self.gone | lost)
        with contextlib.suppress(RuntimeError):
            while self._store.add(_SEEN, 0) < readers and time.monotonic() < limit:
                time.sleep(0.05)

    def _acknowledge(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.add(_SEEN, 1)

    def _silent(self, beats: list[bytes]) -> list[int]:
        """Processes that have not been heard for too long; those that have not begun or have left are not missed."""
        now, silent = time.monotonic(), []
        for number, (last, since) in self._heard.items():
            beat = beats[number]
            if beat == _LEFT.encode():
                self.gone.add(number)
            elif beat != last:
                self._heard[number] = (beat, now)
            elif beat and now - since > SILENCE:
                silent.append(number)
        return silent

    def _without_store(self) -> str:
        if self._host is None:
            return "torchrun's agent, which holds the store, cannot be reached any more"
        return f"{self.names[self._host]}, which holds the store, cannot be reached any more"

    def _end(self, code: int, message: str, lost: set[int] | None = None) -> None:
        """End this process, wherever its main thread is."""
        self._ending = True
        lost = ({self._host} if self._host is not None else set()) if lost is None else lost
        alive = [number for number in range(len(self.names)) if number not in lost and number not in self.gone]
        if alive and alive[0] == self._rank:
            with contextlib.suppress(Exception):  # a full disk must not keep this process alive
                self.when_lost(code, message)
        print(f"skillaxes: {self.names[self._rank]} ends: {message}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        if self._host == self._rank:  # the others read from this process what has failed
            self._wait_until_read(lost)
        time.sleep(_LAST_WORDS)
        os._exit(code or 1)
