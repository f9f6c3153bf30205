"""What the person at the terminal reads: tables of a comparison's medians, and how many times better."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as their widest cell; the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]

    def line(cells: list[str]) -> str:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *map(line, rows)])


def ratio(values: list[float], reference: list[float], higher_is_better: bool) -> str:
    """How many times better the median is than the reference's; ~ where the rounds of both overlap, so that the
    difference may be chance."""
    if not values or not reference or not median(values) or not median(reference):
        return "-"
    times = median(values) / median(reference)
    overlap = min(values) <= max(reference) and min(reference) <= max(values)
    return ("~" if overlap else "") + f"{times if higher_is_better else 1 / times:.2f}x"


def load_rows(record: dict[str, Any], connections: list[int]) -> list[list[str]]:
    """The table of what the load measured: medians over the rounds, ratios to the first server."""
    servers = record["servers"]
    reference = next(iter(servers))

    def collect(name: str, count: int) -> Callable[[str], list[float]]:
        runs = [run for run in servers[name]["load"] if run["connections"] == count]
        return lambda key: [run[key] for run in runs if key in run]

    rows = []
    for count in connections:
        base = collect(reference, count)
        for name in servers:
            values = collect(name, count)
            rate, cpu = values("requests_per_second"), values("cpu_us_per_request")
            failed = sum(sum(values(key)) for key in ("non_2xx", "socket_errors", "timeouts"))
            rows.append(
                [
                    name,
                    str(count),
                    f"{median(rate):,.0f}",
                    f"{min(rate):,.0f}..{max(rate):,.0f}",
                    f"{median(values('p50_us')) / 1000:.3f}",
                    f"{median(values('p99_us')) / 1000:.3f}",
                    f"{median(cpu):,.1f}" if cpu else "-",
                    f"{failed:,.0f}",
                    "1" if name == reference else ratio(rate, base("requests_per_second"), True),
                    "1" if name == reference else ratio(values("p99_us"), base("p99_us"), False),
                    "1" if name == reference else ratio(cpu, base("cpu_us_per_request"), False),
                ]
            )
    return rows


def start_rows(record: dict[str, Any]) -> list[list[str]]:
    """The table of start-up times and memory."""
    rows = []
    for name, entry in record["servers"].items():
        starts = entry["starts"]
        idle, after = entry.get("memory_idle"), entry.get("memory_after")
        rows.append(
            [
                name,
                f"{median(starts):.2f}" if starts else "-",
                f"{min(starts):.2f}..{max(starts):.2f}" if starts else "-",
                f"{idle['rss_mib']:.0f} / {idle['pss_mib']:.0f}" if idle else "-",
                f"{after['rss_mib']:.0f} / {after['pss_mib']:.0f}" if after else "-",
                str(after["processes"]) if after else "-",
            ]
        )
    return rows


def report(record: dict[str, Any], connections: list[int]) -> str:
    """What the person at the terminal reads."""
    machine, settings = record["machine"], record["settings"]
    lines = [
        f"model     {record['model']}",
        f"machine   {machine['processor']}, {machine['cores']} cores, load average "
        f"{record['load_average_before']:.1f} before and {record['load_average_after']:.1f} after",
        f"load      {' '.join(record['wrk'].split()[:2])}, 1 thread, on the same cores; {settings['rounds']} rounds of "
        f"{settings['seconds']} s, medians",
        "",
        table(
            [
                "server",
                "conns",
                "req/s",
                "range",
                "p50 ms",
                "p99 ms",
                "CPU us/req",
                "failed",
                "req/s x",
                "p99 x",
                "CPU x",
            ],
            load_rows(record, connections),
        ),
        "",
        table(
            ["server", "start s", "range", "RSS/PSS MiB idle", "RSS/PSS MiB loaded", "processes"],
            start_rows(record),
        ),
    ]
    if len(record["servers"]) > 1:
        first = next(iter(record["servers"]))
        lines += ["", f"x: times better than {first}; ~: the rounds of both overlap, so the difference may be chance"]
    lines += [f"WARNING: {warning}" for warning in record["warnings"]]
    return "\n".join(lines)
