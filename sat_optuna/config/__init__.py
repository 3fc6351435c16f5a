"""study.toml and the frozen values it is read into."""
