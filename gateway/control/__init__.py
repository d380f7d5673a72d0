"""The operator's side, on its own socket."""
