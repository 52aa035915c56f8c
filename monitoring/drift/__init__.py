"""Drift of inputs, predictions and outcomes: detectors and sketches, pure."""
