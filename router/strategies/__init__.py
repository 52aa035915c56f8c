"""How an arm is chosen: pure functions of snapshot, unit, decision and time."""
