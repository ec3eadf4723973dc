"""State in a module, changed from outside."""

STATE = {"n": 0}
LOG = []
SHARED = {}
