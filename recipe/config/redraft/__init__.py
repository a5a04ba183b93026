"""The config group `redraft`."""
