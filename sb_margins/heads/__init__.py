"""Heads: the walk over the classes, and which pairs make sense."""
