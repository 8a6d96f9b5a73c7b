"""Deploys the endpoint to AWS: python -m cloudformation up | key | invoke | model | status | logs | down."""


def line(words: str) -> str:
    """The command line that runs a command of this package."""
    return f"python -m cloudformation {words}"
