"""Synthetic voices for the demo corpus: eSpeak NG behind made-up vocal tracts."""
