"""Several processes that serve together: a supervisor, and workers that share sockets, state file and mapping."""
