"""An honest load generator: open loop with latency from the intended send time, closed loop, and what came of it."""
