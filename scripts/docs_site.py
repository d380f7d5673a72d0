"""What the docs site needs beside mkdocs.yml, as hooks of mkdocs: pages from outside of docs/, and links to files.

The documents are written for a checkout, where a link may lead to any file. On the site it leads to a page; a link to
another file of the checkout becomes the file's name. A link to a file that does not exist stays, and mkdocs complains.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\]\\]|\\.)*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^```(\w+) \S+$", re.MULTILINE)  # "```toml gateway.toml": the name is for the tests
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`(?!\]))", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside."""
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 - as mkdocs calls it
    """Lead links to pages, and name other files."""
    here = page.file.src_uri
    source = next((name for name, target in OUTSIDE.items() if target == here), f"docs/{here}")
    parts = _CODE.split(_FENCE.sub(r"```\1", markdown))
    parts[::2] = [_LINK.sub(lambda found: _link(found, source, here), part) for part in parts[::2]]
    return "".join(parts)


def _link(found: re.Match[str], source: str, here: str) -> str:
    image, text, target, anchor = found.groups(default="")
    if not target or ":" in target:
        return found[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    page = OUTSIDE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
    if page is not None and not (ROOT / place).is_dir():
        return f"{image}[{text}]({posixpath.relpath(page, posixpath.dirname(here) or '.')}{anchor})"
    if not (ROOT / place).exists():
        return found[0]
    name = target.removeprefix("../").rstrip("/")
    return f"`{text}`" if text.strip("`/") == name and "`" not in text else f"{text} (`{place}`)"
