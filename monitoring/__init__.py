"""What happened: ledger, outcomes, and what follows from them."""
