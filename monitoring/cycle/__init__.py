"""The check cycle: from what the ledger adds up to findings, alerts and health."""
