"""Predictions held against outcomes: quality per variant, before and after the labels arrive; pure."""
