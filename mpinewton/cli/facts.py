"""What `methods` and `losses` print as JSON."""

from __future__ import annotations

import inspect
from typing import Any

from mpinewton.settings import describe


def facts_of(kind: Any, **known: Any) -> dict[str, Any]:
    """Name, documentation and settings of a method or loss, and what else is known of it; JSON-able."""
    settings = [dict(zip(("name", "default", "meaning"), row)) for row in describe(kind)]
    return {"name": kind.name, "about": inspect.getdoc(kind), **known, "settings": settings}
