"""A backbone with attention in each block, chosen by a scheme; and the network of one scheme."""
