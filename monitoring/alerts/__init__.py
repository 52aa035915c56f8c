"""Alerts: raised, deduplicated, escalated, damped, silenced, resolved, told to handlers, and kept as history."""
