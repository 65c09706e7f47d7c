"""Simulators behind one contract; empty, so that a worker loads only what it needs."""
