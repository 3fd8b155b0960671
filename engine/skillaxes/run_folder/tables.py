"""Reading the tables of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skillaxes.errors import RunFolderError

if TYPE_CHECKING:
    import pyarrow as pa


def read_table(run_dir: Path, name: str) -> pa.Table:
    """One of the parquet files of a run folder.

    Raises
    ------
    RunFolderError : the file is not there or not whole
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(run_dir / name)
    except FileNotFoundError:
        raise RunFolderError(f"{run_dir} holds no {name}: run the job again with --overwrite") from None
    except (pa.ArrowException, OSError) as error:
        cause = " ".join(str(error).split())
        raise RunFolderError(f"{run_dir / name} cannot be read ({cause}): run the job again with --overwrite") from None
