"""Methods that move by themselves: what was seen, what is decided, and what persons say to it."""
