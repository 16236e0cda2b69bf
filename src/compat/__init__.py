"""Uses of private interfaces of dependencies, one per module, with a check that the interface exists and a fallback."""
