"""The settings of monitoring: in force, changed at run time, and their history."""
