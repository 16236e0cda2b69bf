"""Uses of private interfaces of libraries, one module each, with a check of what they rely on."""
