#!/usr/bin/env python3
"""Joins what `gpu --json` and peers.py measured: a Markdown table of ratios and an SVG of bars.

    report.py FILE.json... [--markdown report.md] [--svg report.svg]

A ratio is the median time of another contestant over triscore's: above 1, triscore is faster. The standard library alone.
"""

import argparse
import json
from html import escape
from pathlib import Path

OURS = "triscore"
COLOURS = ("#2563a8", "#e08a1e", "#8a8a8a", "#5a9e6f", "#a8557a", "#6a5acd")


def key(case: dict) -> tuple:
    return case["network"], case["precision"], case["batch"]


def table(reports: list[dict], cases: list[dict]) -> str:
    """The report as Markdown."""
    others = list(dict.fromkeys(c["contestant"] for c in cases if c["contestant"] != OURS))
    by_key: dict[tuple, dict[str, dict]] = {}
    for case in cases:
        by_key.setdefault(key(case), {})[case["contestant"]] = case
    lines = ["# The GPU backend and others", ""]
    for report in reports:
        versions = ", ".join(f"{k} {v}" for k, v in report.get("versions", {}).items())
        emulated = " **emulated: figures of an emulation, they tell nothing of a GPU**" if report["device"]["emulated"] else ""
        quick = " (quick: small networks, few rounds)" if report.get("quick") else ""
        lines.append(f"- {report['program']}: {report['device']['shown']}{emulated}{quick}" + (f"; {versions}" if versions else ""))
    names = {report["device"]["name"] for report in reports if report["cases"]}
    if len(names) > 1:
        lines.append(f"- **Ratios across devices tell nothing**: {', '.join(sorted(names))}")
    lines += ["", "Medians of replays with resident inputs; ×: another's time over triscore's, above 1 triscore is faster.", ""]
    heads = ["network", "precision", "batch", "triscore ms", "rows/s", "roof", *(f"{o} ms (×)" for o in others)]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (network, precision, batch), found in by_key.items():
        ours = found.get(OURS)
        roof = ours and ours.get("share_of_roof")
        row = [network, precision, str(batch)]
        row += [f"{ours['median_ms']:.4f}", f"{ours['rate']:.0f}", f"{roof:.0%}" if roof else ""] if ours else ["", "", ""]
        for other in others:
            case = found.get(other)
            ratio = f" ({case['median_ms'] / ours['median_ms']:.2f} ×)" if case and ours and ours["median_ms"] > 0 else ""
            row.append(f"{case['median_ms']:.4f}{ratio}" if case else "")
        lines.append("| " + " | ".join(row) + " |")
    hosted = [c for c in cases if "whole" in c]
    if hosted:
        lines += ["", "Host to host: a run from pinned memory to pinned memory, its parts alone, and rows a second by callers of two lanes.", ""]
        lines += ["| network | precision | batch | whole ms | whole / parts | 1 caller | 2 callers | 4 callers |", "|" + "---|" * 8]
    for case in hosted:
        callers = [f"{case['rows_per_second_by_callers'].get(n, 0):.0f}" for n in ("1", "2", "4")]
        row = [*map(str, key(case)), f"{case['whole']['median_ms']:.4f}", f"{case['whole_by_parts'] or 0:.2f}", *callers]
        lines.append("| " + " | ".join(row) + " |")
    failed = [f for report in reports for f in report["failed"]]
    if failed:
        lines += ["", "Not measured:", ""]
    for what in failed:
        shown = " ".join(str(what[k]) for k in ("contestant", "network", "precision", "batch") if k in what)
        lines.append(f"- {shown}: {what['reason']}")
    return "\n".join(lines) + "\n"


def bars(cases: list[dict], is_emulated: bool) -> str:
    """Rows a second, a group of bars for each case, relative to the fastest of its group."""
    groups: dict[tuple, list[dict]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    contestants = list(dict.fromkeys(c["contestant"] for c in cases))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(contestants)}
    bar, gap, left, width = 14, 12, 190, 460
    parts, y = [], 30
    if is_emulated:
        parts.append(f'<text x="8" y="{y}" fill="#b00020">emulated: these figures tell nothing of a GPU</text>')
        y += 20
    x = 8
    for name in contestants:
        parts.append(f'<rect x="{x}" y="{y - 10}" width="10" height="10" fill="{colour[name]}"/><text x="{x + 14}" y="{y}">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    y += 24
    for (network, precision, batch), group in groups.items():
        fastest = max(c["rate"] for c in group) or 1.0
        middle = y + bar * len(group) / 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle:.0f}" text-anchor="end">{escape(network)} {precision}, {batch}</text>')
        for case in group:
            length = width * case["rate"] / fastest
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{colour[case["contestant"]]}"/>')
            parts.append(f'<text x="{left + length + 4:.1f}" y="{y + bar - 4}">{case["rate"]:.0f}/s</text>')
            y += bar
        y += gap
    right = max(left + width + 90, x)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{right}" height="{y}" font-family="sans-serif" font-size="11">'
    title = '<title>Rows a second, each group relative to its fastest</title><rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, title, *parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--svg", type=Path)
    arguments = parser.parse_args()
    there = [path for path in arguments.files if path.is_file()]
    for path in arguments.files:
        if path not in there:
            print(f"there is no {path}")
    if not there:
        raise SystemExit(69)
    reports = [json.loads(path.read_text()) for path in there]
    cases = [case for report in reports for case in report["cases"]]
    text = table(reports, cases)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    if arguments.svg:
        arguments.svg.write_text(bars(cases, any(r["device"]["emulated"] for r in reports)))


if __name__ == "__main__":
    main()
