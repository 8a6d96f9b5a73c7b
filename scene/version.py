"""The version of Scene. Checkpoints and metrics record it."""

VERSION = "2.0"
