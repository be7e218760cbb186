"""The pure heart: tensors, requests, the queue and the rules. No clock, no await, no locks, no I/O; time comes in."""
