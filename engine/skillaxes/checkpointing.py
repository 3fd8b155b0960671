"""When a job writes a checkpoint, and how it goes on from one.

Two kinds of it. After a stage, all processes together: what the complete stages have found, and the kept numbers of
every row. Within a read, each process alone and without waiting for another: its sums, and the row it has come to. A
part belongs to one state, by a number that both hold, so any mixture that a kill leaves behind is either a point from
which the same bits follow, or is passed over.

Nothing is written before it is due, so a job of a few seconds writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from skillaxes.cluster import preemption
from skillaxes.cluster.world import World
from skillaxes.errors import StoppedEarly
from skillaxes.progress import Progress
from skillaxes.run_folder.checkpoint import CheckpointFolder, Damaged, RowTable
from skillaxes.stage_log import StageLog
from skillaxes.stream.panels import PanelStream

FORMAT = 1
_WORTH = 5.0  # seconds of complete stages that are worth a checkpoint
_BETWEEN_MARKS = 0.25  # seconds


@dataclass(frozen=True)
class Accumulator:
    """What a read adds into, as the checkpoint sees it.

    Attributes
    ----------
    save : its sums, as plain values; nothing is under way to them afterwards
    load : puts sums back
    tables : the numbers of every row that the read leaves, by the name of their row file
    """

    save: Callable[[], dict[str, Any]]
    load: Callable[[dict[str, Any]], None]
    tables: Mapping[str, RowTable] = field(default_factory=dict)


class Checkpoint:
    """The checkpoint of one job, as one of its processes sees it.

    Parameters
    ----------
    run_dir : the run folder; None for a job that leaves nothing on disk
    identity : what the state must agree with
    every : seconds between checkpoints; 0 for one at every panel
    world, log, progress : of the job

    Attributes
    ----------
    results : what the complete stages have found, as plain values; filled by :meth:`open`
    resumed : whether an earlier attempt had left something
    repeated : seconds and rows that killed attempts had done after their last checkpoint
    stopped_at : where the job was stopped; None while it was not
    """

    def __init__(
        self,
        run_dir: Path | None,
        identity: dict[str, Any],
        every: float,
        world: World,
        log: StageLog,
        progress: Progress,
    ) -> None:
        self._folder = None if run_dir is None else CheckpointFolder(run_dir, world.rank, world.size)
        self._identity, self._every = identity, every
        self._world, self._log, self._progress = world, log, progress
        self.results: dict[str, Any] = {}
        self.resumed = False
        self.repeated = (0.0, 0)
        self.stopped_at: dict[str, Any] | None = None
        self._last = self._marked = monotonic()
        self._read_seconds = 0.0
        self._complaint = ""

    def open(self, stream: PanelStream) -> None:
        """Take up what an earlier attempt has left."""
        self._stream = stream
        self.results = {}
        self._last = self._marked = monotonic()  # what it takes to begin again counts as work
        self._generation = 0  # stages that are complete
        self._found: Callable[[], dict[str, Any]] = dict
        self._tables: Mapping[str, RowTable] = {}  # that belong to what was found
        self._flushed: dict[str, int] = {}  # by row file: rows up to here are on the disk
        self._on_disk = False  # whether the state is
        self._worth_it = False  # whether one was written before
        self._carried = (0.0, 0)  # seconds and rows that killed attempts had passed since then
        self._unsafe = 0  # rows passed since the last checkpoint, in complete reads
        self._row = self._safe_row = stream.first_row
        if self._folder is None:
            return
        state = self._readable_state(self._folder)
        if state is None:
            if self._world.rank == 0:
                self._folder.remove()
            self._world.gather(None)  # nobody writes before what was there is gone
            return
        self.results, self._generation, self._on_disk = state["results"], state["generation"], True
        self._worth_it = True
        self._take_up(state)
        if self._world.rank == 0:
            self._folder.drop_other_parts()
        stages = state["stages"]
        self._log.resume(stages, state["seconds"])
        self._progress.note(f"going on from the checkpoint after {stages[-1]['name'] if stages else 'the beginning'}")

    def restore_rows(self, tables: Mapping[str, RowTable]) -> None:
        """Fill the tables of complete reads, which belong to ``results``, from their row files."""
        assert self._folder is not None
        for name, table in tables.items():
            stop = table.first_row + table.n_rows
            self._folder.read_rows(name, table, table.first_row, stop)
            self._flushed[name] = stop

    def begin_read(self, name: str, into: Accumulator, panel_rows: int) -> int:
        """The row at which a read begins: the first one, or where an earlier attempt left it, its sums put back."""
        stream = self._stream
        self._name, self._into, self._panel_rows = name, into, panel_rows
        self._began_read = monotonic()
        self._row = self._safe_row = self._begun_at = stream.first_row
        self._flushed |= dict.fromkeys(into.tables, self._row)
        part = self._readable_part(name, panel_rows)
        if part is None:
            return self._row
        into.load(part["sums"])
        self._take_up(part)
        self._log.resume(self._log.stages, part["seconds"])
        self._log.go_on(tuple(part["spent"]), stream)
        self._row = self._safe_row = self._begun_at = part["row"]
        self._flushed |= dict.fromkeys(into.tables, self._row)
        self._progress.note(f"{name}: going on at row {self._row:,} of {stream.store.n_rows:,}")
        return self._row

    def after_panel(self, row: int) -> None:
        """Rows up to ``row`` are done: the read is put on record where that is due, and left when the job is to stop.

        Raises
        ------
        StoppedEarly : it is to stop
        """
        self._row = row
        if self._world.stopping:
            self.stop()
        if self._folder is None:
            return
        now = monotonic()
        if now - self._last >= self._every:
            self._write_part(self._folder)
        elif now - self._marked >= _BETWEEN_MARKS:
            self._mark(self._folder, now)

    def stop(self) -> NoReturn:
        """Leave a read, with a checkpoint.

        Raises
        ------
        StoppedEarly : always
        """
        written = self._folder is not None and self._write_part(self._folder)
        self._stop(f"in {self._name} at row {self._row:,} of {self._stream.store.n_rows:,}", written, row=self._row)

    def stop_between(self, where: str) -> NoReturn:
        """Leave the job between two reads, where not all processes have come.

        Raises
        ------
        StoppedEarly : always
        """
        self._stop(f"at {where}", self._on_disk)

    def finish(
        self,
        found: Callable[[], dict[str, Any]],
        tables: Mapping[str, RowTable] | None = None,
        *,
        read: bool = True,
        last: bool = False,
    ) -> None:
        """A stage is complete; every process comes here.

        Parameters
        ----------
        found : the results of all complete stages, as plain values; asked when they are written
        tables : the kept numbers of every row that belong to them
        read : whether the stage was a read
        last : whether it was the last one; a job that was worth a checkpoint before is worth one now

        Raises
        ------
        StoppedEarly : the job is to stop
        """
        now = monotonic()
        if read:
            self._read_seconds = now - self._began_read
            self._unsafe += self._row - self._safe_row
            self._safe_row = self._row
        self._generation += 1
        self._found, self._tables, self._on_disk = found, tables or {}, False
        self._flushed = {name: row for name, row in self._flushed.items() if name in self._tables}
        # With other processes, what is not written now can be written after the next read only.
        coming = self._read_seconds if self._world.size > 1 and self._tables else 0.0
        spent = now - self._last
        due = spent >= min(self._every, _WORTH) or spent + coming > self._every or (last and self._worth_it)
        votes = self._world.gather((due, self._world.stopping))
        stopping = any(wish for _, wish in votes)
        written = self._folder is not None and (votes[0][0] or stopping) and self._write_state(self._folder)
        if stopping:
            self._stop(f"after {self._log.under_way or self._log.last}", written)

    def remove(self) -> None:
        """The job is done: nothing is left to go on from."""
        self.close()
        if self._folder is not None and self._world.rank == 0:
            self._folder.remove()

    def close(self) -> None:
        """The job ends, done or not."""
        if self._folder is not None:
            self._folder.close()

    def _take_up(self, found: dict[str, Any]) -> None:
        """Counters of a state or a part, and what was done after it before the process was killed."""
        assert self._folder is not None
        self.resumed = True
        self._stream.resume(**found["counters"])
        self._carried = self._folder.read_mark()
        self.repeated = (found["repeated"][0] + self._carried[0], found["repeated"][1] + self._carried[1])

    def _stop(self, where: str, written: bool, **place: Any) -> NoReturn:
        reason = preemption.asked() or "another process"
        self.stopped_at = {"where": where, "by": reason, "checkpoint": written, **place}
        if self._folder is None:
            raise StoppedEarly(f"stopped by {reason} {where}; without a run folder there is nothing to go on from")
        kept = "with a checkpoint" if written else "without a new checkpoint"
        raise StoppedEarly(f"stopped by {reason} {where}, {kept}: the same command goes on from there")

    def _readable_state(self, folder: CheckpointFolder) -> dict[str, Any] | None:
        """The state, if all processes can use it."""
        state, trouble = None, ""
        try:
            state = folder.read_state()
            if state is not None:
                trouble = self._unfit(state, folder)
        except Damaged as error:
            trouble = str(error)
        seen = self._world.gather((trouble, None if state is None or trouble else state["generation"]))
        trouble = next((one for one, _ in seen if one), "")
        if len({generation for _, generation in seen}) > 1:
            trouble = trouble or "not every process sees it"
        if trouble:
            self._progress.note(f"{folder.path} cannot be gone on from ({trouble}): begun anew")
        return None if trouble else state

    def _unfit(self, state: dict[str, Any], folder: CheckpointFolder) -> str:
        if state.get("format") != FORMAT:
            return f"its format is {state.get('format')}, this skillaxes reads {FORMAT}"
        differing = [name for name, value in self._identity.items() if state["identity"].get(name) != value]
        if differing:
            return f"it belongs to a job with another {', '.join(differing)}"
        n_rows = self._stream.store.n_rows
        short = [f"{name}.f32" for name, width in state["rows"].items() if not folder.holds_rows(name, width, n_rows)]
        return f"{', '.join(short)} missing or torn" if short else ""

    def _part_identity(self, name: str, panel_rows: int) -> dict[str, Any]:
        stream = self._stream
        return {
            "stage": name,
            "generation": self._generation,
            "first_row": stream.first_row,
            "last_row": stream.last_row,
            "panel_rows": panel_rows,
            "device": stream.device.type,
        }

    def _readable_part(self, name: str, panel_rows: int) -> dict[str, Any] | None:
        if self._folder is None or not self.resumed:
            return None
        try:
            part = self._folder.read_part()
            if part is None or part["identity"] != self._part_identity(name, panel_rows):
                return None
            for file, table in self._into.tables.items():
                self._folder.read_rows(file, table, table.first_row, part["row"])
        except Damaged as error:
            self._progress.note(f"{name}: its checkpoint is torn ({error}): this read is begun anew")
            return None
        return part

    def _mark(self, folder: CheckpointFolder, now: float) -> None:
        self._marked = now
        rows = self._carried[1] + self._unsafe + self._row - self._safe_row
        try:
            folder.write_mark(self._carried[0] + now - self._last, rows)
        except OSError as error:
            self._complain(error)

    def _write_part(self, folder: CheckpointFolder) -> bool:
        """Put this process's progress in a read on the disk; whether that is done."""
        try:
            if not self._on_disk and not self._write_state_alone(folder):
                return False
            sums = self._into.save()  # first: rows may be on their way to the tables until then
            self._flush(folder, self._into.tables, self._row)
            folder.write_part(
                {
                    "identity": self._part_identity(self._name, self._panel_rows),
                    "row": self._row,
                    "sums": sums,
                    "spent": self._log.spent(self._stream),
                    **self._totals(),
                }
            )
        except OSError as error:
            self._complain(error)
            return False
        self._written(folder)
        return True

    def _write_state_alone(self, folder: CheckpointFolder) -> bool:
        """Within a read nobody waits for anybody: the state can be written only where it needs no other's rows."""
        if self._world.size > 1 and self._tables:
            return False
        self._flush(folder, self._tables, self._stream.last_row)
        if self._world.rank == 0:
            self._put_state(folder, set(self._into.tables))
        self._on_disk = True
        return True

    def _write_state(self, folder: CheckpointFolder) -> bool:
        """Put the results on the disk, all processes together; whether that is done."""
        done = True
        try:
            self._flush(folder, self._tables, self._stream.last_row)
        except OSError as error:
            done = self._complain(error)
        if not all(self._world.gather(done)):
            return False
        try:
            if self._world.rank == 0:
                self._put_state(folder, set())
        except OSError as error:
            done = self._complain(error)
        if not all(self._world.gather(done)):
            return False
        self._on_disk = True
        self._written(folder)
        return True

    def _put_state(self, folder: CheckpointFolder, also: set[str]) -> None:
        folder.write_state(
            {
                "format": FORMAT,
                "identity": self._identity,
                "generation": self._generation,
                "results": self._found(),
                "rows": {name: table.width for name, table in self._tables.items()},
                "stages": self._log.stages,
                **self._totals(),
            }
        )
        folder.keep_rows(set(self._tables) | also)

    def _totals(self) -> dict[str, Any]:
        return {"seconds": self._log.seconds, "counters": self._stream.counters(), "repeated": self.repeated}

    def _flush(self, folder: CheckpointFolder, tables: Mapping[str, RowTable], stop: int) -> None:
        for name, table in tables.items():
            start = self._flushed.get(name, table.first_row)
            if start < stop:
                folder.write_rows(name, table, start, stop, self._stream.store.n_rows)
                self._flushed[name] = stop

    def _written(self, folder: CheckpointFolder) -> None:
        self._carried, self._unsafe, self._safe_row = (0.0, 0), 0, self._row
        self._worth_it = True
        self._last = monotonic()
        self._mark(folder, self._last)

    def _complain(self, error: OSError) -> bool:
        """A checkpoint that cannot be written is no reason to end the job; False."""
        self._last = monotonic()  # the next one is tried when it is due
        if str(error) != self._complaint:
            self._complaint = str(error)
            self._progress.note(f"no checkpoint could be written ({error}); the job goes on without a new one")
        return False
