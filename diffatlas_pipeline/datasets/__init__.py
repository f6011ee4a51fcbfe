"""The raw data set: what it says of itself, its cases, its check, its splits; and where data sets lie."""
