"""Reports: pictures and tables from a run's logs."""
