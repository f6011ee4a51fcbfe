"""One file per public data set: its layout to the raw layout."""
