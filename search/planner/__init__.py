"""The best assemblies of neighbourhoods under budgets: which cuts, candidates and widths."""

from search.planner.assemblies import Assembly, assemblies
from search.planner.budget import Budget
from search.planner.front import front
from search.planner.graph import Disconnected, Edge
from search.planner.infeasible import Infeasible

__all__ = [
    "Assembly",
    "Budget",
    "Disconnected",
    "Edge",
    "Infeasible",
    "assemblies",
    "front",
]
