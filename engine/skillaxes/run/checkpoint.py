"""Checkpoint and resume of a job.

After a stage all processes together write the state: the results of the complete stages and the tables of numbers of
every row. Within a read each process writes its part without waiting for another: its sums and its row. A part holds
the number of the state it belongs to. Files of a killed job that do not belong together are therefore ignored, and all
others lead to the same bits. Solvers and reads save and load themselves (:class:`skillaxes.pca.base.SolverState`,
:class:`skillaxes.pca.base.Reduction`).

A checkpoint is written when it is due, so that a job of a few seconds writes none.
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
_BETWEEN_PROGRESS = 0.25  # seconds between two writes of the progress file


class Checkpoint:
    """The checkpoint of one job, in one of its processes.

    Parameters
    ----------
    run_dir : the run folder; None for a job without one
    identity : the identity of the job, which a usable state has too
    every : seconds between checkpoints; 0 for one at every panel
    world, log, progress : processes, stages and progress of the job

    Attributes
    ----------
    results : results of the complete stages, as plain values; set by :meth:`open`
    resumed : whether the job is resumed from an earlier attempt
    repeated : seconds and rows of killed attempts after their last checkpoint
    stopped_at : stage, row and reason of a stop; None without one
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
        self._schedule = CheckpointSchedule(every)  # starts here: loading counts as work
        self._world, self._log, self._progress = world, log, progress
        self.results: dict[str, Any] = {}
        self.resumed, self.repeated = False, (0.0, 0)
        self.stopped_at: dict[str, Any] | None = None
        self._files: CheckpointFiles | None = None
        self._last_warning = ""

    def open(self, stream: PanelStream) -> None:
        """Load the state of an earlier attempt, if there is one."""
        self._stream = stream
        self.results = {}
        self._generation = 0  # complete stages
        self._found: Callable[[], dict[str, Any]] = dict
        self._tables: Mapping[str, RowTable] = {}  # tables of the complete stages
        self._on_disk = False  # whether the state of the complete stages is on the disk
        self._carried = (0.0, 0)  # seconds and rows of killed attempts since the checkpoint
        self._unsaved = 0  # rows of complete reads since the checkpoint
        self._row = self._saved_row = stream.first_row
        if self._folder is None:
            return
        self._files = CheckpointFiles(self._folder, self._identity, stream.store.n_rows, self._world, self._progress)
        state = self._files.load_state()
        if state is None:
            if self._world.rank == 0:
                self._folder.remove()
            self._world.all_gather_object(None)  # the old files are removed before any process writes
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
        """Read the tables of the complete stages from their row files.

        Raises
        ------
        Damaged : a file is missing or ends too early
        """
        assert self._files is not None
        self._files.load_rows(tables)

    def begin_read(self, name: str, read: Reduction, panel_rows: int) -> int:
        """The first row of a read: that of the process, or the row of an earlier attempt, with its sums restored."""
        stream = self._stream
        self._name, self._read, self._panel_rows = name, read, panel_rows
        tables = read.row_tables()
        self._schedule.begin_read()
        self._row = self._saved_row = stream.first_row
        if self._files is None:
            return self._row
        self._files.set_flushed(tables, self._row)
        part = self._files.load_part(self._part_identity(), tables) if self.resumed else None
        if part is None:
            return self._row
        read.load_state_dict(part["sums"])
        self._restore_counters(part)
        self._log.resume(self._log.stages, part["seconds"])
        self._log.go_on(tuple(part["spent"]), stream)
        self._row = self._saved_row = part["row"]
        self._files.set_flushed(tables, self._row)
        self._progress.note(f"{name}: going on at row {self._row:,} of {stream.store.n_rows:,}")
        return self._row

    def after_panel(self, row: int) -> None:
        """Write a part or the progress file if due, after the panel that ends before ``row``.

        Raises
        ------
        StoppedEarly : a stop was requested; a part is written first
        """
        self._row = row
        if self._world.stopping:
            self.stop()
        if self._files is None:
            return
        if self._schedule.after_panel():
            self._write_part(self._files)
        elif self._schedule.progress_due():
            self._note_progress(self._files)

    def stop(self) -> NoReturn:
        """Stop the job within a read, after writing a part.

        Raises
        ------
        StoppedEarly : always
        """
        written = self._files is not None and self._write_part(self._files)
        self._stop(f"in {self._name} at row {self._row:,} of {self._stream.store.n_rows:,}", written, row=self._row)

    def stop_between(self, where: str) -> NoReturn:
        """Stop the job between two reads, where not all processes have arrived.

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
        """End a stage, in all processes together; write the state if due.

        Parameters
        ----------
        found : returns the results of all complete stages, as plain values; called when they are written
        tables : the tables of numbers of every row that belong to them
        read : whether the stage was a read
        last : whether it was the last stage; if there is a checkpoint already, one is due

        Raises
        ------
        StoppedEarly : a stop was requested
        """
        if read:
            self._schedule.end_read()
            self._unsaved += self._row - self._saved_row
            self._saved_row = self._row
        self._generation += 1
        self._found, self._tables, self._on_disk = found, tables or {}, False
        if self._files is not None:
            self._files.forget_all_but(self._tables)
        due = self._schedule.after_stage(last=last, then_locked=self._world.world_size > 1 and bool(self._tables))
        votes = self._world.all_gather_object((due, self._world.stopping))
        stopping = any(wish for _, wish in votes)
        wanted = stopping or any(wish for wish, _ in votes)
        written = self._files is not None and wanted and self._write_state(self._files)
        if stopping:
            self._stop(f"after {self._log.under_way or self._log.last}", written)

    def remove(self) -> None:
        """Remove the checkpoint of a finished job."""
        self.close()
        if self._folder is not None and self._world.rank == 0:
            self._folder.remove()

    def close(self) -> None:
        """Close open files."""
        if self._folder is not None:
            self._folder.close()

    def _restore_counters(self, found: dict[str, Any]) -> None:
        """Restore the counters of a state or a part, and add the progress since then to ``repeated``."""
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

    def _note_progress(self, files: CheckpointFiles) -> None:
        rows = self._carried[1] + self._unsaved + self._row - self._saved_row
        try:
            files.folder.write_progress(self._carried[0] + self._schedule.since, rows)
        except OSError as error:
            self._warn_not_written(error)

    def _write_part(self, files: CheckpointFiles) -> bool:
        """Write the part of this process; whether it was written."""
        began = monotonic()
        try:
            if not self._on_disk and not self._write_state_alone(files):
                return False
            sums = self._read.state_dict()  # first: this brings pending rows to the tables
            files.flush(self._read.row_tables(), self._row)
            place = {"identity": self._part_identity(), "row": self._row, "spent": self._log.spent(self._stream)}
            files.folder.write_part({**place, "sums": sums, **self._totals()})
        except OSError as error:
            self._warn_not_written(error)
            return False
        self._written(files, began)
        return True

    def _write_state_alone(self, files: CheckpointFiles) -> bool:
        """Write the state within a read; False where it needs the rows of other processes, which would have to wait."""
        if self._world.world_size > 1 and self._tables:
            return False
        self._flush_tables(files)
        self._put_state(files, self._read.row_tables())
        self._on_disk = True
        return True

    def _write_state(self, files: CheckpointFiles) -> bool:
        """Write the state, all processes together; whether it was written."""
        began, done = monotonic(), True
        for step in (self._flush_tables, self._put_state):
            try:
                step(files)
            except OSError as error:
                done = self._warn_not_written(error)
            if not all(self._world.all_gather_object(done)):
                return False
        self._on_disk = True
        self._written(files, began)
        return True

    def _flush_tables(self, files: CheckpointFiles) -> None:
        files.flush(self._tables, self._stream.last_row)

    def _put_state(self, files: CheckpointFiles, also: Mapping[str, RowTable] | None = None) -> None:
        if self._world.rank == 0:
            state = {"generation": self._generation, "results": self._found(), "stages": self._log.stages}
            files.write_state(state | self._totals(), self._tables, also or {})

    def _totals(self) -> dict[str, Any]:
        return {"seconds": self._log.seconds, "counters": self._stream.counters(), "repeated": self.repeated}

    def _written(self, files: CheckpointFiles, began: float) -> None:
        self._carried, self._unsaved, self._saved_row = (0.0, 0), 0, self._row
        self._schedule.written(monotonic() - began)
        self._note_progress(files)

    def _warn_not_written(self, error: OSError) -> bool:
        """Report a checkpoint that could not be written, and go on without it; always False."""
        self._schedule.attempted()
        if str(error) != self._last_warning:
            self._last_warning = str(error)
            self._progress.note(f"no checkpoint could be written ({error}); the job goes on without a new one")
        return False


class CheckpointFiles:
    """State, part and row files of a job in one process: those it can use, and the rows that are on the disk.

    Parameters
    ----------
    folder : the folder of the files
    identity : the identity of the job, which a usable state has too
    n_rows : rows of the store
    world, progress : processes and progress of the job
    """

    def __init__(
        self, folder: CheckpointFolder, identity: dict[str, Any], n_rows: int, world: World, progress: Progress
    ) -> None:
        self.folder = folder
        self._identity, self._n_rows = identity, n_rows
        self._world, self._progress = world, progress
        self._flushed: dict[str, int] = {}  # by row file: rows up to this one are on the disk

    def load_state(self) -> dict[str, Any] | None:
        """The state; None without one that all processes can use."""
        state, problem = None, ""
        try:
            state = self.folder.read_state()
            if state is not None:
                problem = self._why_unusable(state)
        except Damaged as error:
            problem = str(error)
        found = self._world.all_gather_object((problem, None if state is None or problem else state["generation"]))
        problem = next((one for one, _ in found if one), "")
        if len({generation for _, generation in found}) > 1:
            problem = problem or "not every process sees it"
        if problem:
            self._progress.note(f"{self.folder.path} cannot be gone on from ({problem}): begun anew")
        return None if problem else state

    def load_part(self, identity: dict[str, Any], tables: Mapping[str, RowTable]) -> dict[str, Any] | None:
        """The part of a read by this process, with ``tables`` read up to its row; None without one of ``identity``."""
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

    def write_state(self, value: dict[str, Any], tables: Mapping[str, RowTable], also: Mapping[str, RowTable]) -> None:
        """Replace the state, and remove all row files but those of ``tables`` and ``also``.

        Parameters
        ----------
        tables : tables that belong to the state
        also : further tables, of the read under way

        Raises
        ------
        OSError : it cannot be written
        """
        widths = {name: table.width for name, table in tables.items()}
        self.folder.write_state({"format": FORMAT, "identity": self._identity, "rows": widths, **value})
        self.folder.keep_rows({*tables, *also})

    def load_rows(self, tables: Mapping[str, RowTable]) -> None:
        """Read all rows of ``tables``.

        Raises
        ------
        Damaged : a file is missing or ends too early
        """
        for name, table in tables.items():
            stop = table.first_row + table.n_rows
            self.folder.read_rows(name, table, table.first_row, stop)
            self._flushed[name] = stop

    def set_flushed(self, tables: Mapping[str, RowTable], stop: int) -> None:
        """Record that the files of ``tables`` hold the rows up to ``stop`` and no valid rows behind it."""
        self._flushed |= dict.fromkeys(tables, stop)

    def forget_all_but(self, tables: Mapping[str, RowTable]) -> None:
        """Record that no rows of other tables are on the disk."""
        self._flushed = {name: row for name, row in self._flushed.items() if name in tables}

    def flush(self, tables: Mapping[str, RowTable], stop: int) -> None:
        """Write the rows of ``tables`` up to ``stop`` that are not on the disk yet.

        Raises
        ------
        OSError : they cannot be written
        """
        for name, table in tables.items():
            start = self._flushed.get(name, table.first_row)
            if start < stop:
                self.folder.write_rows(name, table, start, stop, self._n_rows)
                self._flushed[name] = stop

    def _why_unusable(self, state: dict[str, Any]) -> str:
        """The reason why a state belongs to another job or lacks row files; empty for a usable one."""
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


class CheckpointSchedule:
    """The times of a job's checkpoints: each is due early enough to be on the disk when the interval ends.

    Parameters
    ----------
    every : seconds between checkpoints; 0 for one at every panel

    Attributes
    ----------
    has_written : whether this job or an earlier attempt has written one
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self.has_written = False
        self._last = self._noted = self._panel = self._began_read = monotonic()
        self._read_seconds = self._writing = 0.0

    @property
    def since(self) -> float:
        """Seconds since the last checkpoint; loading one counts as work."""
        return monotonic() - self._last

    def begin_read(self) -> None:
        """Start the clock of a read."""
        self._panel = self._began_read = monotonic()

    def end_read(self) -> None:
        """Stop the clock of a read."""
        self._read_seconds = monotonic() - self._began_read

    def after_panel(self) -> bool:
        """Whether one is due: writing it after one more panel would end after the interval, at the speed so far."""
        now = monotonic()
        took, self._panel = now - self._panel, now
        ahead = min(took + self._writing, self._every / 2)
        return now - self._last >= self._every - ahead

    def after_stage(self, *, last: bool, then_locked: bool) -> bool:
        """Whether one is due after a complete stage.

        Parameters
        ----------
        last : whether it was the last stage
        then_locked : whether the next chance comes after the next read only, which may take twice as long as the last
        """
        since = self.since
        coming = 2 * self._read_seconds if then_locked else 0.0
        return since >= min(self._every, _WORTH) or since + coming > self._every or (last and self.has_written)

    def progress_due(self) -> bool:
        """Whether the progress file is due; if so, the next one is due a quarter of a second later."""
        now = monotonic()
        if now - self._noted < _BETWEEN_PROGRESS:
            return False
        self._noted = now
        return True

    def written(self, seconds: float) -> None:
        """A checkpoint was written in ``seconds``."""
        self.has_written, self._writing = True, seconds
        self.attempted()

    def attempted(self) -> None:
        """A checkpoint was written, or failed: the next one is due after a whole interval."""
        self._last = self._noted = self._panel = monotonic()
