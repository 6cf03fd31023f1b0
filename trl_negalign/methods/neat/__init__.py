"""NEAT (arXiv 2410.12194), and the published methods that are settings of its objective."""
