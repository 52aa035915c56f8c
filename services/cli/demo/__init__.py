"""The demo: the main job end to end, in a private home, verified by itself."""
