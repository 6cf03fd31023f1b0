"""The methods, a folder each: configuration, objective, trainer. No method imports another."""
