"""Where a completion thinks, and where it speaks."""

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


def after_thinking(text: str) -> str:
    """What follows the last closed thought; nothing while a thought is still open."""
    visible = text.rpartition(_THINK_CLOSE)[2]
    return "" if _THINK_OPEN in visible else visible


def opened_thought(prompt: str) -> str:
    """``<think>`` if the text of a prompt ends with it, else nothing.

    Such a completion starts within a thought. It is stored and graded with the tag in front of it, so that an
    answer before the end of the thought is none.
    """
    return _THINK_OPEN if prompt.rstrip().endswith(_THINK_OPEN) else ""
