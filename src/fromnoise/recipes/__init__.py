"""The published systems and our own presets, one TOML file each."""
