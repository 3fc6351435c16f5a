"""The road from study.toml to the report, for Python and for the command line."""
