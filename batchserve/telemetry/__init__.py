"""Listens to the engine: metrics, statistics, logs. Only `cli` imports it; nobody waits for it."""
