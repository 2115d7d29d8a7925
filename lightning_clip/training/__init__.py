"""How a run trains: optimizer, micro-batches, guards, seeds."""
