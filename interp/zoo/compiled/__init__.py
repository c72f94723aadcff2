"""Models compiled from programs: the port from tracr, and how they are measured."""
