"""The composition root: the one place where rooms meet.

Owns: what each command starts, in which order, and how it ends. Must not know: how any part works.
On failure: what was started is stopped, in the reverse order, and status 1 comes.
"""

from forebay.app.demo import demo, up
from forebay.app.serve import ServedGateway, serve

__all__ = ["ServedGateway", "demo", "serve", "up"]
