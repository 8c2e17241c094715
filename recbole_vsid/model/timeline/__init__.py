"""Timeline models: one vector per item of a history, one pass over all positions, the tree of codes as output layer."""
