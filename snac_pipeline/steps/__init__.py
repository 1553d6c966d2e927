"""The pipeline's steps: settings in, figures out. Each command of the command line, and so each asset, is one of these.

Nothing is done twice: every step derives from its inputs what is missing, or finds its result by their hash. A module
per room, so that a command loads only what it needs.
"""
