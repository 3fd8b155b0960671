"""Results as Markdown tables, each with its machine and its commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.peers import PEERS
from bench.sizes import gigabytes

Line = dict[str, Any]


def render(lines: Sequence[Line]) -> str:
    """Tables of all suites and runs in ``lines``, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["suite"], line["run"]), []).append(line)
    parts = []
    for (suite, _), group in groups.items():
        parts.append(f"### {suite}\n\n{_RENDERERS[suite](group)}\n\n{origin(group[-1])}")
    return "\n\n".join(parts) + "\n"


def origin(line: Line) -> str:
    """Machine, threads, versions, commit and command of a line, as one sentence."""
    machine, versions = line["machine"], line["versions"]
    hardware = machine["gpu"] or machine["cpu"]
    cores = f"{machine['cores']} cores, {line['threads']} threads, {gigabytes(machine['memory_bytes'])} of memory"
    named = [name for name in ("python", "torch", "numpy", "zarr") if name in versions]
    libraries = ", ".join(f"{name} {versions[name]}" for name in named)
    commit = line["commit"][:12] + (" with uncommitted changes" if line["dirty"] else "")
    return f"{hardware}, {cores}; {libraries}; commit {commit}, {line['time'][:10]}; `{line['command']}`"


def matrix(case: dict[str, Any]) -> str:
    """The matrix of a case in words."""
    shape = f"{case['rows']:,} x {case['columns']:,} {case['dtype']}"
    text = f"{shape} ({gigabytes(case['bytes'])}), {case['spectrum']} spectrum"
    if case.get("memory"):
        text += f", --memory {case['memory']}"
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _peers(lines: Sequence[Line]) -> str:
    names = {peer.name: peer.what for peer in PEERS}
    case = lines[0]["case"]
    rows = []
    ratios: dict[str, Any] = {}
    for line in lines:
        values = line["values"]
        if line["measurement"] == "ratios":
            ratios = values
            continue
        row = [names[line["measurement"]]]
        if values["status"] != "done":
            peak = gigabytes(values["peak_memory_bytes"])
            rows.append(
                [*row, f"**{values['status']}** after {_seconds(values['wall_seconds']['p50'])}", "", peak, "", "", ""]
            )
            continue
        after = values.get("after_imports_seconds")
        rows.append([
            *row, _seconds(values["wall_seconds"]["p50"]), _seconds(after["p50"]) if after else "",
            gigabytes(values["peak_memory_bytes"]), gigabytes(values["bytes_read"]), f"{values['error']:.0e}",
            f"{values['exact_lists']} of {values['lists']}",
        ])  # fmt: skip
    head = ["who", "seconds", "after imports", "peak memory", "read", "error", "exact lists"]
    text = f"{matrix(case)}; {case['components']} directions, top {case['top']} of both sides, from files to rows.\n\n"
    text += _table(head, rows)
    if ratios:
        said = []
        for name, ratio in ratios.items():
            inside = f", {ratio['after_imports']:.1f} after imports" if "after_imports" in ratio else ""
            share = f"{100 * ratio['memory_share']:.0f}% of its memory"
            said.append(f"{name}: {ratio['whole_process']:.1f} times faster{inside}, {share}")
        text += "\n\nOurs against " + "; ".join(said) + "."
    return text


def _limits(lines: Sequence[Line]) -> str:
    job = next(line for line in lines if line["measurement"] == "job")
    values, case = job["values"], job["case"]
    floor = values["floor_median"]
    rows = []
    for stage in floor["stages"]:
        parts = ", ".join(f"{kind} {_seconds(seconds)}" for kind, seconds in stage["parts"].items())
        multiple = "" if stage["multiple"] is None else f"{stage['multiple']:.2f}"
        rows.append([stage["name"], _seconds(stage["seconds"]), _seconds(stage["floor"]), multiple, parts])
    for name, key in (("engine", "engine"), ("whole process", "wall")):
        took, multiple = floor[f"{key}_seconds"], floor[f"{key}_multiple"]
        rows.append([f"**{name}**", _seconds(took), _seconds(floor["floor"]), f"{multiple:.2f}", ""])
    text = f"{matrix(case)}; {gigabytes(values['peak_memory_bytes'])} peak memory, {values['reads']:.2f} reads"
    if "error" in values:
        text += f", error {values['error']:.0e}, {values['exact_lists']} of {values['lists']} lists exact"
    text += ".\n\n" + _table(["stage", "seconds", "floor", "times", "floor's parts"], rows)
    speeds = ", ".join(f"{name} {value:.1f}" for name, value in floor["speeds"].items() if value)
    return f"{text}\n\nThe machine in the same run: {speeds}."


def _scaling(lines: Sequence[Line]) -> str:
    ratios = {line["case"]["axis"]: line["values"] for line in lines if line["measurement"] == "ratios"}
    rows = []
    for line in lines:
        if line["measurement"] != "job":
            continue
        case, values = line["case"], line["values"]
        ratio = ratios[case["axis"]][str(case["factor"])]
        rows.append([
            f"{case['axis']} x {case['factor']}", f"{case['rows']:,} x {case['columns']:,}", gigabytes(case["bytes"]),
            _seconds(values["engine_seconds_all"]["p50"]), _seconds(values["wall_seconds"]["p50"]),
            f"{values['engine_seconds_per_gigabyte']:.2f}", f"{ratio['engine']:.2f} ({ratio['wall']:.2f})",
            gigabytes(values["peak_memory_bytes"]), f"{values['reads']:.2f}",
        ])  # fmt: skip
    head = ["axis", "matrix", "bytes", "engine s", "process s", "s/GB", "times the first", "peak memory", "reads"]
    return _table(head, rows)


def _solvers(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        case, values = line["case"], line["values"]
        row = [case["spectrum"], case["solver"], str(case["max_reads"])]
        if values["status"] != "done":
            rows.append([*row, "", values["status"], "", "", ""])
            continue
        rows.append([
            *row, f"{values['reads']:.2f}", f"{values['error']:.0e}", f"{values['exact_lists']} of {values['lists']}",
            f"{1 - values['captured']:.0e}", _seconds(values["wall_seconds"]),
        ])  # fmt: skip
    head = ["spectrum", "solver", "most reads", "reads", "error", "exact lists", "variance missed", "process s"]
    return _table(head, rows)


def _kills(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        case, values = line["case"], line["values"]
        every, differing = f"{case['interval']:g} s", ", ".join(values["differing"]) or "none"
        for command, repeated in values["repeated_seconds"].items():
            again = [f"{_seconds(repeated[name])} s" for name in ("p50", "max")]
            rows.append([command, str(case["processes"]), str(repeated["n"]), every, *again, differing])
        early = values["kills"] - sum(repeated["n"] for repeated in values["repeated_seconds"].values())
        if early:
            rows.append(["before any work", str(case["processes"]), str(early), every, "", "", differing])
    head = ["command", "processes", "kills", "checkpoint every", "done again, median", "at most", "files that differ"]
    return f"{matrix(lines[0]['case'])}\n\n{_table(head, rows)}"


_RENDERERS: dict[str, Callable[[Sequence[Line]], str]] = {
    "peers": _peers,
    "limits": _limits,
    "million": _limits,
    "scaling": _scaling,
    "solvers": _solvers,
    "kills": _kills,
}
