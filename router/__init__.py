"""The data plane: assigns, asks, falls back, records."""
