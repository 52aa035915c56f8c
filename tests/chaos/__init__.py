"""The chaos suite: real processes, real signals, real faults, and what callers and the ledger saw of them."""
