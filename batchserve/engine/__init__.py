"""asyncio around the core: the only place that turns a decision into a timer, a task or a thread hop."""
