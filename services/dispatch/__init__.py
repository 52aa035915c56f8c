"""The dispatch service and its simulator."""
