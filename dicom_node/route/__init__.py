"""Which series goes to which algorithm, and why."""
