"""Adapters to runtimes. They know batches of arrays, never requests, queues or sockets."""
