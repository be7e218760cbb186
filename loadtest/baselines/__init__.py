"""What batchserve is measured against: each a server in one file, a process of its own that prints its URL."""
