"""Runs one bento over gRPC."""
