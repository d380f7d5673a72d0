"""Where the CPU time of a gateway under load goes, as a flame graph: `python -m tests.bench.flame`.

Samples by CPU time (ITIMER_PROF), so waiting for a core does not show. A sample is taken at the next step of Python, so
the time of a system call is that of the function which makes it. Writes docs/flame-*.svg: the width of a box is its
part of the samples, and what is on top of it was called by it.
"""

from __future__ import annotations

import html
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from gateway import cli
from tests.bench import load
from tests.bench.goals import GATEWAY, HERE, JSON, MANY, PASSED, Bench, bench, write_config
from tests.bench.load import Request, started, wait_for_port
from tests.kit.programs import free_port

ROOT = HERE.parents[1]
INTERVAL = 0.001  # seconds of CPU time; the kernel's tick may be longer
SECONDS = 40.0  # of load
WIDTH, HEIGHT, TOP = 1200, 17, 30  # pixels: of the graph, of a box, of the title
NARROWEST = 0.002  # part of all samples; smaller boxes are left out
LETTER = 6.6  # pixels
COLOURS = {"adapters": "#8fb8de", "gateway": "#f2b880", "": "#cccccc"}
GRAPHS = {
    "jsonrpc": ("JSON-RPC to D-Bus, 32 connections", JSON),
    "passthrough": ("XML-RPC to a legacy service, 32 connections", PASSED),
}


# In the gateway's process


def sampled(stacks: Path, *arguments: str) -> None:
    """Run the gateway; stacks and their counts are written when SIGUSR2 comes."""
    counts: Counter[tuple[str, ...]] = Counter()

    def sample(_signal: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            code = frame.f_code
            stack.append(f"{code.co_qualname} {code.co_filename}")
            frame = frame.f_back
        counts[tuple(reversed(stack))] += 1

    def save(_signal: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        temporary = stacks.with_suffix(".part")
        temporary.write_text("".join(f"{';'.join(stack)}\t{count}\n" for stack, count in counts.items()))
        temporary.rename(stacks)

    def begin(_signal: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    signal.signal(signal.SIGPROF, sample)
    signal.signal(signal.SIGUSR2, save)
    signal.signal(signal.SIGUSR1, begin)
    sys.argv = ["xcp-gateway", *arguments]
    cli.main()


# The graph


@dataclass
class Box:
    """A function, called along one path."""

    count: int = 0
    above: dict[str, Box] = field(default_factory=dict)


def merged(stacks: str) -> Box:
    """The boxes of all stacks: functions of the product, below the one that the event loop calls."""
    root = Box()
    for line in stacks.splitlines():
        names, count = line.rsplit("\t", 1)
        root.count += int(count)
        box = root
        for name in filter(None, map(_shown, names.split(";"))):
            box = box.above.setdefault(name, Box())
            box.count += int(count)
    return root


def _shown(name: str) -> str:
    """The function and its file; empty for one outside the product, or that runs the event loop."""
    function, _, path = name.partition(" ")
    file = path.removeprefix(f"{ROOT}/")
    is_ours = file.startswith(("adapters/", "gateway/")) and not file.startswith(("gateway/cli/", "gateway/server.py"))
    return f"{function.replace('<locals>.', '')} {file}" if is_ours else ""


def drawn(root: Box, title: str) -> str:
    """The graph as SVG: the event loop at the bottom."""
    shapes: list[str] = []
    depth = _draw(root, "the event loop, libraries and the kernel", 0.0, 0, root.count, shapes)
    height = TOP + (depth + 1) * HEIGHT
    text = f'<text x="4" y="18" font-size="14">{html.escape(title)}</text>'
    font = 'font-family="monospace" font-size="11"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {font}>'
        f'<rect width="100%" height="100%" fill="white"/>{text}'
        f'<g transform="translate(0,{height}) scale(1,-1)">{"".join(shapes)}</g></svg>\n'
    )


def _draw(box: Box, name: str, left: float, level: int, total: int, shapes: list[str]) -> int:
    """Add the shapes of a box and of all above it; returns the highest level."""
    width = WIDTH * box.count / total
    function, _, file = name.partition(" ")
    colour = COLOURS.get(file.partition("/")[0], COLOURS[""])
    label = (name if level == 0 else function)[: max(0, int((width - 4) / LETTER))]
    text = f"{name}: {100 * box.count / total:.1f} %"
    y = level * HEIGHT
    shapes.append(
        f'<g><title>{html.escape(text)}</title><rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{HEIGHT - 1}"'
        f' fill="{colour}" stroke="white"/>'
    )
    if len(label) > 2:
        place = f"translate({left + 3:.1f},{y + 5}) scale(1,-1)"
        shapes.append(f'<text transform="{place}">{html.escape(label)}</text>')
    shapes.append("</g>")
    highest = level
    for above, inner in sorted(box.above.items()):
        if inner.count >= NARROWEST * total:
            highest = max(highest, _draw(inner, above, left, level + 1, total, shapes))
        left += WIDTH * inner.count / total
    return highest


def measured(made: Bench, request: Request) -> str:
    """The stacks of a gateway of its own under load, as `sampled` writes them."""
    with tempfile.TemporaryDirectory() as name:
        port, stacks = free_port(), Path(name) / "stacks"
        config = write_config(Path(name), made.address, {**made.ports, GATEWAY: port})
        command = [sys.executable, "-m", "tests.bench.flame", str(stacks), "run", "--config", str(config)]
        with started(*command) as process:
            wait_for_port(port)
            load.rate(port, request, MANY, 1)
            process.send_signal(signal.SIGUSR1)
            load.rate(port, request, MANY, SECONDS)
            process.send_signal(signal.SIGUSR2)
            while not stacks.exists():
                load.rate(port, request, 1, 0.1)  # a signal is seen at the next step of Python
            return stacks.read_text()


def main() -> None:
    """Write the graphs."""
    with bench(1, MANY) as made:
        for name, (title, request) in GRAPHS.items():
            root = merged(measured(made, request))
            about = f"{title}: CPU time of the gateway ({root.count:,} samples)"
            (ROOT / "docs" / f"flame-{name}.svg").write_text(drawn(root, about))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sampled(Path(sys.argv[1]), *sys.argv[2:])
    else:
        main()
