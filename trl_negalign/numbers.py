"""
How many a number needs behind it to be shown with its error, in every table and picture. Below that neither an error
nor an interval is printed: a bootstrap of so few covers the truth too rarely.
"""

FEWEST = 10
