"""Measured figures, as ratios."""
