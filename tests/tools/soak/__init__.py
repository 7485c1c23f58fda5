"""Check over hours of operation and faults that the daemon does not grow: `make soak HOURS=n`."""
