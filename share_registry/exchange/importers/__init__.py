"""Adapters as other programs write them: one module a format, and one table of them (`formats`).

A format is known by what its files hold. Its module turns them into an adapter as PEFT has it, so
that nothing behind it knows where it came from but by a remark.
"""
