"""The pages: each gathers what it shows from the same operations as the commands, and renders a template.

Templates escape every value (jinja2, autoescape). A plot is an inline SVG of a fixed size.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.admin import api
from gateway.admin.handlers import Operations
from gateway.admin.service import AdminService
from gateway.admin.traffic import Traffic, callers
from gateway.admin.web.sessions import Session
from gateway.core.admin import counters
from gateway.core.admin.records import Counts, MethodId, StateRefused
from gateway.core.admin.views import MethodRow, numbers_in_words
from gateway.core.migration.modes import Mode
from gateway.core.migration.rollout_plan import COMMANDS, Command, RolloutState
from gateway.core.migration.statistics import BOUNDS, BUCKETS

SAMPLES = 120  # of the number of calls, for the plot of the overview
MIN_INTERVAL = 1.0  # seconds between two of them
ROWS = 200  # methods on one page
ENTRIES = 100  # of the audit
MISMATCHES = 10  # of one method
CALLERS = 500
BARS = 40  # of a latency histogram

# Name in the query -> what the methods are sorted by.
SORTS: Mapping[str, Callable[[MethodRow], Any]] = {
    "method": lambda row: (row.service, row.method),
    "mode": lambda row: row.mode,
    "calls": lambda row: -(row.legacy.calls + row.dbus.calls),
    "equal": lambda row: 2.0 if row.equal_share is None else row.equal_share,
    "errors": lambda row: -max(row.legacy.error_rate or 0, row.dbus.error_rate or 0),
    "p99": lambda row: -max(row.legacy.p99 or 0, row.dbus.p99 or 0),
    "assessment": lambda row: row.verdict,
}


class Page(NamedTuple):
    """What a page shows: the name of its template, its title, and the values in it."""

    template: str
    title: str
    values: Mapping[str, Any]


class Pages:
    """Gathers each page of a request, and renders it."""

    def __init__(self, operations: Operations, service: AdminService, traffic: Traffic) -> None:
        self._operations = operations
        self._service = service
        self._traffic = traffic
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=SAMPLES)
        loader = PackageLoader("gateway.admin.web")
        self._templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self._templates.filters |= {"moment": _moment, "seconds": _seconds, "share": _share, "number": _number}
        self._templates.filters["in_words"] = lambda numbers: numbers_in_words(numbers, _moment)
        self.routes: Mapping[str, Callable[[web.Request], Awaitable[Page]]] = {  # by path
            "/": self.overview,
            "/methods": self.methods,
            "/method/{service}/{method:.+}": self.method,
            "/rollouts": self.rollouts,
            "/callers": self.callers,
            "/audit": self.audit,
        }

    def message(self, text: str) -> str:
        """A page that says one thing, such as an error."""
        return self._templates.get_template("message.html").render(title="xcp-gateway", text=text)

    def render(self, page: Page, request: web.Request, session: Session, *, may_change: bool) -> str:
        """A page as its session sees it: with forms where it may change something."""
        return self._templates.get_template(page.template).render(
            title=page.title,
            path=request.path,
            back=request.path_qs.partition("done=")[0].rstrip("?&"),
            done=request.query.get("done", ""),
            who=str(session.caller),
            secret=session.secret,
            may_change=may_change,
            **page.values,
        )

    async def overview(self, _request: web.Request) -> Page:
        """Health, buses, services, upstreams, calls and faults a second."""
        now, samples = time.monotonic(), self._samples
        if not samples or now - samples[-1][0] >= MIN_INTERVAL:
            samples.append((now, *await self._operations.totals()))
        pairs = zip(samples, list(samples)[1:], strict=False)
        rates = [((b[1] - a[1]) / (b[0] - a[0]), (b[2] - a[2]) / (b[0] - a[0])) for a, b in pairs]
        known = {
            "status": await self._operations.status(),
            "rates": rates,
            "plot": _line([calls for calls, _ in rates]),
        }
        return Page("overview.html", "Overview", known)

    async def methods(self, request: web.Request) -> Page:
        """A row for each method of a pattern."""
        pattern, asked = request.query.get("pattern", "").strip(), request.query.get("page", "")
        sort = request.query.get("sort", "method")
        found = await self._service.methods(pattern or "*")
        problem, rows = (found.why, []) if isinstance(found, StateRefused) else ("", list(found))
        rows.sort(key=SORTS.get(sort, SORTS["method"]))
        page = int(asked) if asked.isdigit() else 0
        known = {
            "rows": rows[page * ROWS : (page + 1) * ROWS],
            "total": len(rows),
            "page": page,
            "pages": -(-len(rows) // ROWS),
            "pattern": pattern,
            "sort": sort,
            "sorts": SORTS,
            "problem": problem,
            "longest": max((each.p99 or 0 for row in rows for each in (row.legacy, row.dbus)), default=0),
        }
        return Page("methods.html", "Methods", known)

    async def method(self, request: web.Request) -> Page:
        """One method: mode and its history, latency of both sides, differences side by side, callers."""
        name = f"{request.match_info['service']}/{request.match_info['method']}"
        rows = await self._service.methods(name)
        if isinstance(rows, StateRefused) or not rows:
            why = rows.why if isinstance(rows, StateRefused) else f"no mapped method is named '{name}'"
            raise web.HTTPNotFound(text=why)
        row = rows[0]
        identity, name = MethodId(row.service, row.method), f"{row.service}/{row.method}"
        counts = await self._traffic.state.evidence()
        sides = counters.sides(Counts() if isinstance(counts, StateRefused) else counts.get(identity, Counts()))
        history = await self._service.audit(ENTRIES, 0.0, name)
        differences = await self._service.diff(name, MISMATCHES)
        known = await callers(self._traffic, api.ClientsQuery(method=row.method, service=row.service, limit=CALLERS))
        values = {
            "row": row,
            "modes": [mode.value for mode in Mode],
            "explained": _found(self._service.explain(name)),
            "histograms": _histograms(sides.control.latency, sides.candidate.latency),
            "history": _found(history),
            "differences": _found(differences),
            "callers": _found(known),
        }
        return Page("method.html", name, values)

    async def rollouts(self, _request: web.Request) -> Page:
        """The rollouts, with their steps as a track, and buttons for what means something in their state."""
        rollouts = _found(await self._service.rollouts.list())
        return Page("rollouts.html", "Rollouts", {"rollouts": [(each, _buttons(each.state)) for each in rollouts]})

    async def callers(self, _request: web.Request) -> Page:
        """Who calls over which protocol: who would be hit if it ended."""
        protocols: dict[str, dict[tuple[str, str, str], list[api.ClientRow]]] = {}
        for row in _found(await callers(self._traffic, api.ClientsQuery(limit=10_000))):
            who = row["peer"], row["agent"], row["user"]
            protocols.setdefault(row["protocol"], {}).setdefault(who, []).append(row)
        return Page("callers.html", "Callers", {"protocols": protocols})

    async def audit(self, request: web.Request) -> Page:
        """The newest decisions."""
        subject = request.query.get("subject", "").strip()
        entries = _found(await self._service.audit(ENTRIES, 0.0, subject or None))
        return Page("audit.html", "Audit", {"entries": entries, "subject": subject})


def _found(answer: Any) -> Any:
    """The rows of an answer; a page with the reason if there are none."""
    if isinstance(answer, StateRefused):
        raise web.HTTPServiceUnavailable(text=answer.why)
    return answer


def _buttons(state: str) -> list[tuple[str, str, str]]:
    """The action, the label and the class of each button of a rollout."""
    verbs = Command.APPROVE, Command.RESUME, Command.PAUSE, Command.ABORT
    possible = [verb for verb in verbs if RolloutState(state) in COMMANDS[verb][0]]
    return [
        (f"{verb.value}-rollout", verb.value.capitalize(), "danger" if verb is Command.ABORT else "")
        for verb in possible
    ]


WIDTH, HEIGHT = 480, 80  # of a plot


def _line(values: Sequence[float]) -> str:
    """The points of a polyline for these values."""
    top = max(values, default=0) or 1
    step = WIDTH / max(1, len(values) - 1)
    return " ".join(f"{at * step:.1f},{HEIGHT - value / top * (HEIGHT - 4):.1f}" for at, value in enumerate(values))


def _histograms(legacy: Sequence[int], dbus: Sequence[int]) -> dict[str, Any] | None:
    """Bars of both sides over the same range of buckets; None without calls."""
    used = [index for side in (legacy, dbus) for index, count in enumerate(side) if count]
    if not used:
        return None
    first, last = min(used), max(used)
    wide = -(-(last - first + 1) // BARS)
    starts = range(first, last + 1, wide)
    sides = {"legacy": legacy or (0,) * BUCKETS, "dbus": dbus or (0,) * BUCKETS}
    bars = {name: [sum(side[start : start + wide]) for start in starts] for name, side in sides.items()}
    top = max(max(each) for each in bars.values()) or 1
    return {
        "bars": bars,
        "top": top,
        "least": BOUNDS[max(0, first - 1)],
        "most": BOUNDS[min(last, len(BOUNDS) - 1)],
    }


def _moment(when: float | None) -> str:
    return "" if when is None else datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def _share(value: float | None) -> str:
    """A share in per cent. Only 1 is shown as 100%."""
    if value is None:
        return "-"
    return f"{value:.0%}" if value in (0, 1) else f"{min(value * 100, 99.999):.3g}%"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
