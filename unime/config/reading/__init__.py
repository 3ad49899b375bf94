"""From YAML and words of a command line to values of settings."""
