"""The tiled evaluator of a head."""
