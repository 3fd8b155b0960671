"""``limits``: the job as a multiple of the floor that this machine's rates give, both measured in the same run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import launch
from bench.machine import QUANTILES, Rate, Speeds, stage_floors, totals
from bench.panels import warm
from bench.results import quantiles
from bench.suites.workspace import Options, Ran, Workspace, summary_of
from bench.synthetic import Recipe

PANELS = (128, 256, 512)


def run(
    options: Options,
    recipe: Recipe,
    memory: str | None = None,
    panels: Sequence[int] = PANELS,
    *,
    exact: bool = True,
    suite: str = "limits",
) -> list[dict[str, Any]]:
    """Run the job and measure the machine before, between and after; one line a rate and one for the job.

    Parameters
    ----------
    memory : ``--memory`` for the job
    panels : rows of the panels that products are measured on
    exact : judge the answer too; it costs some ten float64 reads of the store
    suite : name under which the lines are kept
    """
    case = {**recipe.as_dict(), "bytes": recipe.nbytes, "components": options.components, "top": options.top}
    if memory is not None:
        case["memory"] = memory
    with Workspace(options) as work:
        book = work.book(suite)
        store = work.store(recipe)
        first = _checked(work.discover(store, memory=memory))
        width = first.manifest["solver"].get("block_size") or options.components
        runs, rates = [], _rates(work, store, recipe, width, panels)
        for _ in range(options.repeat or 3):
            options.say("skillaxes discover ...")
            runs.append(_checked(work.discover(store, memory=memory)))
            rates += _rates(work, store, recipe, width, panels)
        lines = [
            book.append(rate.kind, case, {"form": rate.form, "per_second": _per_second(rate), "unit": rate.unit})
            for rate in _pooled(rates)
        ]
        # The middle run stands for all: stages of one run add up, medians over several would not.
        middle = sorted(runs, key=lambda ran: ran.manifest["seconds"])[(len(runs) - 1) // 2]
        values: dict[str, Any] = {
            "wall_seconds": quantiles([ran.measured.wall_seconds for ran in runs]),
            "engine_seconds_all": quantiles([ran.manifest["seconds"] for ran in runs]),
            "peak_memory_bytes": max(ran.measured.peak_memory_bytes for ran in runs),
            "bytes_read": max(middle.measured.bytes_read, middle.manifest["bytes_read"]),
            **summary_of(middle.manifest),
        }
        for quantile in QUANTILES:
            speeds = Speeds.of(rates, quantile)
            floors = stage_floors(middle.manifest, speeds)
            values[f"floor_{quantile}"] = {
                **totals(middle.manifest, middle.measured.wall_seconds, floors),
                "stages": [floor.as_dict() for floor in floors],
                "speeds": speeds.as_dict(),
            }
        if exact:
            reference = work.exact(store)
            case |= {"exact_method": reference.method, "exact_residual": float(reference.residuals.max())}
            verdicts = [work.judged(reference, ran) for ran in runs]
            values |= max(verdicts, key=lambda verdict: verdict["error"])
        for ran in (first, *runs):
            shutil.rmtree(ran.folder, ignore_errors=True)
        lines.append(book.append("job", case, values))
    floor = values["floor_median"]
    options.say(
        f"{values['engine_seconds']:.2f} s, floor {floor['floor']:.2f} s: {floor['engine_multiple']:.2f} times "
        f"(whole process {floor['wall_multiple']:.2f}), {values['peak_memory_bytes'] / 1e9:.2f} GB"
    )
    return lines


def _checked(ran: Ran) -> Ran:
    if ran.measured.status != launch.DONE:
        raise RuntimeError(f"skillaxes discover: {ran.measured.status}: {ran.measured.message.strip()[-800:]}")
    return ran


def _rates(work: Workspace, store: Path, recipe: Recipe, width: int, panels: Sequence[int]) -> list[Rate]:
    work.options.say("rates of this machine ...")
    warm(store)
    out = work.folder / "rates.json"
    work.work(
        "rates", str(store), "--out", str(out), "--columns", str(recipe.columns), "--width", str(width),
        "--dtype", recipe.dtype, "--panels", ",".join(map(str, panels)), *(["--quick"] if work.options.quick else []),
    )  # fmt: skip
    return [Rate.from_dict(values) for values in json.loads(out.read_text())]


def _pooled(rates: Sequence[Rate]) -> list[Rate]:
    pooled: dict[tuple[str, str], Rate] = {}
    for rate in rates:
        before = pooled.get((rate.kind, rate.form))
        seconds = rate.seconds if before is None else before.seconds + rate.seconds
        pooled[rate.kind, rate.form] = Rate(rate.kind, rate.form, rate.unit, rate.work, seconds)
    return list(pooled.values())


def _per_second(rate: Rate) -> dict[str, float]:
    return quantiles([rate.work / seconds for seconds in rate.seconds])
