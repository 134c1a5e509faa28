"""An atlas made here: the embedded model, and small models of other architectures with random weights."""
