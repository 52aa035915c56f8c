"""Processes and tools around the data plane."""
