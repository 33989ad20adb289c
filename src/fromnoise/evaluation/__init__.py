"""The judge: models and samples against real images, as tables, pictures and advice."""
