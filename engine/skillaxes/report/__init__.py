"""A run folder as one page to look at. Knows the run folder's file formats and nothing else."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run folder: self-contained, no script, nothing from elsewhere.

    Parameters
    ----------
    run_dir : a finished run; its labels are shown where there are any

    Returns
    -------
    The path of the page.

    Raises
    ------
    RunFolderError : no run folder, an unfinished or damaged one
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from skillaxes.files import atomic_write
    from skillaxes.report.filters import FILTERS, clean
    from skillaxes.report.view import make_page
    from skillaxes.run_folder.contents import read_contents
    from skillaxes.run_folder.schema import REPORT

    page = make_page(read_contents(run_dir))
    environment = Environment(
        loader=PackageLoader("skillaxes.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    html = clean(environment.get_template("page.html.j2").render(page=page))
    path = Path(run_dir) / REPORT
    with atomic_write(path) as aside:
        aside.write_text(html, encoding="utf-8")
    return path
