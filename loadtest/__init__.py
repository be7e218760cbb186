"""Benchmarks of the running server, and what they need: models made on demand, load, and facts about the machine.

Run from a checkout with batchserve installed; see docs/benchmarks.md.
"""
