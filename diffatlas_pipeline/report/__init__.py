"""One offline HTML page of predictions or of a comparison: tables, plots, pictures, a viewer."""
