"""Does the daemon stay what it is over hours of operation and faults? `make soak HOURS=n`."""
