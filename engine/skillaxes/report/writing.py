"""``report.html``."""

from __future__ import annotations

from pathlib import Path

from skillaxes.files import atomic_write
from skillaxes.report.contents import read_contents
from skillaxes.report.page import render
from skillaxes.run_folder.schema import REPORT


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run folder: self-contained, no script, nothing from elsewhere.

    Parameters
    ----------
    run_dir : a finished run; labels are shown where they are

    Returns
    -------
    The path of the page.

    Raises
    ------
    RunFolderError : no run folder, an unfinished or damaged one
    """
    page = render(read_contents(Path(run_dir)))
    path = Path(run_dir) / REPORT
    with atomic_write(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path
