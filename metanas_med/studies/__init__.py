"""Studies: experiments and measurements with the toolkit. They import the other rooms; only ``cli`` imports them.

A study is a folder of this room whose ``__init__.py`` sets ``STUDY`` (see ``registry.py``) and imports nothing heavy.
``metanas-med study NAME`` finds it without another line anywhere.
"""
