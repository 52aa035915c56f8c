"""The process that serves one exported bento over gRPC, without BentoML, training libraries or pickle."""
