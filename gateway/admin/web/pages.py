"""The pages: each gathers what it shows from the same operations as the commands, and renders a template.

Templates escape every value (jinja2, autoescape). A plot is an inline SVG of a fixed size.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.admin import api
from gateway.admin.handlers import Operations
from gateway.admin.service import AdminService
from gateway.admin.traffic import Traffic, callers
from gateway.admin.web.sessions import Session
from gateway.core.admin import counters
from gateway.core.admin.records import Counts, MethodId, StateRefused
from gateway.core.admin.views import MethodRow
from gateway.core.migration.modes import Mode
from gateway.core.migration.statistics import BOUNDS, BUCKETS

Page: TypeAlias = Callable[[web.Request, Session, bool], Awaitable[str]]

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


class Pages:
    """Renders each page for a session. `may_change`: whether it has forms."""

    def __init__(self, operations: Operations, service: AdminService, traffic: Traffic) -> None:
        self._operations = operations
        self._service = service
        self._traffic = traffic
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=SAMPLES)
        loader = PackageLoader("gateway.admin.web")
        self._templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self._templates.filters |= {"moment": _moment, "seconds": _seconds, "share": _share, "number": _number}

    def routes(self) -> Mapping[str, Page]:
        """Path -> page."""
        return {
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

    async def overview(self, request: web.Request, session: Session, may_change: bool) -> str:  # noqa: FBT001
        """Health, buses, services, upstreams, calls a second."""
        now = time.monotonic()
        if not self._samples or now - self._samples[-1][0] >= MIN_INTERVAL:
            self._samples.append((now, *await self._operations.totals()))
        rates = _rates(self._samples)
        known = {
            "status": await self._operations.status(),
            "rates": rates,
            "plot": _line([calls for calls, _ in rates]),
        }
        return self._render("overview.html", "Overview", request, session, may_change, **known)

    async def methods(self, request: web.Request, session: Session, may_change: bool) -> str:  # noqa: FBT001
        """A row for each method with a legacy service; `all` in the query: for each."""
        pattern = request.query.get("pattern", "").strip()
        sort = request.query.get("sort", "method")
        found = await self._service.methods(pattern or "*")
        problem = found.why if isinstance(found, StateRefused) else ""
        rows = [] if isinstance(found, StateRefused) else list(found)
        rows.sort(key=SORTS.get(sort, SORTS["method"]))
        longest = max((each.p99 or 0 for row in rows for each in (row.legacy, row.dbus)), default=0)
        page = max(0, int(request.query["page"])) if request.query.get("page", "").isdigit() else 0
        known: dict[str, Any] = {"rows": rows[page * ROWS : (page + 1) * ROWS], "total": len(rows), "page": page}
        known |= {"pages": -(-len(rows) // ROWS), "pattern": pattern, "sort": sort, "sorts": SORTS, "problem": problem}
        return self._render("methods.html", "Methods", request, session, may_change, longest=longest, **known)

    async def method(self, request: web.Request, session: Session, may_change: bool) -> str:  # noqa: FBT001
        """One method: mode and its history, latency of both sides, differences side by side, callers."""
        service, name = request.match_info["service"], request.match_info["method"]
        rows = await self._service.methods(f"{service}/{name}")
        if isinstance(rows, StateRefused) or not rows:
            why = rows.why if isinstance(rows, StateRefused) else f"no mapped method is named '{service}/{name}'"
            raise web.HTTPNotFound(text=why)
        row = rows[0]
        counts = await self._traffic.state.evidence()
        mine = NOTHING if isinstance(counts, StateRefused) else counts.get(MethodId(row.service, row.method), NOTHING)
        sides = counters.sides(mine)
        history = await self._service.audit(ENTRIES, 0.0, f"{row.service}/{row.method}")
        differences = await self._service.diff(f"{row.service}/{row.method}", MISMATCHES)
        known = await callers(self._traffic, api.ClientsQuery(method=row.method, service=row.service, limit=CALLERS))
        return self._render(
            "method.html",
            f"{row.service}/{row.method}",
            request,
            session,
            may_change,
            row=row,
            modes=[mode.value for mode in Mode],
            explained=_found(self._service.explain(f"{row.service}/{row.method}")),
            histograms=_histograms(sides.control.latency, sides.candidate.latency),
            history=_found(history),
            differences=_found(differences),
            callers=_found(known),
        )

    async def rollouts(self, request: web.Request, session: Session, may_change: bool) -> str:  # noqa: FBT001
        """The rollouts, with their steps as a track."""
        found = await self._service.rollouts.list()
        return self._render("rollouts.html", "Rollouts", request, session, may_change, rollouts=_found(found))

    async def callers(self, request: web.Request, session: Session, may_change: bool) -> str:  # noqa: FBT001
        """Who calls over which protocol: who would be hit if it ended."""
        known = _found(await callers(self._traffic, api.ClientsQuery(limit=10_000)))
        protocols: dict[str, dict[tuple[str, str, str], list[api.ClientRow]]] = {}
        for row in known:
            who = row["peer"], row["agent"], row["user"]
            protocols.setdefault(row["protocol"], {}).setdefault(who, []).append(row)
        return self._render("callers.html", "Callers", request, session, may_change, protocols=protocols)

    async def audit(self, request: web.Request, session: Session, may_change: bool) -> str:  # noqa: FBT001
        """The newest decisions."""
        subject = request.query.get("subject", "").strip()
        entries = _found(await self._service.audit(ENTRIES, 0.0, subject or None))
        return self._render("audit.html", "Audit", request, session, may_change, entries=entries, subject=subject)

    def _render(
        self,
        name: str,
        title: str,
        request: web.Request,
        session: Session,
        may_change: bool,  # noqa: FBT001
        **known: Any,
    ) -> str:
        return self._templates.get_template(name).render(
            title=title,
            path=request.path,
            back=request.path_qs.partition("done=")[0].rstrip("?&"),
            done=request.query.get("done", ""),
            who=str(session.caller),
            secret=session.secret,
            may_change=may_change,
            **known,
        )


NOTHING = Counts()


def _found(answer: Any) -> Any:
    """The rows of an answer; a page with the reason if there are none."""
    if isinstance(answer, StateRefused):
        raise web.HTTPServiceUnavailable(text=answer.why)
    return answer


def _rates(samples: Sequence[tuple[float, int, int]]) -> list[tuple[float, float]]:
    """Calls and faults a second between each two samples."""
    pairs = zip(samples, list(samples)[1:], strict=False)
    return [((b[1] - a[1]) / (b[0] - a[0]), (b[2] - a[2]) / (b[0] - a[0])) for a, b in pairs]


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
