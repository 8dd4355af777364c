"""`python -m benchmarks [name…]`: runs benches and prints what they found."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module

from benchmarks.options import Options
from benchmarks.processes import load_average
from benchmarks.report import Report, text

BENCHES = ("fqdn", "invoke", "control", "coldstart", "scale", "idle")


def main() -> None:
    """Run what was asked for, one after the other; a bench that fails does not end the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--rounds", type=int, default=Options().rounds)
    parser.add_argument("--secs", type=float, default=Options().secs, help="one round of one side")
    parser.add_argument("--apps", type=int, default=Options().apps, help="sleeping apps")
    parser.add_argument(
        "--burst", type=int, default=Options().burst, help="apps that start at once"
    )
    parser.add_argument("--connections", type=int, default=Options().connections)
    parser.add_argument("--generator", choices=("auto", "own"), default="auto")
    given = vars(parser.parse_args())
    names, as_json = given.pop("names") or list(BENCHES), given.pop("json")
    unknown = sorted(set(names) - set(BENCHES))
    if unknown:
        parser.error(f"no bench named {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    options = replace(Options(), **given)
    # An end from outside unwinds as Ctrl-C does: servers stop, folders go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    reports: list[Report] = []
    failed: list[str] = []
    for name in names:
        try:
            report = _timed(import_module(f"benchmarks.{name}").run, options)
        except Exception as error:  # noqa: BLE001 - the other benches still say something
            failed.append(name)
            print(f"== {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        reports.append(report)
        if not as_json:
            print(text(report), flush=True)
    if as_json:
        print(json.dumps([_plain(report) for report in reports], indent=2))
    sys.exit(1 if failed else 0)


def _timed(run: Callable[[Options], Report], options: Options) -> Report:
    before, began = load_average(), time.monotonic()
    report = run(options)
    report.load_average = (before, load_average())
    report.secs = time.monotonic() - began
    return report


def _plain(report: Report) -> dict[str, object]:
    found = asdict(report)
    for row, ratio in zip(found["ratios"], report.ratios, strict=True):
        row["ratio"] = ratio.ratio
    return found


if __name__ == "__main__":
    main()
