"""Plots: DET curves, histograms, training and loss curves, maps; one style.

matplotlib is imported only when something is drawn.
"""
