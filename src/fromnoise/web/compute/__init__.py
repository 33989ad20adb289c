"""The computing process of the web interface: models, data and images; ``python -m fromnoise.web.compute``."""
