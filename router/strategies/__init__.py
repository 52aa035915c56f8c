"""How an arm is chosen: pure functions of snapshot, unit, decision and time. Specified in docs/assignment.md."""

from router.strategies.assignment import Assignment, AssignmentReason, Strategy
from router.strategies.hashed import Hashed
from router.strategies.snapshot import Snapshot, assign, compile_experiment

__all__ = ["Assignment", "AssignmentReason", "Hashed", "Snapshot", "Strategy", "assign", "compile_experiment"]
