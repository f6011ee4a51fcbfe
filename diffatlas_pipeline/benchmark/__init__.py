"""Methods times settings times seeds: what to run, what came of it, and the table."""
