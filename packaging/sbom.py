"""Print the SBOM of a wheel as CycloneDX 1.5: the gateway and each library that the environment has for it.

    .venv/bin/python packaging/sbom.py dist/xcp_gateway-VERSION-py3-none-any.whl

The libraries and their versions are those of the running environment, which is the one of the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gateway import __version__


def main(wheel: Path) -> None:
    """Print the document."""
    found: dict[str, Distribution] = {}
    _collect("xcp-gateway", found)
    root = found.pop("xcp-gateway")
    made = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": made.isoformat(),
            "component": {
                "type": "application",
                "bom-ref": _ref("xcp-gateway", __version__),
                "name": "xcp-gateway",
                "version": __version__,
                "purl": _ref("xcp-gateway", __version__),
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": [{"alg": "SHA-256", "content": digest}],
            },
        },
        "components": [_component(name, each) for name, each in sorted(found.items())],
        "dependencies": [
            {
                "ref": _ref(name, each.version),
                "dependsOn": sorted(_ref(one, found[one].version) for one in _needs(each)),
            }
            for name, each in sorted({**found, "xcp-gateway": root}.items())
        ],
    }
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def _collect(name: str, found: dict[str, Distribution]) -> None:
    if name not in found:
        found[name] = distribution(name)
        for each in _needs(found[name]):
            _collect(each, found)


def _needs(installed: Distribution) -> list[str]:
    """The libraries that it needs in this environment, without extras."""
    wanted = map(Requirement, installed.requires or ())
    names = [
        canonicalize_name(each.name) for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})
    ]
    return [name for name in dict.fromkeys(names) if _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _component(name: str, installed: Distribution) -> dict[str, Any]:
    said = installed.metadata.get("License-Expression") or installed.metadata.get("License") or ""
    licenses = [{"license": {"name": said.splitlines()[0]}}] if said else []
    ref = _ref(name, installed.version)
    return {
        "type": "library",
        "bom-ref": ref,
        "name": name,
        "version": installed.version,
        "purl": ref,
        "licenses": licenses,
    }


def _ref(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
