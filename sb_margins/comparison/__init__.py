"""Losses side by side: plan, runs, statistics, geometry, report."""
