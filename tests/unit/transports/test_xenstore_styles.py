"""The table of styles: what the mapping may name is what there is."""

from __future__ import annotations

import json
from importlib.resources import files

from adapters.transports.xenstore_style import Style
from adapters.transports.xenstore_styles import STYLES
from gateway.mapping import exposure


def test_a_mapping_may_name_each_style_and_no_other() -> None:
    schema = json.loads(files("gateway.mapping").joinpath("mapping.schema.json").read_bytes())
    assert set(schema["$defs"]["expose"]["properties"]["style"]["enum"]) == set(STYLES) == set(exposure.STYLES)


def test_each_is_a_style_and_is_named_after_its_file() -> None:
    for name, style in STYLES.items():
        assert Style in style.__mro__
        assert style.__module__.rpartition(".")[2] == f"xenstore_{name}"
