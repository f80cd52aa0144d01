"""A filter that offers the firewall's own judgement of its variables, before anything is changed."""

from __future__ import annotations

import os
import sys
from typing import Any

# Ansible offers module_utils to modules only; this is the same code, on the controller.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "module_utils"))

from peat import ruleset


def firewall_problems(openings: Any, ssh_port: Any = 22, admin_sources: Any = ()) -> list[str]:
    """Return everything that is wrong with the firewall's variables, one text per problem."""
    try:
        typed = [{**opening, "port": int(opening["port"])} for opening in openings]
        ruleset.openings(typed, ssh_port=int(ssh_port), admin_sources=list(admin_sources))
    except ruleset.RulesetError as error:
        return error.problems
    return []


class FilterModule:
    """Ansible's door to the filter."""

    def filters(self) -> dict[str, Any]:
        """Return {name in templates: function}."""
        return {"firewall_problems": firewall_problems}
