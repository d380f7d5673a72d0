"""`make soak`: runs clients while everything around the gateway is killed, and reports each promise with numbers.

SOAK_SECONDS (300): the duration. SEED: of the random numbers. NUISANCES: those that run (crowding.py; default: all).
SOAK_SLACK (1): how many times longer calls may take than on an idle machine; above 1, percentiles are not judged.
The exit status is 0 only if every promise holds.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from tests.soak.crowding import chosen
from tests.soak.run import Report, soak
from tests.soak.verdict import Check

SHOWN = 5  # offences of each kind
STORY = 1500  # characters of each

console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)


def main() -> int:
    """Run, print the report, and clean up unless something failed."""
    raw = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser("python -m tests.soak", description=__doc__, formatter_class=raw).parse_args()
    seconds = float(os.environ.get("SOAK_SECONDS") or 300)
    seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(10**9))
    nuisances = [*chosen(os.environ.get("NUISANCES", ""))]
    slack = float(os.environ.get("SOAK_SLACK") or 1)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for the idle connections, here and in the gateway
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    console.print(f"soak: {seconds:g} s, SEED={seed}, in {folder}; beside: {', '.join(nuisances) or 'none'}")
    try:
        report = uvloop.run(soak(folder, seconds, seed, nuisances, slack))
        _print_counts(report)
        broken = [check for check in report.checks if not check.holds]
    except Exception:  # noqa: BLE001 - a run that cannot go on, most likely for want of a gateway, has failed too
        console.print_exception()
        broken = [Check("the run came to its end", "no", "yes", ["see above"])]
    if not broken:
        shutil.rmtree(folder)
        return 0
    for check in broken:
        console.print(f"\n{check.what}: {check.measured}, expected {check.bound}")
        for offence in check.offences[:SHOWN]:
            console.print(f"  {offence[:STORY]}", soft_wrap=True)
    console.print(f"\nFAILED with SEED={seed}; log, journals and history of harm are kept in {folder}")
    return 1


def _print_counts(report: Report) -> None:
    ledger = report.ledger
    services = sorted({service for service, _ in ledger.counts})
    table = Table("calls", *services, title="How calls ended")
    for how in sorted({how for _, how in ledger.counts}):
        table.add_row(how, *(str(ledger.counts[service, how]) for service in services))
    console.print(table)
    around = Table("around them", "times")
    harm = Counter(one.kind for one in ledger.disturbances)
    for what, times in (*sorted(harm.items()), *sorted(ledger.other.items())):
        around.add_row(what, str(times))
    around.add_row("replies that came too late", str(report.late_replies))
    console.print(around)
    clients = Table("client", "calls")
    for kind, calls in sorted(ledger.clients.items()):
        clients.add_row(kind, str(calls))
    console.print(clients)
    table = Table("what must hold", "measured", "expected", "", title="Verdict")
    for check in report.checks:
        table.add_row(check.what, check.measured, check.bound, "holds" if check.holds else "BROKEN")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
