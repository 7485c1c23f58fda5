"""Decide what one feature should do next: pure values and rules, no I/O, no clock, no logger."""
