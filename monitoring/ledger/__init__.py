"""The durable log of decisions and outcomes."""
