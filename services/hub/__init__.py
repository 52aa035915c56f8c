"""The hub: ledger and experiment control in one process."""
