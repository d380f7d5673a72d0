"""The table of styles: what the mapping may name is what there is."""

from __future__ import annotations

import json
from importlib.resources import files

from adapters.xenstore.styles import STYLES
from adapters.xenstore.styles.base import Style
from gateway.mapping import xenstore_endpoints


def test_a_mapping_may_name_each_style_and_no_other() -> None:
    schema = json.loads(files("gateway.mapping").joinpath("mapping.schema.json").read_bytes())
    assert (
        set(schema["$defs"]["expose"]["properties"]["style"]["enum"]) == set(STYLES) == set(xenstore_endpoints.STYLES)
    )


def test_each_is_a_style() -> None:
    assert all(Style in style.__mro__ for style in STYLES.values())
