"""Nodes that show D-Bus state, and nodes whose change makes a call."""
