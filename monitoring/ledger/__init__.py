"""The durable log of decisions and outcomes; docs/ledger.md tells what it promises."""
