"""Losses side by side: plan, trainings, statistics, pictures, report."""
