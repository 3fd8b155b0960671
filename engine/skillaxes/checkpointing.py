"""When a job writes a checkpoint, and how it goes on from one.

Two kinds of it. After a stage, all processes together: what the complete stages have found, and the kept numbers of
every row. Within a read, each process alone and without waiting for another: its sums, and the row it has come to. A
part belongs to one state, by a number that both hold, so any mixture that a kill leaves behind is either a point from
which the same bits follow, or is passed over.

Nothing is written before it is due, so a job of a few seconds writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from skillaxes.checkpoint_pace import Pace
from skillaxes.checkpoint_records import Accumulator, Records
from skillaxes.cluster import preemption
from skillaxes.cluster.world import World
from skillaxes.errors import StoppedEarly
from skillaxes.progress import Progress
from skillaxes.run_folder.checkpoint import CheckpointFolder, RowTable
from skillaxes.stage_log import StageLog
from skillaxes.stream.panels import PanelStream


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
        self._identity, self._pace = identity, Pace(every)  # what it takes to begin again counts as work
        self._world, self._log, self._progress = world, log, progress
        self.results: dict[str, Any] = {}
        self.resumed, self.repeated = False, (0.0, 0)
        self.stopped_at: dict[str, Any] | None = None
        self._records: Records | None = None
        self._complaint = ""

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
            self._world.gather(None)  # nobody writes before what was there is gone
            return
        self.results, self._generation, self._on_disk = state["results"], state["generation"], True
        self._pace.worth_it = True
        self._take_up(state)
        if self._world.rank == 0:
            self._folder.drop_other_parts()
        stages = state["stages"]
        self._log.resume(stages, state["seconds"])
        self._progress.note(f"going on from the checkpoint after {stages[-1]['name'] if stages else 'the beginning'}")

    def restore_rows(self, tables: Mapping[str, RowTable]) -> None:
        """Fill the tables of complete reads, which belong to ``results``, from their row files."""
        assert self._records is not None
        self._records.restore(tables)

    def begin_read(self, name: str, into: Accumulator, panel_rows: int) -> int:
        """The row at which a read begins: the first one, or where an earlier attempt left it, its sums put back."""
        stream = self._stream
        self._name, self._into, self._panel_rows = name, into, panel_rows
        self._pace.begin_read()
        self._row = self._safe_row = stream.first_row
        if self._records is None:
            return self._row
        self._records.are_on_disk(into.tables, self._row)
        part = self._records.part(self._part_identity(), into.tables) if self.resumed else None
        if part is None:
            return self._row
        into.load(part["sums"])
        self._take_up(part)
        self._log.resume(self._log.stages, part["seconds"])
        self._log.go_on(tuple(part["spent"]), stream)
        self._row = self._safe_row = part["row"]
        self._records.are_on_disk(into.tables, self._row)
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
        if self._pace.after_panel():
            self._write_part(self._records)
        elif self._pace.mark_due():
            self._mark(self._records)

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
            self._pace.end_read()
            self._unsafe += self._row - self._safe_row
            self._safe_row = self._row
        self._generation += 1
        self._found, self._tables, self._on_disk = found, tables or {}, False
        if self._records is not None:
            self._records.keep_count_of(self._tables)
        due = self._pace.after_stage(last=last, then_locked=self._world.size > 1 and bool(self._tables))
        votes = self._world.gather((due, self._world.stopping))
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

    def _mark(self, records: Records) -> None:
        rows = self._carried[1] + self._unsafe + self._row - self._safe_row
        try:
            records.folder.write_mark(self._carried[0] + self._pace.since, rows)
        except OSError as error:
            self._complain(error)

    def _write_part(self, records: Records) -> bool:
        """Put this process's progress in a read on the disk; whether that is done."""
        began = monotonic()
        try:
            if not self._on_disk and not self._write_state_alone(records):
                return False
            sums = self._into.save()  # first: rows may be on their way to the tables until then
            records.flush(self._into.tables, self._row)
            place = {"identity": self._part_identity(), "row": self._row, "spent": self._log.spent(self._stream)}
            records.folder.write_part({**place, "sums": sums, **self._totals()})
        except OSError as error:
            self._complain(error)
            return False
        self._written(records, began)
        return True

    def _write_state_alone(self, records: Records) -> bool:
        """Within a read nobody waits for anybody: the state can be written only where it needs no other's rows."""
        if self._world.size > 1 and self._tables:
            return False
        self._flush_tables(records)
        self._put_state(records, self._into.tables)
        self._on_disk = True
        return True

    def _write_state(self, records: Records) -> bool:
        """Put the results on the disk, all processes together; whether that is done."""
        began, done = monotonic(), True
        for step in (self._flush_tables, self._put_state):
            try:
                step(records)
            except OSError as error:
                done = self._complain(error)
            if not all(self._world.gather(done)):
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
        self._pace.written(monotonic() - began)
        self._mark(records)

    def _complain(self, error: OSError) -> bool:
        """A checkpoint that cannot be written is no reason to end the job; False."""
        self._pace.tried()
        if str(error) != self._complaint:
            self._complaint = str(error)
            self._progress.note(f"no checkpoint could be written ({error}); the job goes on without a new one")
        return False
