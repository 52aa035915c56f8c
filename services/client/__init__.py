"""The Python SDK for callers."""
