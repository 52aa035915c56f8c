"""Alerts: raised, deduplicated, escalated, silenced, resolved, and handed to those who want to know."""
