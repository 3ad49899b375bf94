"""Pages in a browser, and results to make them of."""
