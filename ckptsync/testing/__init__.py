"""Shipped for other people's tests too: a clock, loopback servers, and the suite every store must pass."""
