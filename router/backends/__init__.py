"""Links to the servers that run variants."""
