"""Each query through the model once, for all candidates of its group."""
