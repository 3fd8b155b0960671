"""What of a checkpoint's files a process can use, and how sums and rows come to their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skillaxes.cluster.world import World
from skillaxes.progress import Progress
from skillaxes.run_folder.checkpoint import CheckpointFolder, Damaged, RowTable

FORMAT = 2


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
        seen = self._world.gather((trouble, None if state is None or trouble else state["generation"]))
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
