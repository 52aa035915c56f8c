"""One module a step, `vNNNN_what.py`; its `revision` is "NNNN" and its `down_revision` the one before."""
