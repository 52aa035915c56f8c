"""What keeps answers coming when backends fail: pure state machines, their clock and chance given as arguments."""
