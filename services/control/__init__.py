"""Steers experiments."""
