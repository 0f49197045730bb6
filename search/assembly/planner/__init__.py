"""The best assemblies of neighbourhoods under budgets: which cuts, candidates and widths."""

from stillhouse.search.assembly.planner.assemblies import Assembly, assemblies
from stillhouse.search.assembly.planner.budget import Budget
from stillhouse.search.assembly.planner.front import front
from stillhouse.search.assembly.planner.graph import Disconnected, Edge
from stillhouse.search.assembly.planner.infeasible import Infeasible

__all__ = [
    "Assembly",
    "Budget",
    "Disconnected",
    "Edge",
    "Infeasible",
    "assemblies",
    "front",
]
