"""Other servers' batching rules, written anew from their public descriptions, to compare ours with in the simulator.

Each is driven like `batchserve.core.policy.Policy` (`batchserve.core.simulator.Scheduled`). What they are told by hand
(sizes, timers, limits) is theirs to be tuned; none of it is part of the server.
"""
