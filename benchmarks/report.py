"""Helpers of all benchmarks: repeated timing, and figures as a Markdown table and as JSON."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def median_ms(call: Callable[[], object], repeat: int = 7, warm: int = 1) -> float:
    """Return the median duration of a call in milliseconds.

    Args:
        call: the function to measure.
        repeat: the number of measured calls.
        warm: the number of calls before them that are not measured.
    """
    for _ in range(warm):
        call()
    spent = []
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        spent.append((time.perf_counter() - started) * 1e3)
    return statistics.median(spent)


def report(title: str, rows: Sequence[Mapping[str, object]], **settings: object) -> None:
    """Print one line of JSON with everything, and the rows as a Markdown table.

    Args:
        title: what was measured.
        rows: the rows of the table; all have the keys of the first.
        settings: conditions of the measurement, such as sizes and thread counts.
    """
    machine = {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}
    print(json.dumps({"benchmark": title, "machine": machine, "settings": settings, "rows": rows}, default=str))
    print(f"\n{title} ({', '.join(f'{name} {value}' for name, value in settings.items())})\n")
    names = list(rows[0]) if rows else []
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(_shown(row[name]) for name in names)} |")


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
