"""How fast models are on this machine, by runtime: `rstinynet benchmark`."""
