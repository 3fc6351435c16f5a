"""Training a supernet, or the network of one scheme."""
