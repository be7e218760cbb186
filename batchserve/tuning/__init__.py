"""Finds out how a model should be set for a latency target: measures, predicts, confirms, and says why."""
