"""The web interface: train, watch, sample, edit and compare runs in a browser on this machine.

The server reads run folders and starts the command line; it imports no torch. What needs a model runs in a process of
its own (``fromnoise.web.compute``).
"""
