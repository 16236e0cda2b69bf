"""A model, a datamodule, an optimizer and a callback for Gridlight."""
