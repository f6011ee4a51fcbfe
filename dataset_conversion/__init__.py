"""One file per public data set, or way to keep data: its layout to the raw layout."""
