"""Trains, evaluates and packages variants."""
