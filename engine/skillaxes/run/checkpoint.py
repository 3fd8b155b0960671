"""Checkpoint and resume of a job.

After a stage all processes together write the state: the results of the complete stages and the kept numbers of every
row. Within a read each process writes its part alone, without waiting for another: its sums, and the row it has come
to. A part belongs to one state, by a number that both hold, so any mixture that a kill leaves behind is either a point
from which the same bits follow, or is passed over. Solvers and reads save and load themselves
(:class:`skillaxes.pca.base.SolverState`, :class:`skillaxes.pca.base.Reduction`).

Nothing is written before it is due, so a job of a few seconds writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from skillaxes.cluster import signals
from skillaxes.cluster.world import World
from skillaxes.errors import StoppedEarly
from skillaxes.progress import Progress
from skillaxes.run.stage_log import StageLog
from skillaxes.run_folder.checkpoint import CheckpointFolder, Damaged, RowTable
from skillaxes.stream.panels import PanelStream

if TYPE_CHECKING:
    from skillaxes.pca.base import Reduction

FORMAT = 3  # of the state and of the parts
_WORTH = 5.0  # seconds of complete stages that are worth a checkpoint
_BETWEEN_PROGRESS = 0.25  # seconds


class CheckpointSchedule:
    """The clock of a job's checkpoints: one is due so early that it lies on the disk before the interval is over.

    Parameters
    ----------
    every : seconds between checkpoints; 0 for one at every panel

    Attributes
    ----------
    has_written : whether one was written before; a job of a few seconds writes none
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self.has_written = False
        self._last = self._noted = self._panel = self._began_read = monotonic()
        self._read_seconds = self._writing = 0.0

    @property
    def since(self) -> float:
        """Seconds since the last checkpoint; loading it counts as work."""
        return monotonic() - self._last

    def begin_read(self) -> None:
        """A read begins."""
        self._panel = self._began_read = monotonic()

    def end_read(self) -> None:
        """A read is complete."""
        self._read_seconds = monotonic() - self._began_read

    def after_panel(self) -> bool:
        """Whether one is due: the next panel and the writing, if they take as long as before, end with the interval."""
        now = monotonic()
        took, self._panel = now - self._panel, now
        ahead = min(took + self._writing, self._every / 2)
        return now - self._last >= self._every - ahead

    def after_stage(self, *, last: bool, then_locked: bool) -> bool:
        """Whether one is due after a complete stage.

        Parameters
        ----------
        last : it was the last one
        then_locked : what is not written now can be written after the next read only, which may take twice as long as
            the one before
        """
        since = self.since
        coming = 2 * self._read_seconds if then_locked else 0.0
        return since >= min(self._every, _WORTH) or since + coming > self._every or (last and self.has_written)

    def progress_due(self) -> bool:
        """Whether it is time to note how far the work has come since the last checkpoint."""
        now = monotonic()
        if now - self._noted < _BETWEEN_PROGRESS:
            return False
        self._noted = now
        return True

    def written(self, seconds: float) -> None:
        """One was written, which took that long."""
        self.has_written, self._writing = True, seconds
        self.attempted()

    def attempted(self) -> None:
        """One is written, or could not be: the next one is tried when it is due."""
        self._last = self._noted = self._panel = monotonic()


class Records:
    """The files of one job's checkpoint, as one of its processes reads and fills them.

    Parameters
    ----------
    folder : where they lie
    identity : what the state must agree with
    n_rows : of the store
    world, progress : of the job
    """

    def __init__(
        self, folder: CheckpointFolder, identity: dict[str, Any], n_rows: int, world: World, progress: Progress
    ) -> None:
        self.folder = folder
        self._identity, self._n_rows = identity, n_rows
        self._world, self._progress = world, progress
        self._flushed: dict[str, int] = {}  # by row file: rows up to here are on the disk

    def state(self) -> dict[str, Any] | None:
        """The state, if all processes can use it."""
        state, trouble = None, ""
        try:
            state = self.folder.read_state()
            if state is not None:
                trouble = self._unfit(state)
        except Damaged as error:
            trouble = str(error)
        seen = self._world.all_gather_object((trouble, None if state is None or trouble else state["generation"]))
        trouble = next((one for one, _ in seen if one), "")
        if len({generation for _, generation in seen}) > 1:
            trouble = trouble or "not every process sees it"
        if trouble:
            self._progress.note(f"{self.folder.path} cannot be gone on from ({trouble}): begun anew")
        return None if trouble else state

    def part(self, identity: dict[str, Any], tables: Mapping[str, RowTable]) -> dict[str, Any] | None:
        """What this process has left of a read, if it is of that identity; ``tables`` are filled up to its row."""
        try:
            part = self.folder.read_part()
            if part is None or part["identity"] != identity:
                return None
            for name, table in tables.items():
                self.folder.read_rows(name, table, table.first_row, part["row"])
        except Damaged as error:
            self._progress.note(f"{identity['stage']}: its checkpoint is torn ({error}): this read is begun anew")
            return None
        return part

    def put_state(self, value: dict[str, Any], tables: Mapping[str, RowTable], also: Mapping[str, RowTable]) -> None:
        """Replace the state; row files that are neither in ``tables``, which belong to it, nor in ``also`` go.

        Raises
        ------
        OSError : it could not be written
        """
        widths = {name: table.width for name, table in tables.items()}
        self.folder.write_state({"format": FORMAT, "identity": self._identity, "rows": widths, **value})
        self.folder.keep_rows({*tables, *also})

    def restore(self, tables: Mapping[str, RowTable]) -> None:
        """Fill tables from their files.

        Raises
        ------
        Damaged : a file is missing or ends too early
        """
        for name, table in tables.items():
            stop = table.first_row + table.n_rows
            self.folder.read_rows(name, table, table.first_row, stop)
            self._flushed[name] = stop

    def are_on_disk(self, tables: Mapping[str, RowTable], stop: int) -> None:
        """The files of ``tables`` hold their rows up to ``stop``, and what they hold behind it counts for nothing."""
        self._flushed |= dict.fromkeys(tables, stop)

    def keep_count_of(self, tables: Mapping[str, RowTable]) -> None:
        """Other files will be begun again."""
        self._flushed = {name: row for name, row in self._flushed.items() if name in tables}

    def flush(self, tables: Mapping[str, RowTable], stop: int) -> None:
        """Put the rows of ``tables`` up to ``stop`` on the disk, those that are not there yet.

        Raises
        ------
        OSError : they could not be written
        """
        for name, table in tables.items():
            start = self._flushed.get(name, table.first_row)
            if start < stop:
                self.folder.write_rows(name, table, start, stop, self._n_rows)
                self._flushed[name] = stop

    def _unfit(self, state: dict[str, Any]) -> str:
        if state.get("format") != FORMAT:
            return f"its format is {state.get('format')}, this skillaxes reads {FORMAT}"
        differing = [name for name, value in self._identity.items() if state["identity"].get(name) != value]
        if differing:
            return f"it belongs to a job with another {', '.join(differing)}"
        short = [
            f"{name}.f32"
            for name, width in state["rows"].items()
            if not self.folder.holds_rows(name, width, self._n_rows)
        ]
        return f"{', '.join(short)} missing or torn" if short else ""


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
        self._folder = None if run_dir is None else CheckpointFolder(run_dir, world.rank, world.world_size)
        self._identity = identity
        self._schedule = CheckpointSchedule(every)  # what it takes to begin again counts as work
        self._world, self._log, self._progress = world, log, progress
        self.results: dict[str, Any] = {}
        self.resumed, self.repeated = False, (0.0, 0)
        self.stopped_at: dict[str, Any] | None = None
        self._records: Records | None = None
        self._last_warning = ""

    def open(self, stream: PanelStream) -> None:
        """Take up what an earlier attempt has left."""
        self._stream = stream
        self.results = {}
        self._generation = 0  # stages that are complete
        self._found: Callable[[], dict[str, Any]] = dict
        self._tables: Mapping[str, RowTable] = {}  # that belong to what was found
        self._on_disk = False  # whether the state is
        self._carried = (0.0, 0)  # seconds and rows that killed attempts had passed since then
        self._unsafe = 0  # rows passed since the last checkpoint, in complete reads
        self._row = self._safe_row = stream.first_row
        if self._folder is None:
            return
        self._records = Records(self._folder, self._identity, stream.store.n_rows, self._world, self._progress)
        state = self._records.state()
        if state is None:
            if self._world.rank == 0:
                self._folder.remove()
            self._world.all_gather_object(None)  # nobody writes before what was there is gone
            return
        self.results, self._generation, self._on_disk = state["results"], state["generation"], True
        self._schedule.has_written = True
        self._restore_counters(state)
        if self._world.rank == 0:
            self._folder.drop_other_parts()
        stages = state["stages"]
        self._log.resume(stages, state["seconds"])
        self._progress.note(f"going on from the checkpoint after {stages[-1]['name'] if stages else 'the beginning'}")

    def restore_rows(self, tables: Mapping[str, RowTable]) -> None:
        """Fill the tables of complete reads, which belong to ``results``, from their row files."""
        assert self._records is not None
        self._records.restore(tables)

    def begin_read(self, name: str, read: Reduction, panel_rows: int) -> int:
        """The row at which a read begins: the first one, or where an earlier attempt left it, its sums put back."""
        stream = self._stream
        self._name, self._read, self._panel_rows = name, read, panel_rows
        tables = read.row_tables()
        self._schedule.begin_read()
        self._row = self._safe_row = stream.first_row
        if self._records is None:
            return self._row
        self._records.are_on_disk(tables, self._row)
        part = self._records.part(self._part_identity(), tables) if self.resumed else None
        if part is None:
            return self._row
        read.load_state_dict(part["sums"])
        self._restore_counters(part)
        self._log.resume(self._log.stages, part["seconds"])
        self._log.go_on(tuple(part["spent"]), stream)
        self._row = self._safe_row = part["row"]
        self._records.are_on_disk(tables, self._row)
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
        if self._records is None:
            return
        if self._schedule.after_panel():
            self._write_part(self._records)
        elif self._schedule.progress_due():
            self._note_progress(self._records)

    def stop(self) -> NoReturn:
        """Leave a read, with a checkpoint.

        Raises
        ------
        StoppedEarly : always
        """
        written = self._records is not None and self._write_part(self._records)
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
        if read:
            self._schedule.end_read()
            self._unsafe += self._row - self._safe_row
            self._safe_row = self._row
        self._generation += 1
        self._found, self._tables, self._on_disk = found, tables or {}, False
        if self._records is not None:
            self._records.keep_count_of(self._tables)
        due = self._schedule.after_stage(last=last, then_locked=self._world.world_size > 1 and bool(self._tables))
        votes = self._world.all_gather_object((due, self._world.stopping))
        stopping = any(wish for _, wish in votes)
        wanted = stopping or any(wish for wish, _ in votes)
        written = self._records is not None and wanted and self._write_state(self._records)
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

    def _restore_counters(self, found: dict[str, Any]) -> None:
        """Counters of a state or a part, and what was done after it before the process was killed."""
        assert self._folder is not None
        self.resumed = True
        self._stream.resume(**found["counters"])
        self._carried = self._folder.read_progress()
        self.repeated = (found["repeated"][0] + self._carried[0], found["repeated"][1] + self._carried[1])

    def _stop(self, where: str, written: bool, **place: Any) -> NoReturn:
        reason = signals.stop_reason() or "another process"
        self.stopped_at = {"where": where, "by": reason, "checkpoint": written, **place}
        if self._folder is None:
            raise StoppedEarly(f"stopped by {reason} {where}; without a run folder there is nothing to go on from")
        kept = "with a checkpoint" if written else "without a new checkpoint"
        raise StoppedEarly(f"stopped by {reason} {where}, {kept}: the same command goes on from there")

    def _part_identity(self) -> dict[str, Any]:
        stream = self._stream
        return {
            "stage": self._name,
            "generation": self._generation,
            "first_row": stream.first_row,
            "last_row": stream.last_row,
            "panel_rows": self._panel_rows,
            "device": stream.device.type,
        }

    def _note_progress(self, records: Records) -> None:
        rows = self._carried[1] + self._unsafe + self._row - self._safe_row
        try:
            records.folder.write_progress(self._carried[0] + self._schedule.since, rows)
        except OSError as error:
            self._warn_not_written(error)

    def _write_part(self, records: Records) -> bool:
        """Put this process's progress in a read on the disk; whether that is done."""
        began = monotonic()
        try:
            if not self._on_disk and not self._write_state_alone(records):
                return False
            sums = self._read.state_dict()  # first: rows may be on their way to the tables until then
            records.flush(self._read.row_tables(), self._row)
            place = {"identity": self._part_identity(), "row": self._row, "spent": self._log.spent(self._stream)}
            records.folder.write_part({**place, "sums": sums, **self._totals()})
        except OSError as error:
            self._warn_not_written(error)
            return False
        self._written(records, began)
        return True

    def _write_state_alone(self, records: Records) -> bool:
        """Within a read nobody waits for anybody: the state can be written only where it needs no other's rows."""
        if self._world.world_size > 1 and self._tables:
            return False
        self._flush_tables(records)
        self._put_state(records, self._read.row_tables())
        self._on_disk = True
        return True

    def _write_state(self, records: Records) -> bool:
        """Put the results on the disk, all processes together; whether that is done."""
        began, done = monotonic(), True
        for step in (self._flush_tables, self._put_state):
            try:
                step(records)
            except OSError as error:
                done = self._warn_not_written(error)
            if not all(self._world.all_gather_object(done)):
                return False
        self._on_disk = True
        self._written(records, began)
        return True

    def _flush_tables(self, records: Records) -> None:
        records.flush(self._tables, self._stream.last_row)

    def _put_state(self, records: Records, also: Mapping[str, RowTable] | None = None) -> None:
        if self._world.rank == 0:
            found = {"generation": self._generation, "results": self._found(), "stages": self._log.stages}
            records.put_state(found | self._totals(), self._tables, also or {})

    def _totals(self) -> dict[str, Any]:
        return {"seconds": self._log.seconds, "counters": self._stream.counters(), "repeated": self.repeated}

    def _written(self, records: Records, began: float) -> None:
        self._carried, self._unsafe, self._safe_row = (0.0, 0), 0, self._row
        self._schedule.written(monotonic() - began)
        self._note_progress(records)

    def _warn_not_written(self, error: OSError) -> bool:
        """A checkpoint that cannot be written is no reason to end the job; False."""
        self._schedule.attempted()
        if str(error) != self._last_warning:
            self._last_warning = str(error)
            self._progress.note(f"no checkpoint could be written ({error}); the job goes on without a new one")
        return False
