"""What a network costs: parameters, multiply-adds, milliseconds."""
