"""xenstore in a mapping file: `expose` entries with the codec `xenstore`, `publish` and `on_change`."""
