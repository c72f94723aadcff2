"""What a circuit's edges carry, how small a space of a head's numbers does its work, and whether looking right mends it."""
